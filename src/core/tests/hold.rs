// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::rig::{desc, dev_id, limits, part, record, Rig};
use crate::core::table::visits;
use crate::core::{Attachment, FaultError, HoldError, Limits, Observation, Phase};
use crate::wire::{LostReason, MessageType};

/// A rig whose channel 0 is a fault file of the kernel.
fn kernel_rig() -> Rig {
    let mut rig = Rig::new();
    rig.core.set_kernel_channel(0);
    rig
}

/// Two devices of that channel, with a fault each; the first one is held. And the STAGs.
fn two_faults_one_held() -> (Rig, Vec<u16>) {
    let mut rig = kernel_rig();
    rig.attach(&desc(1, 0));
    rig.fault(0, &record(0, 1));
    rig.fault(0, &record(1, 2));
    let stags = rig.stags();
    hold(&mut rig, 0);
    (rig, stags)
}

fn hold(rig: &mut Rig, device: u32) {
    rig.core.hold(device, rig.now).unwrap();
}

fn unhold(rig: &mut Rig, device: u32, aborted: bool) {
    rig.core.unhold(device, aborted, rig.now).unwrap();
}

#[test]
fn test_hold_stops_reading_and_answers_of_its_channel_only() {
    let mut rig = kernel_rig();
    rig.attach(&desc(1, 1));
    let stag = rig.delivered(1);
    rig.fault(1, &record(1, 1));
    let other = rig.stags()[0];

    hold(&mut rig, 0);
    rig.resume(0, stag);
    rig.resume(1, other);

    assert!(!rig.core.wants_read(0));
    assert_eq!(rig.core.fault_room(0), 0);
    assert_eq!(rig.peek_answers(0), []);
    assert!(rig.core.wants_read(1));
    assert_eq!(rig.answers(1), [(1, 0)]);
}

#[test]
fn test_unhold_without_change_goes_on_with_what_the_guest_answered() {
    let mut rig = kernel_rig();
    let stag = rig.delivered(1);
    hold(&mut rig, 0);
    rig.resume(0, stag);

    unhold(&mut rig, 0, false);

    assert!(rig.core.wants_read(0));
    assert_eq!(rig.answers(0), [(1, 0)]);
}

#[test]
fn test_unhold_after_abort_forgets_faults_in_every_state() {
    let mut rig = kernel_rig();
    let answered = rig.delivered(1);
    let waiting = rig.delivered(2);
    rig.fault(0, &record(0, 3));
    rig.fault(0, &part(0, 4));
    hold(&mut rig, 0);
    rig.resume(0, answered);

    unhold(&mut rig, 0, true);
    rig.resume(0, waiting);

    assert_eq!(rig.peek_answers(0), []);
    assert_eq!(rig.messages(), []);
    assert_eq!(rig.core.outstanding(), 0);
    assert_eq!(rig.core.counters().answers_aborted, 4);
    assert_eq!(rig.core.counters().unknown_answers, 1);
    rig.fault(0, &record(0, 1));
    assert_eq!(rig.stags().len(), 1);
    let unheld = Observation::Unheld {
        device: 0,
        aborted: 4,
    };
    assert!(rig.observed(&unheld));
}

#[test]
fn test_unhold_after_abort_keeps_the_faults_of_other_devices() {
    let (mut rig, stags) = two_faults_one_held();

    unhold(&mut rig, 0, true);
    rig.resume(1, stags[1]);

    assert_eq!(rig.answers(0), [(2, 0)]);
}

#[test]
fn test_channel_of_two_held_devices_waits_for_both() {
    let mut rig = kernel_rig();
    rig.attach(&desc(1, 0));
    hold(&mut rig, 0);
    hold(&mut rig, 1);

    unhold(&mut rig, 0, false);
    assert!(!rig.core.wants_read(0));
    rig.core.detach(1, rig.now).unwrap();

    assert!(rig.core.wants_read(0));
}

