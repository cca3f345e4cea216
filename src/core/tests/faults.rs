// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::rig::{desc, limits, part, record, sid, Rig, MS};
use crate::core::{Attachment, FaultError, Limits, Observation, RefusedReason};
use crate::wire::{
    EventRecord, MessageType, ResponseCode, SmmuCommand, FAULT_INFO_SSID_VALID, FAULT_INFO_VALID,
    PERM_READ, PERM_WRITE, PGFAULT_LAST_PAGE, U32,
};

#[test]
fn test_fault_that_is_read_is_told_with_its_direction() {
    let mut rig = Rig::new();
    let mut write = record(0, 2);
    write.perm = U32::new(PERM_READ | PERM_WRITE);

    rig.fault(0, &record(0, 1));
    rig.fault(0, &write);

    let told = |observation: &Observation| match observation {
        Observation::FaultRead { cookie, write, .. } => Some((*cookie, *write)),
        _ => None,
    };
    let told: Vec<_> = rig.core.observer().0.iter().filter_map(told).collect();
    assert_eq!(told, [(1, false), (2, true)]);
}

#[test]
fn test_channel_that_is_blocked_is_told_once() {
    let mut rig = Rig::new();
    for cookie in 1..=8 {
        rig.fault(0, &record(0, cookie));
    }
    let blocked = Observation::ChannelBlocked { channel: 0 };
    let mut told = Vec::new();
    for _ in 0..2 {
        rig.try_fault(0, &record(0, 9)).unwrap_err();
        let all = rig.core.observer().0.iter();
        told.push(all.filter(|one| **one == blocked).count());
    }

    assert_eq!(told, [1, 1]);
}

#[test]
fn test_fault_becomes_an_event_of_its_device() {
    let mut rig = Rig::new();
    let mut fault = record(0, 1);
    fault.perm.set(PERM_WRITE);
    fault.flags.set(fault.flags.get() | (1 << 2));

    rig.fault(0, &fault);

    let messages = rig.messages();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].message_type(), Some(MessageType::SmmuEvent));
    assert_eq!(messages[0].device.get(), 0);
    let event = EventRecord::decode(&messages[0].payload()).unwrap();
    let expected = EventRecord {
        sid: sid(0),
        ssid: Some(1),
        stag: 0,
        write: true,
        exec: false,
        privileged: false,
        addr: 0x1000,
    };
    assert_eq!(event, expected);
}

#[test]
fn test_resume_answers_the_fault_once() {
    let mut rig = Rig::new();
    let stag = rig.delivered(1);
    assert_eq!(rig.peek_answers(0), []);

    rig.resume(0, stag);
    rig.resume(0, stag);

    assert_eq!(rig.answers(0), [(1, 0)]);
    assert_eq!(rig.answers(0), []);
    assert_eq!(rig.core.counters().unknown_answers, 1);
    assert_eq!(rig.core.counters().faults_answered, 1);
}

#[test]
fn test_resume_abort_answers_invalid() {
    let mut rig = Rig::new();
    let stag = rig.delivered(1);

    rig.abort(0, stag);

    assert_eq!(rig.answers(0), [(1, 1)]);
}

#[test]
fn test_resume_of_another_sid_has_no_effect() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 1));
    let stag = rig.delivered(1);

    rig.resume(1, stag);
    rig.command(SmmuCommand::Resume {
        sid: 0xdead,
        stag,
        code: ResponseCode::Success,
    });

    assert_eq!(rig.peek_answers(0), []);
    assert_eq!(rig.core.counters().unknown_answers, 2);
    rig.resume(0, stag);
    assert_eq!(rig.peek_answers(0), [(1, 0)]);
}

#[test]
fn test_resume_before_the_event_was_sent_has_no_effect() {
    let mut rig = Rig::new();
    rig.fault(0, &record(0, 1));

    rig.resume(0, 0);

    assert_eq!(rig.peek_answers(0), []);
    assert_eq!(rig.core.counters().unknown_answers, 1);
    assert_eq!(rig.stags(), [0]);
}

#[test]
fn test_resume_with_stag_beyond_the_table_has_no_effect() {
    let mut rig = Rig::new();

    rig.resume(0, u16::MAX);

    assert_eq!(rig.core.counters().unknown_answers, 1);
}

#[test]
fn test_stag_is_reused_as_late_as_possible() {
    let mut rig = Rig::new();
    let mut seen = Vec::new();

    for cookie in 1..=16 {
        let stag = rig.delivered(cookie);
        rig.resume(0, stag);
        rig.answers(0);
        seen.push(stag);
    }

    let once: Vec<u16> = (0..8).collect();
    assert_eq!(seen, [once.clone(), once].concat());
}

