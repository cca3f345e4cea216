// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! When a drain ends, and what undoes it before DRAINED is sent.

use super::rig::{desc, part, record, sid, Rig};
use crate::core::{Observation, Phase};
use crate::wire::{EventRecord, MessageType, EVENT_RECORD_SIZE, PGFAULT_LAST_PAGE, SSID_MAX};

/// C_BAD_STE of a SID.
fn event(sid: u32) -> [u8; EVENT_RECORD_SIZE] {
    let mut record = [0; EVENT_RECORD_SIZE];
    record[0] = 0x04;
    record[4..8].copy_from_slice(&sid.to_le_bytes());
    record
}

fn take(rig: &mut Rig, sid: u32) {
    let record = event(sid);
    rig.core
        .stage_one_event(0, Some(&record), 0, rig.now)
        .unwrap();
}

/// A drain of device 0 that is complete; DRAINED has not been sent.
fn complete() -> Rig {
    let mut rig = Rig::new();
    rig.drain(1, 100);
    rig.quiesced(0, 1);
    rig.probe();
    assert_eq!(rig.core.phase(), Phase::Drained);
    rig
}

#[test]
fn test_detach_of_the_device_that_a_drain_waits_for_ends_it_at_once() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 1));
    rig.drain(1, 100);
    rig.quiesced(0, 1);
    rig.core.channel_empty(0, rig.now);
    assert_eq!(rig.core.phase(), Phase::Draining);

    rig.core.detach(1, rig.now).unwrap();

    assert_eq!(rig.core.phase(), Phase::Drained);
    assert_eq!(rig.message_types(), [MessageType::Drained]);
}

#[test]
fn test_event_before_drained_is_sent_goes_first() {
    let mut rig = complete();

    take(&mut rig, sid(0));

    assert_eq!(rig.core.phase(), Phase::Draining);
    let resumed = Observation::DrainResumed { generation: 1 };
    assert!(rig.observed(&resumed));
    assert_eq!(
        rig.message_types(),
        [MessageType::SmmuEvent, MessageType::Drained]
    );
}

#[test]
fn test_event_that_is_dropped_before_drained_is_sent_changes_nothing() {
    let mut rig = complete();

    take(&mut rig, 0xdead);

    assert_eq!(rig.core.phase(), Phase::Drained);
    assert_eq!(rig.message_types(), [MessageType::Drained]);
}

#[test]
fn test_event_after_drained_was_sent_is_delivered_and_the_phase_stays() {
    let mut rig = complete();
    rig.messages();

    take(&mut rig, sid(0));

    assert_eq!(rig.core.phase(), Phase::Drained);
    assert!(rig.observed(&Observation::DisturbedAfterDrained { generation: 1 }));
    assert_eq!(rig.message_types(), [MessageType::SmmuEvent]);
}

#[test]
fn test_fault_of_a_quiesced_device_keeps_the_drain_until_it_is_answered() {
    let mut rig = Rig::new();
    rig.drain(1, 100);
    rig.quiesced(0, 1);
    rig.fault(0, &record(0, 1));
    rig.probe();
    let stags = rig.stags();
    assert_eq!(rig.core.phase(), Phase::Draining);

    rig.resume(0, stags[0]);
    assert_eq!(rig.core.phase(), Phase::Draining);
    rig.answers(0);
    rig.probe();

    assert_eq!(rig.message_types(), [MessageType::Drained]);
}

#[test]
fn test_fault_of_a_quiesced_device_before_drained_is_sent_resumes_the_drain() {
    let mut rig = complete();

    rig.fault(0, &record(0, 1));

    assert_eq!(rig.core.phase(), Phase::Draining);
    let stags = rig.stags();
    rig.resume(0, stags[0]);
    rig.answers(0);
    rig.probe();
    assert_eq!(rig.message_types(), [MessageType::Drained]);
}

#[test]
fn test_events_of_a_detached_device_are_not_sent() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 1));
    take(&mut rig, sid(1));
    take(&mut rig, sid(0));
    rig.core.stage_one_event(1, None, 3, rig.now).unwrap();

    rig.core.detach(1, rig.now).unwrap();

    let devices: Vec<u32> = rig.messages().iter().map(|m| m.device.get()).collect();
    assert_eq!(devices, [0]);
}

