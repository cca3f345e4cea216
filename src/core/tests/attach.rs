// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::rig::{desc, limits, part, record, Rig};
use crate::core::{AttachError, Attachment, DetachError, FaultError, Observation};
use crate::wire::{DrainFailedReason, LostReason, MessageType, U32};

#[test]
fn test_attach_taken_number_is_refused() {
    let mut rig = Rig::new();

    let again = rig.core.attach(&desc(0, 5), rig.now);

    assert_eq!(again, Err(AttachError::AlreadyAttached { device: 0 }));
    assert!(!rig.core.channel_in_use(5));
}

#[test]
fn test_attach_number_too_large_is_refused() {
    let mut rig = Rig::new();

    let result = rig.core.attach(&desc(4, 0), rig.now);

    assert_eq!(
        result,
        Err(AttachError::DeviceNumber {
            device: 4,
            max_devices: 4
        })
    );
}

#[test]
fn test_attach_taken_sid_or_dev_id_names_the_device() {
    let mut rig = Rig::new();
    let same_sid = Attachment {
        vsid: desc(0, 0).vsid,
        ..desc(1, 1)
    };
    let same_dev_id = Attachment {
        dev_id: desc(0, 0).dev_id,
        ..desc(1, 0)
    };

    let sid = rig.core.attach(&same_sid, rig.now);
    let dev_id = rig.core.attach(&same_dev_id, rig.now);

    let vsid = same_sid.vsid;
    assert_eq!(sid, Err(AttachError::SidTaken { vsid, device: 0 }));
    let dev_id_taken = AttachError::DevIdTaken {
        dev_id: same_dev_id.dev_id,
        device: 0,
    };
    assert_eq!(dev_id, Err(dev_id_taken));
}

#[test]
fn test_attach_same_dev_id_on_another_channel_is_accepted() {
    let mut rig = Rig::new();
    let other = Attachment {
        dev_id: desc(0, 0).dev_id,
        ..desc(1, 1)
    };

    rig.attach(&other);
    let mut fault = record(0, 1);
    rig.fault(0, &fault);
    fault.addr.set(0x9000);
    rig.fault(1, &fault);

    let devices: Vec<u32> = rig.messages().iter().map(|m| m.device.get()).collect();
    assert_eq!(devices, [0, 1]);
}

#[test]
fn test_detach_unknown_device_is_refused() {
    let mut rig = Rig::new();

    assert_eq!(rig.core.detach(3, rig.now), Err(DetachError { device: 3 }));
}

#[test]
fn test_detach_with_faults_answers_them_invalid_before_the_channel_closes() {
    let mut rig = Rig::new();
    rig.delivered(1);
    rig.fault(0, &record(0, 2));

    rig.core.detach(0, rig.now).unwrap();

    assert!(rig.core.channel_in_use(0));
    assert!(!rig.core.wants_read(0));
    assert_eq!(rig.messages(), []);
    assert_eq!(rig.answers(0), [(1, 1), (2, 1)]);
    assert!(!rig.core.channel_in_use(0));
    assert_eq!(rig.core.outstanding(), 0);
}

#[test]
fn test_detach_within_a_group_answers_it_invalid() {
    let mut rig = Rig::new();
    rig.fault(0, &part(0, 1));

    rig.core.detach(0, rig.now).unwrap();

    assert_eq!(rig.answers(0), [(1, 1)]);
    assert!(!rig.core.channel_in_use(0));
}

#[test]
fn test_detach_one_of_two_devices_keeps_the_channel() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 0));
    rig.fault(0, &part(1, 1));

    rig.core.detach(1, rig.now).unwrap();
    assert_eq!(rig.peek_answers(0), []);
    rig.fault(0, &record(1, 1));
    rig.fault(0, &record(1, 2));

    assert!(rig.core.wants_read(0));
    assert_eq!(rig.answers(0), [(1, 1), (2, 1)]);
    assert!(rig.core.channel_in_use(0));
    assert_eq!(rig.messages(), []);
}

#[test]
fn test_detach_says_how_many_submissions_were_still_queued() {
    let mut rig = Rig::new();
    rig.submit(0);
    rig.submit(0);
    assert_eq!(
        rig.next_message().unwrap().message_type(),
        Some(MessageType::Replay)
    );

    rig.core.detach(0, rig.now).unwrap();

    assert!(rig.observed(&Observation::Detached {
        device: 0,
        answered: 0,
        dropped: 1,
    }));
}

