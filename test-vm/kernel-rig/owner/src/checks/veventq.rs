// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Events that are no stalls, through the kernel's vEVENTQ.

use std::{
    ops::Range,
    os::fd::{AsFd, OwnedFd},
};

use rustix::io::read;
use vhost_user_vsva::{
    frontend::{Companions, Event},
    wire::{EventHeader, EVENT_RECORD_SIZE},
};

use super::common::{page, raise};
use crate::{
    hardware::{vsid, Faults, Hardware, Nested},
    session::Session,
    testdev::Outcome,
    wait::{readable, until, LIMIT},
};

const F_TRANSLATION: u8 = 0x10;
/// A record in the vEVENTQ, with the kernel's header.
const VEVENT_SIZE: usize = 8 + EVENT_RECORD_SIZE;

/// Reads pages that are not mapped; the accesses end at once.
fn terminated_reads(hardware: &mut Nested, pages: Range<u64>) {
    for number in pages {
        let id = raise(hardware, number);
        let outcome = until("the end of the access", || hardware.outcome(id));
        assert_eq!(outcome, Outcome::Aborted);
    }
}

fn expect_record(session: &mut Session, number: u64) {
    let event = session.front_end.wait_event().expect("an event");
    let Event::Smmu { record, .. } = event else {
        panic!("{event:?} where a record was expected")
    };
    let header = EventHeader::decode(&record);
    assert_eq!(
        header,
        EventHeader {
            kind: F_TRANSLATION,
            sid: vsid(0),
            stall: false
        }
    );
    assert_eq!(address(&record), page(number));
}

fn expect_lost(session: &mut Session, count: u32) {
    let lost = Event::EventsLost { device: 0, count };
    assert_eq!(session.message(), lost);
}

fn address(record: &[u8; EVENT_RECORD_SIZE]) -> u64 {
    u64::from_le_bytes(record[16..24].try_into().expect("8 bytes"))
}

/// A device whose faults terminate, and a vEVENTQ for so many of their events.
fn terminating(depth: u32) -> (Nested, OwnedFd) {
    let hardware = Nested::new(0..1, Faults::Terminate).expect("test device");
    let veventq = hardware.veventq(depth).expect("vEVENTQ");
    (hardware, veventq)
}

fn attach(hardware: &Nested, veventq: &OwnedFd) -> Session {
    let mut session = Session::start();
    let companions = Companions {
        veventq: Some(veventq.as_fd()),
        ..Companions::default()
    };
    session.attach_with(hardware, 0, companions);
    session
}

pub fn test_veventq_records_reach_the_guest_in_order() {
    let (mut hardware, veventq) = terminating(64);
    let mut session = attach(&hardware, &veventq);

    terminated_reads(&mut hardware, 0..10);

    for number in 0..10 {
        expect_record(&mut session, number);
    }
    session.finish(0);
}

pub fn test_veventq_overflow_is_reported_in_its_place() {
    let (mut hardware, veventq) = terminating(4);
    // Nobody reads the queue yet, and it has room for four.
    terminated_reads(&mut hardware, 0..7);
    assert!(readable(&veventq, LIMIT));

    let mut session = attach(&hardware, &veventq);

    for number in 0..4 {
        expect_record(&mut session, number);
    }
    expect_lost(&mut session, 3);
    terminated_reads(&mut hardware, 7..8);
    expect_record(&mut session, 7);
    session.finish(0);
}

pub fn test_veventq_sequence_gap_is_reported_in_its_place() {
    let (mut hardware, veventq) = terminating(64);
    let mut session = attach(&hardware, &veventq);
    terminated_reads(&mut hardware, 0..1);
    expect_record(&mut session, 0);

    // Somebody else takes two events.
    session.backend().pause();
    terminated_reads(&mut hardware, 1..3);
    for _ in 1..3 {
        assert!(readable(&veventq, LIMIT));
        let got = read(&veventq, &mut [0; VEVENT_SIZE]);
        assert_eq!(got, Ok(VEVENT_SIZE));
    }
    terminated_reads(&mut hardware, 3..4);
    session.backend().resume();

    expect_lost(&mut session, 2);
    expect_record(&mut session, 3);
    session.finish(0);
}
