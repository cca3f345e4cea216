// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faults on their way from the device to the guest, and back.

use vhost_user_vsva::wire::ResponseCode::Success;

use super::{
    common::{page, raise, raise_on, served, served_nested},
    Platform,
};
use crate::{
    hardware::{vsid, Access, Hardware, Nested, VA},
    smmu::PAGE,
    testdev::Outcome,
    wait::until,
};

/// More than one read of the back-end's, less than its table.
const BURST: u64 = 300;

fn check_fault(platform: Platform, access: Access) {
    let (mut hardware, mut session) = served(platform, 1);

    let id = hardware.access(0, &access).expect("access");
    let event = session.event();

    assert_eq!(
        (event.sid, event.ssid, event.addr),
        (vsid(0), access.ssid, access.addr)
    );
    assert_eq!(
        (event.write, event.exec, event.privileged),
        (access.write, access.exec, access.privileged)
    );
    session.handle(&mut *hardware, &event);
    session.expect_done(&mut *hardware, id);
    session.finish(1);
}

pub fn test_fault_without_ssid_reaches_the_guest(platform: Platform) {
    check_fault(platform, Access::read(VA + 0x678));
}

pub fn test_fault_with_ssid_reaches_the_guest(platform: Platform) {
    for ssid in [1, 5, 255] {
        check_fault(platform, Access::read(VA + 0x10).ssid(ssid));
    }
}

pub fn test_fault_permissions_reach_the_guest(platform: Platform) {
    let read = Access::read(VA);
    for access in [
        read,
        Access { exec: true, ..read },
        Access {
            privileged: true,
            ..read
        },
        Access {
            exec: true,
            privileged: true,
            ..read
        },
        Access::write(VA),
        Access {
            privileged: true,
            ..Access::write(VA)
        },
    ] {
        check_fault(platform, access.ssid(3));
    }
}

pub fn test_burst_of_faults_is_answered_once_each(platform: Platform) {
    let (mut hardware, mut session) = served(platform, 1);

    let ids: Vec<_> = (0..BURST).map(|page| raise(&mut *hardware, page)).collect();
    for _ in 0..BURST {
        let event = session.event();
        session.handle(&mut *hardware, &event);
    }

    for id in ids {
        session.expect_done(&mut *hardware, id);
    }
    session.finish(BURST);
}

pub fn test_two_devices_on_one_queue_are_told_apart(platform: Platform) {
    let (mut hardware, mut session) = served(platform, 2);

    let ids = [1, 0].map(|device| raise_on(&mut *hardware, device, device as u64));
    let events = [session.event(), session.event()];

    for event in &events {
        let device = if event.sid == vsid(0) { 0 } else { 1 };
        assert_eq!((event.sid, event.addr), (vsid(device), page(device as u64)));
    }
    assert_ne!(events[0].sid, events[1].sid);
    for event in &events {
        session.handle(&mut *hardware, event);
    }
    for id in ids {
        session.expect_done(&mut *hardware, id);
    }
    session.finish(2);
}

pub fn test_read_fault_answered_reads_the_data() {
    let (mut hardware, mut session) = served_nested(1);

    let id = hardware
        .access(0, &Access::read(VA).ssid(2))
        .expect("access");
    let event = session.event();
    session.handle(&mut hardware, &event);

    let outcome = until("the end of the read", || hardware.outcome(id));
    assert_eq!(
        outcome,
        Outcome::Done {
            crc: Nested::expected_crc(VA)
        }
    );
    session.finish(1);
}

pub fn test_write_fault_answered_writes_the_data() {
    let (mut hardware, mut session) = served_nested(1);
    // The engine writes the low byte of the request's number: make it one that nobody finds by
    // chance.
    for warm in 0..0x5a {
        hardware
            .access(0, &Access::read(VA).ssid(2))
            .expect("access");
        if warm == 0 {
            let event = session.event();
            session.handle(&mut hardware, &event);
        }
    }
    let target = VA + PAGE + 16;

    let id = hardware
        .access(0, &Access::write(target).ssid(2))
        .expect("access");
    let event = session.event();
    session.handle(&mut hardware, &event);

    session.expect_done(&mut hardware, id);
    let page = hardware
        .guest()
        .translate(2, target)
        .expect("tables")
        .expect("mapped");
    assert_eq!(hardware.guest().read64(page), 0x5a5a_5a5a_5a5a_5a5a);
    session.finish(2);
}

pub fn test_write_to_read_only_page_faults_and_is_retried() {
    let (mut hardware, mut session) = served_nested(1);
    let page = hardware.guest().allocate().expect("page");
    hardware
        .resolve_to(None, VA, page, false)
        .expect("read-only page");

    let id = hardware.access(0, &Access::write(VA)).expect("access");
    let event = session.event();

    assert!(event.write);
    hardware
        .resolve_to(None, VA, page, true)
        .expect("writable page");
    hardware.invalidate().expect("invalidation");
    session.answer(&event, Success);
    session.expect_done(&mut hardware, id);
    session.finish(1);
}