#[test]
fn test_detach_drops_only_its_own_submissions() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 0));
    rig.drain(1, 100);
    for device in [0, 1, 0, 1] {
        rig.submit(device);
    }

    rig.core.detach(0, rig.now).unwrap();
    rig.release(1);

    let tickets: Vec<u64> = rig
        .messages()
        .iter()
        .filter(|m| m.message_type() == Some(MessageType::Replay))
        .map(|m| m.payload::<crate::wire::Submission>().ticket.get())
        .collect();
    assert_eq!(tickets, [1, 3]);
}

#[test]
fn test_attach_while_old_channels_have_answers_is_bounded() {
    let mut rig = Rig::with_limits(limits());
    let max = limits().max_devices;
    for channel in 0..2 * max {
        let device = channel % max;
        rig.attach(&desc(device, channel));
        rig.fault(channel, &record(device, 1));
        rig.core.detach(device, rig.now).unwrap();
    }

    let refused = rig.core.attach(&desc(0, 99), rig.now);
    rig.answers(3);
    let accepted = rig.core.attach(&desc(0, 99), rig.now);

    assert_eq!(refused, Err(AttachError::TooManyChannels { channel: 99 }));
    assert_eq!(accepted, Ok(()));
}

#[test]
fn test_channel_lost_drops_its_faults_and_reports_each_device() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 0));
    rig.attach(&desc(2, 1));
    rig.delivered(1);
    rig.fault(0, &record(1, 2));
    rig.fault(0, &part(1, 3));
    rig.fault(1, &record(2, 1));

    rig.core.channel_lost(0, LostReason::Io, rig.now);

    assert!(!rig.core.channel_in_use(0));
    assert_eq!(rig.core.outstanding(), 1);
    let messages = rig.messages();
    let lost: Vec<(u32, u32)> = messages[..2]
        .iter()
        .map(|m| (m.device.get(), m.payload::<U32>().get()))
        .collect();
    assert_eq!(lost, [(0, 2), (1, 2)]);
    assert_eq!(messages[2].device.get(), 2);
    assert_eq!(messages.len(), 3);
    assert_eq!(
        rig.try_fault(0, &record(0, 4)),
        Err(FaultError::UnknownChannel { channel: 0 })
    );
}

#[test]
fn test_channel_lost_while_draining_fails_the_drain() {
    let mut rig = Rig::new();
    rig.drain(1, 100);

    rig.core.channel_lost(0, LostReason::Ended, rig.now);

    let messages = rig.messages();
    let types: Vec<_> = messages.iter().map(|m| m.message_type().unwrap()).collect();
    assert_eq!(types, [MessageType::DeviceLost, MessageType::DrainFailed]);
    let failed: crate::wire::DrainFailed = messages[1].payload();
    assert_eq!(failed.reason.get(), DrainFailedReason::FaultChannel as u32);
}

#[test]
fn test_drain_after_channel_lost_needs_only_the_quiesce() {
    let mut rig = Rig::new();
    rig.delivered(1);
    rig.core.channel_lost(0, LostReason::Ended, rig.now);
    rig.messages();

    rig.drain(1, 100);
    rig.quiesced(0, 1);

    assert_eq!(rig.message_types(), [MessageType::Drained]);
}

#[test]
fn test_attach_again_after_channel_lost_keeps_the_submissions() {
    let mut rig = Rig::new();
    rig.drain(1, 100);
    rig.submit(0);
    rig.core.channel_lost(0, LostReason::Ended, rig.now);
    rig.messages();

    rig.attach(&desc(0, 7));
    rig.release(1);

    assert!(rig.core.channel_in_use(7));
    assert_eq!(
        rig.message_types(),
        [MessageType::Replay, MessageType::Released]
    );
}

#[test]
fn test_calls_for_unknown_channel_have_no_effect() {
    let mut rig = Rig::new();

    rig.core.channel_empty(9, rig.now);
    rig.core.answers_written(9, 3, rig.now);
    rig.core.answer_aborted(9, rig.now);
    rig.core.channel_lost(9, LostReason::Io, rig.now);

    assert!(!rig.core.wants_read(9));
    assert_eq!(rig.core.fault_room(9), 0);
    assert_eq!(rig.peek_answers(9), []);
    assert_eq!(rig.core.counters(), Default::default());
}