#[test]
fn test_detach_while_another_device_is_held_is_answered_after_its_unhold() {
    let (mut rig, stags) = two_faults_one_held();

    rig.core.detach(1, rig.now).unwrap();
    let while_held = rig.peek_answers(0);
    unhold(&mut rig, 0, true);

    assert_eq!(while_held, []);
    assert_eq!(rig.answers(0), [(2, 1)]);
    rig.resume(0, stags[0]);
    assert_eq!(rig.peek_answers(0), []);
}

#[test]
fn test_detach_of_the_last_device_ends_its_hold_and_is_answered() {
    let mut rig = kernel_rig();
    rig.fault(0, &record(0, 1));
    hold(&mut rig, 0);

    rig.core.detach(0, rig.now).unwrap();

    assert_eq!(rig.answers(0), [(1, 1)]);
    assert!(!rig.core.channel_in_use(0));
}

#[test]
fn test_cookie_of_a_detached_device_that_comes_again_after_an_unhold_is_stale() {
    let mut rig = kernel_rig();
    rig.attach(&desc(1, 0));
    rig.fault(0, &record(1, 2));
    rig.stags();
    hold(&mut rig, 0);
    rig.core.detach(1, rig.now).unwrap();
    unhold(&mut rig, 0, true);

    let stale = rig.try_fault(0, &record(0, 2)).unwrap_err();
    rig.core.forget_stale(0, 2, rig.now);
    let stag = rig.delivered(2);
    rig.resume(0, stag);

    let expected = FaultError::Stale {
        channel: 0,
        cookie: 2,
    };
    assert_eq!(stale, expected);
    assert_eq!(rig.answers(0), [(2, 0)]);
}

#[test]
fn test_drain_does_not_end_while_a_device_is_held() {
    let mut rig = kernel_rig();
    rig.drain(1, 100);
    rig.quiesced(0, 1);
    hold(&mut rig, 0);
    assert_eq!(rig.core.next_probe(), None);
    assert_eq!(rig.messages(), []);

    unhold(&mut rig, 0, true);
    rig.probe();

    assert_eq!(rig.message_types(), [MessageType::Drained]);
}

#[test]
fn test_hold_before_drained_is_sent_resumes_the_drain() {
    let mut rig = kernel_rig();
    rig.drain(1, 100);
    rig.quiesced(0, 1);
    rig.probe();

    hold(&mut rig, 0);

    assert_eq!(rig.core.phase(), Phase::Draining);
}

#[test]
fn test_unhold_after_abort_unblocks_a_channel_whose_refused_record_is_gone() {
    let mut rig = kernel_rig();
    for cookie in 0..8 {
        rig.fault(0, &record(0, cookie));
    }
    let no_room = rig.try_fault(0, &record(0, 8));
    assert_eq!(no_room, Err(FaultError::NoRoom { channel: 0 }));
    hold(&mut rig, 0);
    unhold(&mut rig, 0, true);

    rig.drain(1, 100);
    rig.quiesced(0, 1);
    assert!(rig.core.wants_read(0));
    rig.probe();

    assert_eq!(rig.message_types(), [MessageType::Drained]);
}

#[test]
fn test_unhold_after_abort_keeps_the_refused_record_of_another_device() {
    let mut rig = kernel_rig();
    rig.attach(&Attachment {
        max_outstanding: 1,
        ..desc(1, 0)
    });
    rig.fault(0, &record(1, 1));
    let stags = rig.stags();
    rig.try_fault(0, &record(1, 2)).unwrap_err();
    hold(&mut rig, 0);
    unhold(&mut rig, 0, true);

    assert!(!rig.core.wants_read(0));
    rig.resume(1, stags[0]);
    rig.answers(0);

    assert!(rig.core.wants_read(0));
}

