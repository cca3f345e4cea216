// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Page tables that are replaced or taken away while faults are outstanding: the kernel aborts them
//! by itself.

use vhost_user_vsva::wire::{
    EventRecord,
    ResponseCode::{Invalid, Success},
};

use super::{
    common::{raise, raise_on, resume, serve_next, serve_one, served},
    Platform,
};
use crate::{
    hardware::{Attachment, Hardware},
    session::{access, Session},
    tally,
    wait::{readable, until, LIMIT},
};

fn faults(hardware: &mut dyn Hardware, session: &mut Session, count: u64) -> Vec<EventRecord> {
    for page in 0..count {
        raise(hardware, page);
    }
    (0..count).map(|_| session.event()).collect()
}

/// Waits until the device has seen so many aborts, as far as that can be seen.
fn wait_aborts(hardware: &dyn Hardware, count: u64) {
    tally::aborted(count);
    if hardware.tells_outcomes() {
        until("the aborts", || {
            (hardware.aborts(0) == Some(count)).then_some(())
        });
    }
}

/// What the guest answers, which does not know of the abort.
fn late_answers(session: &mut Session, events: &[EventRecord]) {
    for event in events {
        session.command(resume(event, Success));
    }
}

pub fn test_detach_with_faults_outstanding_aborts_them(platform: Platform) {
    let (mut hardware, mut session) = served(platform, 1);
    let events = faults(&mut *hardware, &mut session, 2);

    session.attach.hold(0).expect("HOLD");
    // Nobody reads this one.
    raise(&mut *hardware, 2);
    assert!(readable(hardware.fault_fd(), LIMIT));
    hardware.attach(0, Attachment::Detached).expect("detach");
    session.attach.unhold(0, true).expect("UNHOLD");

    wait_aborts(&*hardware, 3);
    let config = session.config();
    assert_eq!(
        (config.outstanding.get(), config.answers_aborted.get()),
        (0, 2)
    );
    late_answers(&mut session, &events);
    assert_eq!(session.config().unknown_answers.get(), 2);
    hardware.attach(0, Attachment::First).expect("attach");
    serve_one(&mut *hardware, &mut session, 3);
}

pub fn test_replace_with_faults_outstanding_aborts_them_and_serves_new_ones(platform: Platform) {
    let (mut hardware, mut session) = served(platform, 1);
    for (round, to) in [Attachment::Second, Attachment::First, Attachment::Second]
        .into_iter()
        .enumerate()
    {
        let events = faults(&mut *hardware, &mut session, 5);

        session.attach.hold(0).expect("HOLD");
        hardware.attach(0, to).expect("replace");
        session.attach.unhold(0, true).expect("UNHOLD");

        tally::aborted(5);
        late_answers(&mut session, &events);
        serve_one(&mut *hardware, &mut session, 100 + round as u64);
    }
    let config = session.config();
    assert_eq!(
        (config.answers_aborted.get(), config.unknown_answers.get()),
        (15, 15)
    );
    assert_eq!(
        (config.outstanding.get(), config.faults_answered.get()),
        (0, 3)
    );
}

pub fn test_replace_without_hold_makes_answers_refused_and_counted(platform: Platform) {
    let (mut hardware, mut session) = served(platform, 1);
    let events = faults(&mut *hardware, &mut session, 3);

    hardware.attach(0, Attachment::Second).expect("replace");
    tally::aborted(3);
    late_answers(&mut session, &events);

    let config = session.config();
    assert_eq!(
        (config.outstanding.get(), config.answers_aborted.get()),
        (0, 3)
    );
    assert_eq!(
        (config.faults_answered.get(), config.unknown_answers.get()),
        (0, 0)
    );
    serve_one(&mut *hardware, &mut session, 3);
}

pub fn test_cookie_of_aborted_fault_comes_again_as_new_fault(platform: Platform) {
    let (mut hardware, mut session) = served(platform, 1);
    let old = faults(&mut *hardware, &mut session, 2);

    hardware.attach(0, Attachment::Second).expect("replace");
    tally::aborted(2);
    // The kernel gives its lowest free cookie, which is that of the first fault.
    serve_one(&mut *hardware, &mut session, 10);

    assert_eq!(session.config().answers_aborted.get(), 1);
    late_answers(&mut session, &old);
    let config = session.config();
    assert_eq!(
        (config.outstanding.get(), config.faults_answered.get()),
        (0, 1)
    );
    assert_eq!(
        (config.answers_aborted.get(), config.unknown_answers.get()),
        (2, 1)
    );
}

pub fn test_hold_without_replace_keeps_faults_and_answers(platform: Platform) {
    let (mut hardware, mut session) = served(platform, 1);
    let first = raise(&mut *hardware, 0);
    let event = session.event();

    session.attach.hold(0).expect("HOLD");
    session.handle(&mut *hardware, &event);
    let second = raise(&mut *hardware, 1);
    assert!(readable(hardware.fault_fd(), LIMIT));
    let config = session.config();
    assert_eq!(
        (
            config.outstanding.get(),
            config.faults_read.get(),
            config.faults_answered.get()
        ),
        (1, 1, 0)
    );
    session.attach.unhold(0, false).expect("UNHOLD");

    session.expect_done(&mut *hardware, first);
    serve_next(&mut *hardware, &mut session, second);
    session.finish(2);
}

pub fn test_batch_with_aborted_entry_is_written_to_its_end(platform: Platform) {
    let (mut hardware, mut session) = served(platform, 2);
    let mut ids = Vec::new();
    let mut events = Vec::new();
    for (number, device) in [(0, 0), (1, 1), (2, 0)] {
        ids.push(raise_on(&mut *hardware, device, number));
        let event = session.event();
        hardware.resolve(&access(&event)).expect("page");
        events.push(event);
    }

    // The second device's fault is aborted behind the back-end's back.
    hardware.attach(1, Attachment::Second).expect("replace");
    tally::aborted(1);
    session.attach.hold(0).expect("HOLD");
    late_answers(&mut session, &events);
    // All three answers are written by one call.
    session.attach.unhold(0, false).expect("UNHOLD");
    tally::retried(2);

    session.expect_done(&mut *hardware, ids[0]);
    session.expect_done(&mut *hardware, ids[2]);
    let config = session.config();
    assert_eq!(
        (config.outstanding.get(), config.faults_answered.get()),
        (0, 2)
    );
    assert_eq!(config.answers_aborted.get(), 1);
    session.answer_again(&events[0], Invalid);
}