#[test]
fn test_events_of_both_kinds_go_in_the_order_of_their_reads() {
    let mut rig = Rig::new();
    let is_stall = |rig: &mut Rig| -> Vec<bool> {
        let messages = rig.messages();
        let records = messages.iter().map(|message| message.payload::<[u8; 32]>());
        records
            .map(|record| EventRecord::decode(&record).is_some())
            .collect()
    };
    rig.fault(0, &record(0, 1));
    rig.now += 1;
    take(&mut rig, sid(0));
    rig.now += 1;
    rig.fault(0, &record(0, 2));
    assert_eq!(is_stall(&mut rig), [true, false, true]);

    take(&mut rig, sid(0));
    rig.now += 1;
    rig.fault(0, &record(0, 3));
    assert_eq!(is_stall(&mut rig), [false, true]);

    // At the same time: the fault, whose device waits.
    take(&mut rig, sid(0));
    rig.fault(0, &record(0, 4));
    assert_eq!(is_stall(&mut rig), [true, false]);
}

#[test]
fn test_events_of_a_veventq_and_replays_take_turns() {
    let mut rig = Rig::new();
    for _ in 0..2 {
        take(&mut rig, sid(0));
        rig.submit(0);
    }

    assert_eq!(
        rig.message_types(),
        [
            MessageType::SmmuEvent,
            MessageType::Replay,
            MessageType::SmmuEvent,
            MessageType::Replay,
            MessageType::Released,
        ]
    );
}

#[test]
fn test_event_room_is_for_records_each_with_a_loss_before_it() {
    let mut rig = Rig::new();
    let mut rooms = vec![rig.core.event_room()];
    for _ in 0..3 {
        take(&mut rig, sid(0));
        rooms.push(rig.core.event_room());
    }
    while rig.core.event_room() > 0 {
        take(&mut rig, sid(0));
    }
    let entries = rig.core.config_space(rig.now).backlog.get();
    let record = event(sid(0));
    let refused = rig.core.stage_one_event(0, Some(&record), 1, rig.now);

    assert_eq!(rooms, [512, 511, 511, 510]);
    // One more would fit, but not with a loss before it.
    assert_eq!(entries, 1023);
    refused.unwrap_err();
}

#[test]
fn test_backlog_counts_faults_and_events_that_wait_for_a_buffer() {
    let mut rig = Rig::new();
    for cookie in 1..=3 {
        rig.fault(0, &record(0, cookie));
    }
    take(&mut rig, sid(0));
    take(&mut rig, sid(0));

    assert_eq!(rig.core.config_space(rig.now).backlog.get(), 5);
    assert_eq!(rig.core.status(rig.now).backlog.get(), 5);
    rig.next_message().unwrap();
    assert_eq!(rig.core.config_space(rig.now).backlog.get(), 4);
}

#[test]
fn test_group_abandoned_in_part_does_not_stand_in_the_way_of_the_next() {
    let mut rig = Rig::new();
    rig.core.set_kernel_channel(0);
    rig.fault(0, &part(0, 1));
    rig.core.hold(0, rig.now).unwrap();
    rig.core.unhold(0, true, rig.now).unwrap();

    let next = rig.try_fault(0, &record(0, 2));

    assert_eq!(next, Ok(()));
    let stags = rig.stags();
    assert_eq!(stags.len(), 1);
    rig.resume(0, stags[0]);
    assert_eq!(rig.answers(0), [(2, 0)]);
}

#[test]
fn test_largest_ssid_reaches_the_guest() {
    let mut rig = Rig::new();
    let mut fault = record(0, 1);
    fault.pasid.set(SSID_MAX);
    rig.fault(0, &fault);

    let messages = rig.messages();

    let event = EventRecord::decode(&messages[0].payload()).unwrap();
    assert_eq!(event.ssid, Some(0xf_ffff));
    assert_eq!(fault.flags.get() & PGFAULT_LAST_PAGE, PGFAULT_LAST_PAGE);
}
