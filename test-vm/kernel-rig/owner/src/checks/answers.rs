// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest can answer.

use vhost_user_vsva::wire::{
    EventRecord,
    ResponseCode::{Invalid, Success},
    SmmuCommand,
};

use super::{nested, Platform};
use crate::{
    hardware::{vsid, Access, AccessId, Hardware, VA},
    session::Session,
    smmu::PAGE,
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
    let ids = (0..count)
        .map(|page| {
            hardware
                .access(0, &Access::read(VA + page * PAGE).ssid(1))
                .expect("access")
        })
        .collect();
    let mut events: Vec<_> = (0..count).map(|_| session.event()).collect();
    events.sort_by_key(|event| event.addr);
    (ids, events)
}

fn resolve(hardware: &mut dyn Hardware, event: &EventRecord) {
    let access = Access {
        write: event.write,
        ssid: event.ssid,
        ..Access::read(event.addr)
    };
    hardware.resolve(&access).expect("page");
}

pub fn test_answers_out_of_order_reach_the_kernel(platform: Platform) {
    let mut hardware = platform.hardware(1);
    let mut session = Session::start();
    session.attach(&*hardware, 0);
    let (ids, events) = fault_pages(&mut *hardware, &mut session, 5);

    for index in [2, 4, 0, 3, 1] {
        session.handle(&mut *hardware, &events[index]);
        session.expect_done(&mut *hardware, ids[index]);
    }

    session.finish(5);
}

pub fn test_answer_to_unknown_stag_is_counted(platform: Platform) {
    let mut hardware = platform.hardware(1);
    let mut session = Session::start();
    session.attach(&*hardware, 0);
    let (ids, events) = fault_pages(&mut *hardware, &mut session, 1);
    let event = events[0];

    session.command(SmmuCommand::Resume {
        sid: event.sid,
        stag: event.stag ^ 1,
        code: Invalid,
    });
    session.command(SmmuCommand::Resume {
        sid: event.sid + 1,
        stag: event.stag,
        code: Invalid,
    });
    session.handle(&mut *hardware, &event);
    session.expect_done(&mut *hardware, ids[0]);
    session.command(SmmuCommand::Resume {
        sid: event.sid,
        stag: event.stag,
        code: Invalid,
    });

    assert_eq!(session.config().unknown_answers.get(), 3);
    session.finish(1);
}

pub fn test_stall_term_answers_every_fault_of_the_stream(platform: Platform) {
    let mut hardware = platform.hardware(2);
    let mut session = Session::start();
    session.attach(&*hardware, 0);
    session.attach_to_same_queue(&*hardware, 1);
    let other = hardware
        .access(1, &Access::read(VA + 100 * PAGE).ssid(1))
        .expect("access");
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
    let mut hardware = nested(1);
    let mut session = Session::start();
    session.attach(&hardware, 0);
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

pub fn test_every_other_response_aborts_the_access() {
    let mut hardware = nested(1);
    let mut session = Session::start();
    session.attach(&hardware, 0);
    // Ac and Ab, bits 12 and 13 of the command: only Ac alone is a retry.
    for (page, response) in [(0, 0b00), (1, 0b10), (2, 0b11)] {
        let id = hardware
            .access(0, &Access::read(VA + page * PAGE))
            .expect("access");
        let event = session.event();
        resolve(&mut hardware, &event);
        let mut command = SmmuCommand::Resume {
            sid: event.sid,
            stag: event.stag,
            code: Success,
        }
        .encode();
        command[1] = response << 4;

        session.raw_command(command);
        tally::aborted(1);

        session.expect_aborted(&mut hardware, id);
    }
    session.finish(3);
}
