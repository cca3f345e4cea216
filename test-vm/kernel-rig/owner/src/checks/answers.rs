// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest can answer.

use vhost_user_vsva::wire::{
    EventRecord,
    ResponseCode::{Invalid, Success},
    SmmuCommand,
};

use super::{
    common::{page, raise, raise_on, resume, served, served_nested},
    Platform,
};
use crate::{
    hardware::{vsid, Access, AccessId, Hardware, Nested},
    session::{access, Session},
    tally,
    testdev::Outcome,
    wait::until,
};

/// Reads `count` pages; the accesses and their events, in the order of the pages.
fn fault_pages(
    hardware: &mut dyn Hardware,
    session: &mut Session,
    count: u64,
) -> (Vec<AccessId>, Vec<EventRecord>) {
    let ids = (0..count).map(|page| raise(hardware, page)).collect();
    let mut events: Vec<_> = (0..count).map(|_| session.event()).collect();
    events.sort_by_key(|event| event.addr);
    (ids, events)
}

fn resolve(hardware: &mut dyn Hardware, event: &EventRecord) {
    hardware.resolve(&access(event)).expect("page");
}

pub fn test_answers_out_of_order_reach_the_kernel(platform: Platform) {
    let (mut hardware, mut session) = served(platform, 1);
    let (ids, events) = fault_pages(&mut *hardware, &mut session, 5);

    for index in [2, 4, 0, 3, 1] {
        session.handle(&mut *hardware, &events[index]);
        session.expect_done(&mut *hardware, ids[index]);
    }

    session.finish(5);
}

pub fn test_cookie_reused_at_once_is_a_new_fault(platform: Platform) {
    let (mut hardware, mut session) = served(platform, 1);
    let (ids, events) = fault_pages(&mut *hardware, &mut session, 2);

    // Each time one of two faults is answered, the next gets its cookie.
    let [mut first, mut second] = [(ids[0], events[0]), (ids[1], events[1])];
    for number in 2..50 {
        session.handle(&mut *hardware, &first.1);
        let id = raise(&mut *hardware, number);
        let event = session.event();
        assert_eq!(event.addr, page(number));
        session.expect_done(&mut *hardware, first.0);
        (first, second) = (second, (id, event));
    }

    for (id, event) in [first, second] {
        session.handle(&mut *hardware, &event);
        session.expect_done(&mut *hardware, id);
    }
    session.finish(50);
}

pub fn test_answer_to_unknown_stag_is_counted(platform: Platform) {
    let (mut hardware, mut session) = served(platform, 1);
    let (ids, events) = fault_pages(&mut *hardware, &mut session, 1);
    let event = events[0];

    let (sid, stag) = (event.sid, event.stag);

    for (sid, stag) in [(sid, stag ^ 1), (sid + 1, stag)] {
        session.command(SmmuCommand::Resume {
            sid,
            stag,
            code: Invalid,
        });
    }
    session.handle(&mut *hardware, &event);
    session.expect_done(&mut *hardware, ids[0]);
    session.command(resume(&event, Invalid));

    assert_eq!(session.config().unknown_answers.get(), 3);
    session.finish(1);
}

pub fn test_stall_term_answers_every_fault_of_the_stream(platform: Platform) {
    let (mut hardware, mut session) = served(platform, 2);
    let other = raise_on(&mut *hardware, 1, 100);
    let other_event = session.event();
    let (ids, _) = fault_pages(&mut *hardware, &mut session, 4);

    session.command(SmmuCommand::StallTerm { sid: vsid(0) });
    tally::aborted(4);

    for id in ids {
        session.expect_aborted(&mut *hardware, id);
    }
    session.handle(&mut *hardware, &other_event);
    session.expect_done(&mut *hardware, other);
    session.finish(5);
}

pub fn test_mixed_answers_out_of_order_end_each_access_as_told() {
    let (mut hardware, mut session) = served_nested(1);
    let (ids, events) = fault_pages(&mut hardware, &mut session, 5);
    let codes = [Success, Invalid, Success, Invalid, Success];

    for index in [2, 4, 0, 3, 1] {
        resolve(&mut hardware, &events[index]);
        session.answer(&events[index], codes[index]);
    }

    for (id, code) in ids.into_iter().zip(codes) {
        let outcome = until("the end of the access", || hardware.outcome(id));
        assert_eq!(outcome == Outcome::Aborted, code == Invalid);
    }
    session.finish(5);
}

/// Answers a fault with these values of Ac and Ab, bits 12 and 13 of CMD_RESUME. How the access
/// ended.
fn respond(hardware: &mut Nested, session: &mut Session, number: u64, bits: u8) -> Outcome {
    let id = hardware
        .access(0, &Access::read(page(number)))
        .expect("access");
    let event = session.event();
    resolve(hardware, &event);
    let mut command = resume(&event, Invalid).encode();
    command[1] = bits << 4;
    session.raw_command(command);
    until("the end of the access", || hardware.outcome(id))
}

pub fn test_resume_without_retry_aborts_the_access() {
    let (mut hardware, mut session) = served_nested(1);

    for (number, bits) in [(0, 0b00), (1, 0b10)] {
        let outcome = respond(&mut hardware, &mut session, number, bits);
        assert_eq!(outcome, Outcome::Aborted);
    }

    tally::aborted(2);
    session.finish(2);
}

pub fn test_resume_with_retry_makes_the_access_whatever_else_it_says() {
    let (mut hardware, mut session) = served_nested(1);

    for (number, bits) in [(0, 0b01), (1, 0b11)] {
        let outcome = respond(&mut hardware, &mut session, number, bits);
        let crc = Nested::expected_crc(page(number));
        assert_eq!(outcome, Outcome::Done { crc });
    }

    tally::retried(2);
    session.finish(2);
}
