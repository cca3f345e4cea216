// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! CMD_PRI_RESP finds its faults among any number of others.

use super::rig::{desc, limits, part, record, sid, Rig};
use crate::core::{Attachment, Limits};
use crate::wire::{PgFault, ResponseCode, SmmuCommand};

fn pri(device: u32, channel: u32) -> Attachment {
    Attachment {
        pri: true,
        ..desc(device, channel)
    }
}

fn rig() -> Rig {
    let mut rig = Rig::with_limits(limits());
    rig.core.set_seed(0x5eed);
    rig.attach(&pri(0, 0));
    rig
}

fn respond(rig: &mut Rig, device: u32, ssid: Option<u32>, group: u32) {
    rig.command(SmmuCommand::PriResp {
        sid: sid(device),
        ssid,
        group,
        code: ResponseCode::Success,
    });
}

fn with(record: PgFault, pasid: u32, grpid: u32) -> PgFault {
    let mut record = record;
    record.pasid.set(pasid);
    record.grpid.set(grpid);
    record
}

#[test]
fn test_pri_resp_answers_only_what_the_guest_has_seen() {
    let mut rig = rig();
    rig.fault(0, &with(record(0, 1), 1, 5));

    respond(&mut rig, 0, Some(1), 5);
    assert_eq!(rig.core.counters().unknown_answers, 1);
    rig.messages();
    respond(&mut rig, 0, Some(1), 5);

    assert_eq!(rig.answers(0), [(1, 0)]);
}

#[test]
fn test_pri_resp_of_another_device_ssid_or_group_has_no_effect() {
    let mut rig = rig();
    rig.attach(&pri(1, 1));
    let mut without_ssid = with(record(0, 2), 1, 5);
    without_ssid.flags.set(2);
    rig.fault(0, &with(record(0, 1), 1, 5));
    rig.fault(0, &without_ssid);
    rig.messages();

    for (device, ssid, group) in [(1, Some(1), 5), (0, Some(2), 5), (0, Some(1), 6)] {
        respond(&mut rig, device, ssid, group);
    }
    assert_eq!(rig.core.counters().unknown_answers, 3);
    assert_eq!(rig.peek_answers(0), []);
    respond(&mut rig, 0, None, 5);
    assert_eq!(rig.answers(0), [(2, 0)]);
    respond(&mut rig, 0, Some(1), 5);

    assert_eq!(rig.answers(0), [(1, 0)]);
}

#[test]
fn test_pri_resp_answers_every_fault_of_the_group_and_groups_of_the_same_index() {
    let mut rig = rig();
    for _ in 0..2 {
        rig.fault(0, &with(part(0, 1), 1, 5));
    }
    rig.fault(0, &with(record(0, 1), 1, 5));
    rig.fault(0, &with(record(0, 2), 1, 5));
    rig.messages();

    respond(&mut rig, 0, Some(1), 5);

    assert_eq!(rig.answers(0), [(1, 0), (2, 0)]);
    assert_eq!(rig.core.outstanding(), 0);
}

#[test]
fn test_page_request_answered_by_other_means_is_not_found_any_more() {
    let mut rig = rig();
    rig.core.set_kernel_channel(0);
    let mut known = 0;
    let mut expect_unknown = |rig: &mut Rig| {
        respond(rig, 0, Some(1), 5);
        known += 1;
        assert_eq!(rig.core.counters().unknown_answers, known);
    };

    rig.fault(0, &with(record(0, 1), 1, 5));
    let stags = rig.stags();
    rig.resume(0, stags[0]);
    expect_unknown(&mut rig);
    rig.answers(0);
    rig.fault(0, &with(record(0, 2), 1, 5));
    rig.messages();
    rig.command(SmmuCommand::StallTerm { sid: sid(0) });
    expect_unknown(&mut rig);
    rig.answers(0);
    rig.fault(0, &with(record(0, 3), 1, 5));
    rig.messages();
    rig.core.forget_stale(0, 3, rig.now);
    expect_unknown(&mut rig);
    rig.fault(0, &with(record(0, 4), 1, 5));
    rig.messages();
    rig.core.hold(0, rig.now).unwrap();
    rig.core.unhold(0, true, rig.now).unwrap();
    expect_unknown(&mut rig);
    rig.fault(0, &with(record(0, 5), 1, 5));
    rig.messages();
    rig.reset(0);
    expect_unknown(&mut rig);
}

#[test]
fn test_page_requests_as_many_as_the_table_holds_are_each_found() {
    const FAULTS: u32 = 4096;
    let mut rig = Rig::with_limits(Limits {
        max_faults: FAULTS,
        max_device_faults: FAULTS,
        ..limits()
    });
    rig.attach(&pri(0, 0));
    for cookie in 1..=FAULTS {
        rig.fault(0, &with(record(0, cookie), cookie >> 4, cookie & 0xf));
    }
    rig.messages();

    for cookie in (1..=FAULTS).rev() {
        respond(&mut rig, 0, Some(cookie >> 4), cookie & 0xf);
        assert_eq!(rig.answers(0), [(cookie, 0)]);
    }

    assert_eq!(rig.core.outstanding(), 0);
    assert_eq!(rig.core.counters().unknown_answers, 0);
}

#[test]
fn test_stale_group_takes_all_its_faults_and_no_other() {
    let mut rig = rig();
    rig.core.set_kernel_channel(0);
    rig.fault(0, &record(0, 1));
    for _ in 0..2 {
        rig.fault(0, &part(0, 2));
    }
    rig.fault(0, &record(0, 2));
    rig.fault(0, &record(0, 3));
    rig.messages();

    rig.core.forget_stale(0, 2, rig.now);

    assert_eq!(rig.core.outstanding(), 2);
    assert_eq!(rig.core.fault_room(0), 6);
    respond(&mut rig, 0, Some(1), 1);
    respond(&mut rig, 0, Some(1), 3);
    assert_eq!(rig.answers(0), [(1, 0), (3, 0)]);
}
