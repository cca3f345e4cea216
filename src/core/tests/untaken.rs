// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A drain that fails over a device that does not take its answers.

use super::rig::{desc, record, Rig};
use crate::core::Observation;
use crate::wire::{DrainFailed, DrainFailedReason, MessageType, DEVICE_NONE};

/// Devices 0 and 1, each on its channel. The guest has answered a fault of each device in `faults`.
fn answered(faults: &[u32]) -> Rig {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 1));
    for (cookie, device) in (1..).zip(faults) {
        rig.fault(*device, &record(*device, cookie));
        let stag = rig.stags()[0];
        rig.resume(*device, stag);
    }
    rig
}

fn fail(rig: &mut Rig) -> DrainFailed {
    rig.drain(1, 0);
    rig.core.tick(rig.now);
    let messages = rig.messages();
    let failed = messages
        .iter()
        .find(|message| message.message_type() == Some(MessageType::DrainFailed));
    failed.unwrap().payload()
}

#[test]
fn test_drain_that_fails_names_the_device_that_does_not_take_its_answers() {
    let mut rig = answered(&[1, 1]);

    let failed = fail(&mut rig);

    assert_eq!(failed.reason.get(), DrainFailedReason::Deadline as u32);
    assert_eq!((failed.outstanding.get(), failed.flags.get()), (2, 0));
    assert_eq!(failed.untaken.get(), 2);
    assert_eq!(failed.untaken_device.get(), 1);
    assert!(rig.observed(&Observation::DrainFailed {
        generation: 1,
        reason: DrainFailedReason::Deadline,
        outstanding: 2,
        untaken: 2,
        untaken_device: Some(1),
    }));
}

#[test]
fn test_drain_that_fails_counts_the_untaken_answers_of_all_devices() {
    let mut rig = answered(&[0, 1, 1]);
    assert_eq!(rig.core.untaken(), (3, Some(0)));

    rig.answers(0);

    assert_eq!(rig.core.untaken(), (2, Some(1)));
}

#[test]
fn test_drain_that_fails_with_answers_of_a_detached_device_names_none() {
    let mut rig = answered(&[0]);
    rig.core.detach(0, rig.now).unwrap();

    let failed = fail(&mut rig);

    assert_eq!(failed.untaken.get(), 1);
    assert_eq!(failed.untaken_device.get(), DEVICE_NONE);
}

#[test]
fn test_drain_that_fails_with_every_answer_taken_names_no_device() {
    let mut rig = answered(&[0, 1]);
    rig.answers(0);
    rig.answers(1);
    rig.fault(0, &record(0, 9));

    let failed = fail(&mut rig);

    assert_eq!(failed.outstanding.get(), 1);
    assert_eq!((failed.untaken.get(), failed.untaken_device.get()), (0, 0));
}

#[test]
fn test_answers_that_a_hold_keeps_back_are_not_untaken() {
    let mut rig = answered(&[0]);
    rig.core.set_kernel_channel(0);
    rig.core.hold(0, rig.now).unwrap();

    assert_eq!(rig.core.untaken(), (0, None));
}