#[test]
fn test_group_is_answered_when_its_last_fault_is() {
    let mut rig = Rig::new();
    rig.fault(0, &part(0, 1));
    rig.fault(0, &part(0, 1));
    let first = rig.stags();
    rig.resume(0, first[0]);
    rig.resume(0, first[1]);
    assert_eq!(rig.peek_answers(0), []);

    rig.fault(0, &record(0, 1));
    let last = rig.stags();
    assert_eq!(rig.peek_answers(0), []);
    rig.resume(0, last[0]);

    assert_eq!(rig.answers(0), [(1, 0)]);
    assert_eq!(rig.core.counters().faults_answered, 3);
}

#[test]
fn test_group_with_one_invalid_answer_is_invalid() {
    let mut rig = Rig::new();
    rig.fault(0, &part(0, 1));
    rig.fault(0, &part(0, 1));
    rig.fault(0, &record(0, 1));
    let stags = rig.stags();

    rig.resume(0, stags[0]);
    rig.abort(0, stags[1]);
    rig.resume(0, stags[2]);

    assert_eq!(rig.answers(0), [(1, 1)]);
}

#[test]
fn test_group_interrupted_by_another_cookie_is_an_error() {
    let mut rig = Rig::new();
    rig.fault(0, &part(0, 1));

    let error = rig.try_fault(0, &record(0, 2)).unwrap_err();

    let expected = FaultError::GroupInterrupted {
        channel: 0,
        open: 1,
        found: 2,
    };
    assert_eq!(error, expected);
    assert!(error.is_fatal());
}

#[test]
fn test_group_of_two_devices_is_an_error() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 0));
    rig.fault(0, &part(0, 1));

    let error = rig.try_fault(0, &record(1, 1)).unwrap_err();

    let expected = FaultError::GroupOfTwoDevices {
        channel: 0,
        cookie: 1,
    };
    assert_eq!(error, expected);
}

#[test]
fn test_cookie_again_before_its_answer_was_written_is_an_error() {
    let mut rig = Rig::new();
    let stag = rig.delivered(1);
    let duplicate = Err(FaultError::DuplicateCookie {
        channel: 0,
        cookie: 1,
    });

    let outstanding = rig.try_fault(0, &record(0, 1));
    rig.resume(0, stag);
    let unwritten = rig.try_fault(0, &record(0, 1));
    rig.answers(0);
    let written = rig.try_fault(0, &record(0, 1));

    assert_eq!(outstanding, duplicate);
    assert_eq!(unwritten, duplicate);
    assert_eq!(written, Ok(()));
}

#[test]
fn test_same_cookie_on_two_channels_is_two_groups() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 1));
    rig.fault(0, &record(0, 1));
    rig.fault(1, &record(1, 1));
    let stags = rig.stags();

    rig.resume(0, stags[0]);
    rig.abort(1, stags[1]);

    assert_eq!(rig.answers(0), [(1, 0)]);
    assert_eq!(rig.answers(1), [(1, 1)]);
}

#[test]
fn test_fault_of_unknown_device_is_answered_invalid() {
    let mut rig = Rig::new();

    rig.fault(0, &part(3, 1));
    rig.fault(0, &record(3, 1));

    assert_eq!(rig.messages(), []);
    assert_eq!(rig.answers(0), [(1, 1)]);
    let refused = Observation::FaultRefused {
        channel: 0,
        dev_id: 13,
        cookie: 1,
        reason: RefusedReason::UnknownDevice,
    };
    assert!(rig.observed(&refused));
}

#[test]
fn test_fault_with_pasid_beyond_ssid_is_answered_invalid() {
    let mut rig = Rig::new();
    let mut fault = record(0, 1);
    fault.pasid.set(1 << 20);

    rig.fault(0, &fault);
    fault.cookie.set(2);
    fault.flags.set(PGFAULT_LAST_PAGE);
    rig.fault(0, &fault);

    assert_eq!(rig.peek_answers(0), [(1, 1)]);
    let events = rig.messages();
    let event = EventRecord::decode(&events[0].payload()).unwrap();
    assert_eq!((events.len(), event.ssid), (1, None));
}

