// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::rig::{desc, limits, record, sid, Rig};
use crate::core::{Core, Observation};
use crate::wire::{LostReason, MessageType, Released};

#[test]
fn test_emit_that_fails_keeps_the_message() {
    let mut rig = Rig::new();
    rig.fault(0, &record(0, 1));

    let failed = rig.core.emit(rig.now, |_| Err("no memory"));
    let messages = rig.messages();

    assert_eq!(failed, Err("no memory"));
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].seq.get(), 1);
    assert!(!rig.core.has_event());
}

#[test]
fn test_emit_numbers_messages_without_gaps() {
    let mut rig = Rig::new();
    for cookie in 1..=3 {
        rig.fault(0, &record(0, cookie));
        rig.submit(0);
    }

    let messages = rig.messages();

    let seqs: Vec<u64> = messages.iter().map(|m| m.seq.get()).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn test_events_and_replays_take_turns() {
    let mut rig = Rig::new();
    for cookie in 1..=2 {
        rig.fault(0, &record(0, cookie));
        rig.submit(0);
    }

    let types = rig.message_types();

    let expected = [
        MessageType::SmmuEvent,
        MessageType::Replay,
        MessageType::SmmuEvent,
        MessageType::Replay,
        MessageType::Released,
    ];
    assert_eq!(types, expected);
}

#[test]
fn test_rings_reset_counts_anew_and_keeps_what_was_not_sent() {
    let mut rig = Rig::new();
    rig.fault(0, &record(0, 1));
    rig.fault(0, &record(0, 2));
    let sent = rig.next_message().unwrap();

    rig.core.rings_reset();
    rig.seq = 0;
    let messages = rig.messages();
    rig.resume(0, 0);
    rig.resume(0, 1);

    assert_eq!(sent.seq.get(), 1);
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].seq.get(), 1);
    assert_eq!(rig.answers(0), [(1, 0), (2, 0)]);
}

#[test]
fn test_lost_devices_are_counted_among_the_messages_that_wait() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 0));
    rig.core.channel_lost(0, LostReason::Owner, rig.now);

    let lost = rig.core.wants().waiting;
    rig.next_message();
    let told_of_one = rig.core.wants().waiting;
    rig.core.detach(1, rig.now).unwrap();

    assert_eq!((lost, told_of_one), (2, 1));
    assert_eq!(rig.core.wants().waiting, 0);
    assert_eq!(rig.messages(), []);
}

#[test]
fn test_rings_reset_reports_lost_device_again() {
    let mut rig = Rig::new();
    rig.core.channel_lost(0, LostReason::Owner, rig.now);
    assert_eq!(rig.message_types(), [MessageType::DeviceLost]);

    rig.core.rings_reset();
    rig.seq = 0;
    assert_eq!(rig.message_types(), [MessageType::DeviceLost]);
    assert_eq!(rig.message_types(), []);

    rig.attach(&desc(0, 7));
    rig.core.rings_reset();
    rig.seq = 0;
    assert_eq!(rig.message_types(), []);
}

#[test]
fn test_released_not_yet_sent_comes_after_a_new_submission() {
    let mut rig = Rig::new();
    rig.drain(1, 100);
    rig.release(1);
    rig.submit(0);

    let messages = rig.messages();

    let types: Vec<_> = messages.iter().map(|m| m.message_type().unwrap()).collect();
    assert_eq!(types, [MessageType::Replay, MessageType::Released]);
    assert_eq!(messages[1].payload::<Released>().next_ticket.get(), 1);
}

#[test]
fn test_closure_observes_each_step() {
    let mut told = Vec::new();
    let observe = |now, observation: &Observation| told.push((now, *observation));
    let mut core = Core::new(limits(), observe).unwrap();

    core.attach(&desc(0, 0), 7).unwrap();

    drop(core);
    let attached = Observation::Attached {
        device: 0,
        sid: sid(0),
        channel: 0,
    };
    assert_eq!(told, [(7, attached)]);
}

#[test]
fn test_core_has_the_limits_and_the_seed_that_it_was_given() {
    let mut core = Core::new(limits(), ()).unwrap();
    let before = core.clone();

    core.set_seed(1);

    assert_eq!(core.limits(), limits());
    assert!(core != before);
}
