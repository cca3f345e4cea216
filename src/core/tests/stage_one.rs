// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::rig::{desc, record, sid, Rig};
use crate::core::FaultError;
use crate::wire::{EventRecord, MessageType, EVENT_RECORD_SIZE, U32};

/// C_BAD_STE of a device.
fn event(device: u32) -> [u8; EVENT_RECORD_SIZE] {
    let mut record = [0; EVENT_RECORD_SIZE];
    record[0] = 0x04;
    record[4..8].copy_from_slice(&sid(device).to_le_bytes());
    record
}

fn take(rig: &mut Rig, record: Option<&[u8; EVENT_RECORD_SIZE]>, lost: u32) {
    rig.core.stage_one_event(0, record, lost, rig.now).unwrap();
}

#[test]
fn test_stage_one_event_goes_to_the_guest_as_it_is() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 1));

    take(&mut rig, Some(&event(1)), 0);
    let messages = rig.messages();

    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].message_type(), Some(MessageType::SmmuEvent));
    assert_eq!(messages[0].device.get(), 1);
    assert_eq!(messages[0].payload::<[u8; 32]>(), event(1));
}

#[test]
fn test_lost_events_are_reported_in_their_place() {
    let mut rig = Rig::new();

    take(&mut rig, Some(&event(0)), 0);
    take(&mut rig, Some(&event(0)), 3);
    take(&mut rig, None, 2);
    let messages = rig.messages();

    let types: Vec<_> = messages.iter().map(|m| m.message_type().unwrap()).collect();
    let expected = [
        MessageType::SmmuEvent,
        MessageType::EventsLost,
        MessageType::SmmuEvent,
        MessageType::EventsLost,
    ];
    assert_eq!(types, expected);
    assert_eq!(messages[1].payload::<U32>().get(), 3);
    assert_eq!(messages[3].payload::<U32>().get(), 2);
}

#[test]
fn test_stage_one_event_that_claims_a_stall_or_another_device_is_dropped() {
    let mut rig = Rig::new();
    let stall = EventRecord {
        sid: sid(0),
        ssid: None,
        stag: 0,
        write: false,
        exec: false,
        privileged: false,
        addr: 0,
    };

    take(&mut rig, Some(&stall.encode()), 0);
    take(&mut rig, Some(&event(2)), 0);

    assert_eq!(rig.messages(), []);
}

#[test]
fn test_stage_one_events_are_bounded() {
    let mut rig = Rig::new();
    let mut taken = 0;
    while rig.core.event_room() > 0 {
        take(&mut rig, Some(&event(0)), 1);
        taken += 1;
    }

    let full = rig.core.stage_one_event(0, Some(&event(0)), 1, rig.now);

    assert_eq!(full, Err(FaultError::NoRoom { channel: 0 }));
    assert_eq!(rig.messages().len(), 2 * taken);
    assert!(rig.core.event_room() > 0);
}

#[test]
fn test_drain_waits_until_stage_one_events_are_sent() {
    let mut rig = Rig::new();
    take(&mut rig, Some(&event(0)), 0);
    rig.drain(1, 100);
    rig.quiesced(0, 1);
    rig.probe();

    assert_eq!(
        rig.message_types(),
        [MessageType::SmmuEvent, MessageType::Drained]
    );
}

#[test]
fn test_reset_drops_stage_one_events_of_its_device() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 1));
    take(&mut rig, Some(&event(0)), 0);
    take(&mut rig, Some(&event(1)), 0);
    rig.fault(0, &record(0, 1));

    rig.reset(0);

    let devices: Vec<u32> = rig.messages().iter().map(|m| m.device.get()).collect();
    assert_eq!(devices, [1]);
}

#[test]
fn test_room_for_records_is_only_told_after_there_was_none() {
    let mut rig = Rig::new();

    take(&mut rig, Some(&event(0)), 1);

    assert_eq!(rig.core.wants().job, None);
}

#[test]
fn test_loss_that_is_not_told_yet_is_gone_after_a_reset() {
    let mut rig = Rig::new();
    take(&mut rig, None, 3);
    assert!(rig.core.has_event());

    rig.core.reset(rig.now);

    assert_eq!(rig.messages(), []);
}

/// Devices and counts of the losses that are told.
fn losses(rig: &mut Rig) -> Vec<(u32, u32)> {
    let messages = rig.messages();
    let losses = messages
        .iter()
        .filter(|message| message.message_type() == Some(MessageType::EventsLost));
    losses
        .map(|message| (message.device.get(), message.payload::<U32>().get()))
        .collect()
}

#[test]
fn test_loss_in_the_queue_of_a_detached_device_is_told_for_another_of_its_channel() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 1));
    rig.attach(&desc(2, 0));
    take(&mut rig, None, 3);

    rig.core.detach(0, rig.now).unwrap();
    let before = losses(&mut rig);
    take(&mut rig, Some(&event(2)), 4);

    assert_eq!(before, [(2, 3)]);
    assert_eq!(losses(&mut rig), [(2, 4)]);
}

#[test]
fn test_loss_is_told_though_the_guest_resets_the_device_that_it_is_told_for() {
    let mut rig = Rig::new();
    take(&mut rig, Some(&event(0)), 3);

    rig.reset(0);

    assert_eq!(losses(&mut rig), [(0, 3)]);
}

#[test]
fn test_loss_of_a_channel_without_devices_is_told_for_no_other_channel() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 1));
    take(&mut rig, None, 3);

    rig.core.detach(0, rig.now).unwrap();
    rig.core.stage_one_event(0, None, 1, rig.now).unwrap();

    assert_eq!(rig.messages(), []);
}

#[test]
fn test_losses_that_follow_each_other_are_one_and_need_no_room() {
    let mut rig = Rig::new();
    while rig.core.event_room() > 0 {
        take(&mut rig, Some(&event(0)), 0);
    }
    for lost in [1, 2, u32::MAX] {
        take(&mut rig, None, lost);
    }

    let full = rig.core.stage_one_event(0, Some(&event(0)), 0, rig.now);

    assert_eq!(full, Err(FaultError::NoRoom { channel: 0 }));
    assert_eq!(losses(&mut rig), [(0, u32::MAX)]);
}

#[test]
fn test_losses_with_a_record_between_them_stay_in_their_places() {
    let mut rig = Rig::new();
    take(&mut rig, None, 1);
    take(&mut rig, Some(&event(0)), 2);
    take(&mut rig, None, 4);

    assert_eq!(losses(&mut rig), [(0, 3), (0, 4)]);
}