#[test]
fn test_full_table_blocks_the_channel_until_an_answer() {
    let mut rig = Rig::new();
    for cookie in 1..=8 {
        assert_eq!(rig.core.fault_room(0), 9 - cookie);
        rig.fault(0, &record(0, cookie));
    }
    let stags = rig.stags();

    let full = rig.try_fault(0, &record(0, 9)).unwrap_err();
    assert_eq!(full, FaultError::NoRoom { channel: 0 });
    assert!(!full.is_fatal());
    assert!(!rig.core.wants_read(0));
    rig.resume(0, stags[3]);
    assert!(rig.core.wants_read(0));
    let then = rig.try_fault(0, &record(0, 9));

    assert_eq!(then, Ok(()));
    assert_eq!(rig.stags(), [stags[3]]);
    assert_eq!(rig.core.counters().faults_read, 9);
}

#[test]
fn test_device_limit_blocks_only_its_channel() {
    let mut rig = Rig::with_limits(limits());
    rig.attach(&Attachment {
        max_outstanding: 2,
        ..desc(0, 0)
    });
    rig.attach(&desc(1, 1));
    rig.fault(0, &record(0, 1));
    rig.fault(0, &record(0, 2));

    let limited = rig.try_fault(0, &record(0, 3));
    let other = rig.try_fault(1, &record(1, 1));

    assert_eq!(limited, Err(FaultError::NoRoom { channel: 0 }));
    assert_eq!(other, Ok(()));
    assert!(!rig.core.wants_read(0));
    assert!(rig.core.wants_read(1));
    assert_eq!(rig.core.fault_room(0), 0);
    assert_eq!(rig.core.fault_room(1), 5);
}

#[test]
fn test_blocked_channel_wants_read_after_its_device_is_detached() {
    let mut rig = Rig::with_limits(limits());
    rig.attach(&Attachment {
        max_outstanding: 1,
        ..desc(0, 0)
    });
    rig.attach(&desc(1, 0));
    rig.fault(0, &record(0, 1));
    rig.try_fault(0, &record(0, 2)).unwrap_err();

    rig.core.detach(0, rig.now).unwrap();
    assert!(rig.core.wants_read(0));
    rig.fault(0, &record(0, 2));

    assert_eq!(rig.answers(0), [(1, 1), (2, 1)]);
}

#[test]
fn test_unwritten_answers_bound_the_groups() {
    let mut rig = Rig::new();
    // As many as the device may have faults, and one.
    let groups = limits().max_faults + 1;
    for cookie in 1..=groups {
        let stag = rig.delivered(cookie);
        rig.resume(0, stag);
    }

    let full = rig.try_fault(0, &record(0, groups + 1));
    assert_eq!(full, Err(FaultError::NoRoom { channel: 0 }));
    let unknown_device = rig.try_fault(0, &record(3, groups + 1));
    assert_eq!(unknown_device, Err(FaultError::NoRoom { channel: 0 }));
    assert!(!rig.core.wants_read(0));
    rig.core.answers_written(0, 1, rig.now);

    assert!(rig.core.wants_read(0));
    rig.fault(0, &record(0, groups + 1));
}

#[test]
fn test_group_larger_than_the_table_goes_on_as_the_guest_answers() {
    let mut rig = Rig::new();
    let mut answered = 0;
    for _ in 0..20 {
        while rig.try_fault(0, &part(0, 1)).is_err() {
            answered += rig.resume_all(0);
        }
    }
    rig.fault(0, &record(0, 1));
    answered += rig.resume_all(0);

    assert_eq!(answered, 21);
    assert_eq!(rig.answers(0), [(1, 0)]);
}

#[test]
fn test_pri_group_larger_than_the_limit_is_refused_as_a_whole() {
    let mut rig = Rig::with_limits(limits());
    rig.attach(&Attachment {
        max_outstanding: 2,
        pri: true,
        ..desc(0, 0)
    });
    for _ in 0..4 {
        rig.fault(0, &part(0, 1));
    }
    assert_eq!(rig.peek_answers(0), []);
    rig.fault(0, &record(0, 1));

    assert_eq!(rig.messages(), []);
    assert_eq!(rig.answers(0), [(1, 1)]);
    rig.fault(0, &record(0, 2));
    assert_eq!(rig.stags().len(), 1);
}

#[test]
fn test_stall_term_answers_all_faults_of_its_sid() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 0));
    rig.delivered(1);
    rig.fault(0, &record(1, 2));
    rig.fault(0, &record(0, 3));

    rig.command(SmmuCommand::StallTerm { sid: sid(0) });

    assert_eq!(rig.answers(0), [(1, 1), (3, 1)]);
    assert_eq!(rig.stags().len(), 1);
    assert_eq!(rig.core.counters().unknown_answers, 0);
}

