// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Events that are no stalls, through the kernel's vEVENTQ.

use std::os::fd::AsFd;

use vhost_user_vsva::{
    frontend::{Companions, Event},
    wire::{EventHeader, EVENT_RECORD_SIZE},
};

use crate::{
    hardware::{vsid, Access, Faults, Hardware, Nested, VA},
    session::Session,
    smmu::PAGE,
    testdev::Outcome,
    wait::{readable, until, LIMIT},
};

const F_TRANSLATION: u8 = 0x10;

/// Reads pages that are not mapped; the accesses end at once.
fn terminated_reads(hardware: &mut Nested, pages: std::ops::Range<u64>) {
    for page in pages {
        let id = hardware
            .access(0, &Access::read(VA + page * PAGE).ssid(1))
            .expect("access");
        let outcome = until("the end of the access", || hardware.outcome(id));
        assert_eq!(outcome, Outcome::Aborted);
    }
}

fn expect_record(session: &mut Session, page: u64) {
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
    assert_eq!(address(&record), VA + page * PAGE);
}

fn address(record: &[u8; EVENT_RECORD_SIZE]) -> u64 {
    u64::from_le_bytes(record[16..24].try_into().expect("8 bytes"))
}

pub fn test_veventq_records_reach_the_guest_in_order() {
    let mut hardware = Nested::new(0..1, Faults::Terminate).expect("test device");
    let veventq = hardware.veventq(64).expect("vEVENTQ");
    let mut session = Session::start();
    let companions = Companions {
        veventq: Some(veventq.as_fd()),
        ..Companions::default()
    };
    session.attach_with(&hardware, 0, companions);

    terminated_reads(&mut hardware, 0..10);

    for page in 0..10 {
        expect_record(&mut session, page);
    }
    session.finish(0);
}

pub fn test_veventq_overflow_is_reported_in_its_place() {
    let mut hardware = Nested::new(0..1, Faults::Terminate).expect("test device");
    let veventq = hardware.veventq(4).expect("vEVENTQ");
    // Nobody reads the queue yet, and it has room for four.
    terminated_reads(&mut hardware, 0..7);
    assert!(readable(&veventq, LIMIT));
    let mut session = Session::start();
    let companions = Companions {
        veventq: Some(veventq.as_fd()),
        ..Companions::default()
    };
    session.attach_with(&hardware, 0, companions);

    for page in 0..4 {
        expect_record(&mut session, page);
    }
    assert_eq!(
        session.message(),
        Event::EventsLost {
            device: 0,
            count: 3
        }
    );
    terminated_reads(&mut hardware, 7..8);
    expect_record(&mut session, 7);
    session.finish(0);
}