#[test]
fn test_hold_of_emulated_or_unknown_device_is_refused() {
    let mut rig = Rig::new();

    let emulated = rig.core.hold(0, rig.now);
    let unknown = rig.core.hold(3, rig.now);
    let not_held = rig.core.unhold(0, true, rig.now);

    assert_eq!(emulated, Err(HoldError::NotKernel { device: 0 }));
    assert_eq!(unknown, Err(HoldError::NotAttached { device: 3 }));
    assert_eq!(not_held, Err(HoldError::NotHeld { device: 0 }));
    assert!(rig.core.wants_read(0));
}

#[test]
fn test_hold_twice_is_refused_and_held_once() {
    let mut rig = kernel_rig();
    hold(&mut rig, 0);

    let twice = rig.core.hold(0, rig.now);
    unhold(&mut rig, 0, false);

    assert_eq!(twice, Err(HoldError::AlreadyHeld { device: 0 }));
    assert!(rig.core.wants_read(0));
}

#[test]
fn test_channel_lost_while_held_ends_the_hold() {
    let mut rig = kernel_rig();
    hold(&mut rig, 0);
    rig.core.channel_lost(0, LostReason::Ended, rig.now);

    let gone = rig.core.unhold(0, true, rig.now);
    rig.attach(&desc(0, 5));

    assert_eq!(gone, Err(HoldError::NotAttached { device: 0 }));
    assert!(rig.core.wants_read(5));
}

#[test]
fn test_cookie_again_on_a_kernel_channel_is_stale_not_fatal() {
    let mut rig = kernel_rig();
    let old = rig.delivered(1);

    let stale = rig.try_fault(0, &record(0, 1)).unwrap_err();
    let expected = FaultError::Stale {
        channel: 0,
        cookie: 1,
    };
    assert_eq!(stale, expected);
    assert!(!stale.is_fatal());
    rig.core.forget_stale(0, 1, rig.now);
    let new = rig.delivered(1);
    rig.resume(0, old);
    assert_eq!(rig.peek_answers(0), []);
    rig.resume(0, new);

    assert_eq!(rig.answers(0), [(1, 0)]);
    assert_eq!(rig.core.counters().answers_aborted, 1);
}

#[test]
fn test_forget_stale_of_unknown_cookie_has_no_effect() {
    let mut rig = kernel_rig();
    rig.delivered(1);

    rig.core.forget_stale(0, 2, rig.now);
    rig.core.forget_stale(9, 1, rig.now);

    assert_eq!(rig.core.outstanding(), 1);
}

#[test]
fn test_channel_of_names_channel_and_dev_id() {
    let rig = Rig::new();

    assert_eq!(rig.core.channel_of(0), Some((0, dev_id(0))));
    assert_eq!(rig.core.channel_of(1), None);
}

/// Records that an unhold looks at, with so many faults of the device, of which the guest has
/// answered every second one, and as many of another device of its channel between them.
fn visits_of_unhold(faults: u32) -> u64 {
    let mut rig = Rig::with_limits(Limits {
        max_faults: 2 * faults,
        max_device_faults: faults,
        ..limits()
    });
    rig.attach(&desc(0, 0));
    rig.attach(&desc(1, 0));
    rig.core.set_kernel_channel(0);
    for cookie in 0..faults {
        rig.fault(0, &record(1, 2 * cookie));
        rig.fault(0, &record(0, 2 * cookie + 1));
    }
    let stags = rig.stags();
    hold(&mut rig, 0);
    for stag in stags.into_iter().skip(1).step_by(4) {
        rig.resume(0, stag);
    }

    let visits = visits::of(|| unhold(&mut rig, 0, true));

    assert_eq!(rig.core.counters().answers_aborted, u64::from(faults));
    visits
}

#[test]
fn test_unhold_after_abort_costs_the_same_for_each_fault_however_many_there_are() {
    let few = visits_of_unhold(64);
    let many = visits_of_unhold(64 * 16);

    // A walk for each fault would make it 256 times as many.
    assert!(
        many < 32 * few,
        "{few} visits, with 16 times the faults {many}"
    );
}