#[test]
fn test_stall_term_without_faults_is_counted() {
    let mut rig = Rig::new();

    rig.command(SmmuCommand::StallTerm { sid: sid(0) });
    rig.command(SmmuCommand::StallTerm { sid: 0xdead });

    assert_eq!(rig.core.counters().unknown_answers, 2);
}

#[test]
fn test_pri_resp_answers_the_group_of_its_ssid() {
    let mut rig = Rig::with_limits(limits());
    rig.attach(&Attachment {
        pri: true,
        ..desc(0, 0)
    });
    let mut other_ssid = record(0, 3);
    other_ssid.pasid.set(2);
    other_ssid.grpid.set(1);
    rig.fault(0, &part(0, 1));
    rig.fault(0, &record(0, 1));
    rig.fault(0, &record(0, 2));
    rig.fault(0, &other_ssid);
    rig.messages();
    let response = |group, code| SmmuCommand::PriResp {
        sid: sid(0),
        ssid: Some(1),
        group,
        code,
    };

    rig.command(response(1, ResponseCode::Success));
    assert_eq!(rig.answers(0), [(1, 0)]);
    rig.command(response(1, ResponseCode::Success));
    assert_eq!(rig.core.counters().unknown_answers, 1);
    rig.command(response(2, ResponseCode::Invalid));

    assert_eq!(rig.answers(0), [(2, 1)]);
    assert_eq!(rig.core.outstanding(), 1);
}

#[test]
fn test_pri_resp_to_a_stall_device_has_no_effect() {
    let mut rig = Rig::new();
    rig.delivered(1);

    rig.command(SmmuCommand::PriResp {
        sid: sid(0),
        ssid: Some(1),
        group: 1,
        code: ResponseCode::Success,
    });

    assert_eq!(rig.peek_answers(0), []);
    assert_eq!(rig.core.counters().unknown_answers, 1);
}

#[test]
fn test_answers_partly_written_stay_in_order() {
    let mut rig = Rig::new();
    for cookie in 1..=3 {
        rig.fault(0, &record(0, cookie));
    }
    let stags = rig.stags();
    for stag in [stags[2], stags[0], stags[1]] {
        rig.resume(0, stag);
    }

    assert_eq!(rig.peek_answers(0), [(3, 0), (1, 0), (2, 0)]);
    rig.core.answers_written(0, 1, rig.now);
    assert_eq!(rig.peek_answers(0), [(1, 0), (2, 0)]);
    rig.core.answer_aborted(0, rig.now);
    assert_eq!(rig.peek_answers(0), [(2, 0)]);
    rig.core.answers_written(0, 5, rig.now);

    let counters = rig.core.counters();
    assert_eq!((counters.faults_answered, counters.answers_aborted), (2, 1));
    assert_eq!(rig.core.outstanding(), 0);
}

#[test]
fn test_config_space_names_the_oldest_fault() {
    let mut rig = Rig::new();
    rig.now = 10 * MS;
    rig.fault(0, &record(0, 1));
    rig.now = 20 * MS;
    rig.fault(0, &record(0, 2));
    let stags = rig.stags();
    rig.fault(0, &record(0, 3));

    let config = rig.core.config_space(40 * MS);
    assert_eq!(config.oldest_sid.get(), sid(0));
    assert_eq!(config.oldest_ssid.get(), 1);
    assert_eq!(config.oldest_addr.get(), 0x1000);
    assert_eq!(config.oldest_age_ms.get(), 30);
    let flags = FAULT_INFO_VALID | FAULT_INFO_SSID_VALID;
    assert_eq!(config.oldest_flags.get(), flags);
    assert_eq!(config.outstanding.get(), 3);
    assert_eq!(config.backlog.get(), 1);

    rig.resume(0, stags[0]);
    let config = rig.core.config_space(40 * MS);
    assert_eq!(config.oldest_addr.get(), 0x2000);
    assert_eq!(config.outstanding.get(), 3);
    rig.answers(0);
    assert_eq!(rig.core.config_space(40 * MS).outstanding.get(), 2);
}

#[test]
fn test_config_space_without_fault_has_no_oldest() {
    let rig = Rig::with_limits(Limits::default());

    let config = rig.core.config_space(5);

    assert_eq!(config.oldest_flags.get(), 0);
    assert_eq!(config.max_devices.get(), 16);
    assert_eq!(config.max_pending.get(), 65536);
    assert_eq!(config.max_faults.get(), 4096);
}
