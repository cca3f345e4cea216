// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Drain, save and load over a real fault queue.

use vhost_user_vsva::{
    core::Phase,
    frontend::Event,
    wire::{Submission, U32, U64},
};

use super::{
    common::{raise, served},
    Platform,
};
use crate::{
    session::Session,
    wait::{readable, until, LIMIT},
};

fn submission(ticket: u64) -> Submission {
    Submission {
        region: U32::new(2),
        size: U32::new(8),
        offset: U64::new(ticket * 64),
        ticket: U64::new(ticket),
        data: [ticket.to_le_bytes()[0]; 16],
        reserved: [0; 8],
    }
}

fn phase(session: &mut Session) -> u32 {
    session.config().phase.get()
}

pub fn test_drain_waits_for_the_last_answer(platform: Platform) {
    let (mut hardware, mut session) = served(platform, 1);
    let ids = [raise(&mut *hardware, 0), raise(&mut *hardware, 1)];
    let events = [session.event(), session.event()];

    session.front_end.drain(1, LIMIT).expect("DRAIN");
    session.front_end.quiesced(0, 1).expect("DEVICE_QUIESCED");
    session.handle(&mut *hardware, &events[0]);
    assert_eq!(phase(&mut session), Phase::Draining as u32);
    session.handle(&mut *hardware, &events[1]);

    let Event::Drained(drained) = session.message() else {
        panic!("not drained")
    };
    assert_eq!((drained.generation.get(), drained.answered.get()), (1, 2));
    for id in ids {
        session.expect_done(&mut *hardware, id);
    }
    session.finish(2);
}

pub fn test_drain_does_not_end_while_held(platform: Platform) {
    let (mut hardware, mut session) = served(platform, 1);
    session.attach.hold(0).expect("HOLD");
    let id = raise(&mut *hardware, 0);
    // Stalled: what has not got as far is still in flight, and a device with that has not quiesced.
    assert!(readable(hardware.fault_fd(), LIMIT));

    session.front_end.drain(1, LIMIT).expect("DRAIN");
    session.front_end.quiesced(0, 1).expect("DEVICE_QUIESCED");
    session.front_end.wait_completed().expect("portal ring");
    assert_eq!(phase(&mut session), Phase::Draining as u32);
    session.attach.unhold(0, false).expect("UNHOLD");

    let event = session.event();
    session.handle(&mut *hardware, &event);
    let Event::Drained(drained) = session.message() else {
        panic!("not drained")
    };
    assert_eq!(drained.answered.get(), 1);
    session.expect_done(&mut *hardware, id);
    session.finish(1);
}

pub fn test_drain_with_faults_that_keep_coming_saves_and_loads(platform: Platform) {
    const BEFORE: u64 = 16;
    const WHILE: u64 = 64;
    const PENDING: u64 = 20;
    let (mut hardware, mut source) = served(platform, 1);
    for page in 0..BEFORE {
        raise(&mut *hardware, page);
    }

    source.front_end.drain(1, LIMIT).expect("DRAIN");
    for ticket in 0..PENDING {
        source
            .front_end
            .submit(0, &submission(ticket))
            .expect("SUBMIT");
    }
    // Each access that ends makes place for another: the faults keep coming.
    for page in BEFORE..BEFORE + WHILE {
        let event = source.event();
        source.handle(&mut *hardware, &event);
        raise(&mut *hardware, page);
    }
    for _ in 0..BEFORE {
        let event = source.event();
        source.handle(&mut *hardware, &event);
    }
    until("the device being quiet", || {
        hardware.is_quiet(0).then_some(())
    });
    assert_eq!(phase(&mut source), Phase::Draining as u32);
    source.front_end.quiesced(0, 1).expect("DEVICE_QUIESCED");
    let Event::Drained(drained) = source.message() else {
        panic!("not drained")
    };
    assert_eq!(u64::from(drained.answered.get()), BEFORE + WHILE);
    assert_eq!(u64::from(drained.pending.get()), PENDING);
    source.front_end.stop().expect("stop");
    let state = source.front_end.save().expect("save");

    let mut elsewhere = platform.other_hardware();
    let mut destination = Session::start();
    destination.attach(&*elsewhere, 0);
    destination.front_end.stop().expect("stop");
    destination.front_end.load(&state).expect("load");
    destination.front_end.start().expect("start");
    assert_eq!(phase(&mut destination), Phase::Loaded as u32);
    // Faults are served before the replay and during it.
    let id = raise(&mut *elsewhere, 0);
    let event = destination.event();
    destination.front_end.release(0).expect("RELEASE");
    for ticket in 0..PENDING {
        let expected = Event::Replay {
            device: 0,
            submission: submission(ticket),
        };
        assert_eq!(destination.message(), expected);
    }
    let Event::Released(released) = destination.message() else {
        panic!("not released")
    };
    assert_eq!(
        (released.next_ticket.get(), released.replayed.get()),
        (PENDING, PENDING)
    );
    destination.handle(&mut *elsewhere, &event);
    destination.expect_done(&mut *elsewhere, id);
    destination.finish(BEFORE + WHILE + 1);
}
