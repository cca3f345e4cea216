// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Back-ends that are killed.

use vhost_user_vsva::frontend::Companions;

use super::{
    common::{page, raise, serve_next, served},
    Platform,
};
use crate::{
    session::Session,
    tally,
    wait::{readable, LIMIT},
};

pub fn test_backend_killed_successor_aborts_what_it_had_read(platform: Platform) {
    let (mut hardware, mut first) = served(platform, 1);
    let read = [raise(&mut *hardware, 0), raise(&mut *hardware, 1)];
    let _events = [first.event(), first.event()];
    first.attach.hold(0).expect("HOLD");
    let unread = raise(&mut *hardware, 2);
    assert!(readable(hardware.fault_fd(), LIMIT));
    first.backend.take().expect("started here").kill();

    let mut second = Session::start();
    let companions = Companions {
        recover: true,
        ..Companions::default()
    };
    let text = second.attach_with(&*hardware, 0, companions);

    assert_eq!(text, "2 left-over faults aborted");
    tally::aborted(2);
    for id in read {
        second.expect_aborted(&mut *hardware, id);
    }
    let event = second.event();
    assert_eq!(event.addr, page(2));
    second.handle(&mut *hardware, &event);
    second.expect_done(&mut *hardware, unread);
    second.finish(1);
}

pub fn test_recover_with_nothing_left_aborts_nothing(platform: Platform) {
    let mut hardware = platform.hardware(1);
    let unread = raise(&mut *hardware, 0);
    assert!(readable(hardware.fault_fd(), LIMIT));
    let mut session = Session::start();

    let companions = Companions {
        recover: true,
        ..Companions::default()
    };
    let text = session.attach_with(&*hardware, 0, companions);

    assert_eq!(text, "");
    serve_next(&mut *hardware, &mut session, unread);
    session.finish(1);
}
