// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! No device takes the room of the others.

use super::rig::{desc, limits, part, record, sid, Rig};
use crate::core::{Attachment, FaultError, Limits};
use crate::wire::{ResponseCode, SmmuCommand};

/// Devices 0, 1, ... each on a channel of its own, and a table for so many faults.
fn rig(devices: u32, max_faults: u32) -> Rig {
    let mut rig = Rig::with_limits(Limits {
        max_faults,
        max_device_faults: 0,
        ..limits()
    });
    for device in 0..devices {
        rig.attach(&desc(device, device));
    }
    rig
}

fn pri(device: u32, channel: u32) -> Attachment {
    Attachment {
        pri: true,
        ..desc(device, channel)
    }
}

/// Raises faults of a device, with cookies from `first` on, until there is no room, and returns how
/// many were taken.
fn raise(rig: &mut Rig, device: u32, channel: u32, first: u32) -> u32 {
    for cookie in first.. {
        match rig.try_fault(channel, &record(device, cookie)) {
            Ok(()) => {}
            Err(FaultError::NoRoom { .. }) => return cookie - first,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!()
}

fn share(rig: &Rig) -> u32 {
    rig.core.status(rig.now).fault_share.get()
}

#[test]
fn test_device_at_its_share_leaves_the_same_for_the_others() {
    let mut rig = rig(2, 9);

    let taken = [raise(&mut rig, 0, 0, 1), raise(&mut rig, 1, 1, 1)];

    assert_eq!(taken, [3, 3]);
    assert_eq!(share(&rig), 3);
    rig.attach(&desc(2, 2));
    assert_eq!(share(&rig), 2);
    assert_eq!(raise(&mut rig, 2, 2, 1), 2);
}

#[test]
fn test_device_above_its_new_share_keeps_its_faults_and_gets_no_more() {
    let mut rig = rig(1, 8);
    assert_eq!(raise(&mut rig, 0, 0, 1), 4);
    let stags = rig.stags();

    rig.attach(&desc(1, 1));
    assert_eq!(share(&rig), 2);
    assert_eq!(rig.core.fault_room(0), 0);
    let mut wanted = Vec::new();
    for stag in &stags {
        wanted.push(rig.core.wants_read(0));
        rig.resume(0, *stag);
    }

    assert_eq!(wanted, [false, false, false, true]);
    assert_eq!(rig.answers(0), [(1, 0), (2, 0), (3, 0), (4, 0)]);
    assert_eq!(raise(&mut rig, 0, 0, 5), 2);
    assert_eq!(raise(&mut rig, 1, 1, 1), 2);
}

#[test]
fn test_share_grows_when_a_device_is_detached() {
    let mut rig = rig(3, 8);
    assert_eq!(raise(&mut rig, 0, 0, 1), 2);
    assert!(!rig.core.wants_read(0));

    rig.core.detach(1, rig.now).unwrap();
    rig.core.detach(2, rig.now).unwrap();

    assert_eq!(share(&rig), 4);
    assert!(rig.core.wants_read(0));
    assert_eq!(raise(&mut rig, 0, 0, 3), 2);
}

#[test]
fn test_device_with_a_limit_of_its_own_has_that_instead_of_a_share() {
    let mut rig = rig(2, 8);
    for (device, max_outstanding) in [(2, 1), (3, 4)] {
        rig.attach(&Attachment {
            max_outstanding,
            ..desc(device, device)
        });
    }

    let taken = [2, 3].map(|device| raise(&mut rig, device, device, 1));

    assert_eq!(taken, [1, 4]);
}

#[test]
fn test_share_that_is_set_holds_for_any_number_of_devices() {
    let mut rig = Rig::with_limits(Limits {
        max_device_faults: 5,
        ..limits()
    });
    rig.attach(&desc(0, 0));
    rig.attach(&desc(1, 1));

    let taken = [0, 1].map(|device| raise(&mut rig, device, device, 1));

    assert_eq!(taken, [5, 3]);
    assert_eq!(share(&rig), 5);
}

#[test]
fn test_more_devices_than_faults_have_one_each_as_long_as_there_is_one() {
    let mut rig = rig(4, 2);

    let taken = [0, 1, 2, 3].map(|device| raise(&mut rig, device, device, 1));

    assert_eq!(taken, [1, 1, 0, 0]);
    assert_eq!(share(&rig), 1);
}

#[test]
fn test_device_at_its_share_holds_up_its_channel_and_no_other() {
    let mut rig = rig(1, 12);
    rig.attach(&desc(1, 0));
    rig.attach(&desc(2, 1));
    assert_eq!(raise(&mut rig, 0, 0, 1), 3);
    let stags = rig.stags();

    // The record of device 0 is first in the channel, and what is behind it waits.
    assert!(!rig.core.wants_read(0));
    assert_eq!(raise(&mut rig, 2, 1, 1), 3);
    rig.resume(0, stags[0]);

    assert!(rig.core.wants_read(0));
    rig.fault(0, &record(0, 4));
    assert_eq!(raise(&mut rig, 1, 0, 5), 3);
}

#[test]
fn test_channel_whose_answers_are_not_read_leaves_room_for_others() {
    let mut rig = rig(2, 9);
    let mut cookie = 0;
    let full = loop {
        cookie += 1;
        match rig.try_fault(0, &record(0, cookie)) {
            Ok(()) => {
                let stag = rig.stags()[0];
                rig.resume(0, stag);
            }
            Err(error) => break error,
        }
        assert!(cookie < 1000, "bounded");
    };
    assert_eq!(full, FaultError::NoRoom { channel: 0 });
    assert!(!rig.core.wants_read(0));

    assert_eq!(raise(&mut rig, 1, 1, 1), 3);
    rig.core.answers_written(0, 1, rig.now);

    assert!(rig.core.wants_read(0));
    assert_eq!(rig.try_fault(0, &record(0, cookie)), Ok(()));
}

#[test]
fn test_channel_with_faults_of_unknown_devices_leaves_room_for_others() {
    let mut rig = rig(2, 9);

    // Device 3 is not attached: each is answered INVALID, and nobody reads the answers.
    let unknown = raise(&mut rig, 3, 0, 1);

    assert_eq!(unknown, 4);
    assert_eq!(raise(&mut rig, 1, 1, 1), 3);
}

#[test]
fn test_group_of_stalls_larger_than_the_share_goes_on_as_the_guest_answers() {
    let mut rig = rig(1, 4);
    let mut answered = 0;
    for _ in 0..9 {
        while rig.try_fault(0, &part(0, 1)).is_err() {
            answered += rig.resume_all(0);
        }
    }
    rig.fault(0, &record(0, 1));
    answered += rig.resume_all(0);

    assert_eq!(answered, 10);
    assert_eq!(rig.answers(0), [(1, 0)]);
}

#[test]
fn test_page_request_larger_than_the_share_of_an_idle_device_is_refused_as_a_whole() {
    let mut rig = rig(0, 4);
    rig.attach(&pri(0, 0));
    for _ in 0..2 {
        rig.fault(0, &part(0, 1));
    }
    rig.fault(0, &part(0, 1));
    rig.fault(0, &record(0, 1));

    assert_eq!(rig.messages(), []);
    assert_eq!(rig.answers(0), [(1, 1)]);
    rig.fault(0, &part(0, 2));
    rig.fault(0, &record(0, 2));
    assert_eq!(rig.stags().len(), 2);
}

#[test]
fn test_page_request_too_large_waits_for_the_others_of_its_device_before_it_is_refused() {
    let mut rig = rig(0, 6);
    rig.attach(&pri(0, 0));
    rig.fault(0, &record(0, 1));
    for _ in 0..2 {
        rig.fault(0, &part(0, 2));
    }
    rig.messages();
    let too_many = rig.try_fault(0, &part(0, 2));
    assert_eq!(too_many, Err(FaultError::NoRoom { channel: 0 }));
    assert!(!rig.core.wants_read(0));
    rig.command(SmmuCommand::PriResp {
        sid: sid(0),
        ssid: Some(1),
        group: 1,
        code: ResponseCode::Success,
    });
    assert_eq!(rig.answers(0), [(1, 0)]);

    rig.fault(0, &part(0, 2));
    rig.fault(0, &part(0, 2));
    rig.fault(0, &record(0, 2));

    assert_eq!(rig.answers(0), [(2, 1)]);
}

#[test]
fn test_page_request_above_the_share_that_has_shrunk_is_refused_and_not_stuck() {
    let mut rig = rig(0, 8);
    rig.attach(&pri(0, 0));
    rig.fault(0, &record(0, 1));
    for _ in 0..3 {
        rig.fault(0, &part(0, 2));
    }
    rig.messages();
    rig.try_fault(0, &record(0, 2)).unwrap_err();

    rig.attach(&desc(1, 1));
    assert!(!rig.core.wants_read(0));
    rig.command(SmmuCommand::PriResp {
        sid: sid(0),
        ssid: Some(1),
        group: 1,
        code: ResponseCode::Success,
    });

    assert!(rig.core.wants_read(0));
    rig.fault(0, &record(0, 2));
    assert_eq!(rig.answers(0), [(1, 0), (2, 1)]);
}

#[test]
fn test_page_requests_that_fill_the_table_together_do_not_wait_for_each_other() {
    let mut rig = Rig::with_limits(limits());
    rig.attach(&pri(0, 0));
    rig.attach(&pri(1, 1));
    for _ in 0..4 {
        rig.fault(0, &part(0, 1));
        rig.fault(1, &part(1, 1));
    }
    rig.messages();

    rig.fault(0, &record(0, 1));
    rig.fault(1, &record(1, 1));
    rig.messages();
    rig.command(SmmuCommand::PriResp {
        sid: sid(1),
        ssid: Some(1),
        group: 1,
        code: ResponseCode::Success,
    });

    assert_eq!(rig.answers(0), [(1, 1)]);
    assert_eq!(rig.answers(1), [(1, 0)]);
}

#[test]
fn test_page_request_waits_for_a_full_table_that_the_guest_can_answer() {
    let mut rig = Rig::with_limits(limits());
    rig.attach(&pri(0, 0));
    rig.attach(&desc(1, 1));
    for _ in 0..4 {
        rig.fault(0, &part(0, 1));
        rig.fault(1, &part(1, 1));
    }
    let full = rig.try_fault(0, &record(0, 1));
    assert_eq!(full, Err(FaultError::NoRoom { channel: 0 }));
    assert!(!rig.core.wants_read(0));
    rig.command(SmmuCommand::StallTerm { sid: sid(1) });

    rig.fault(0, &record(0, 1));

    assert_eq!(rig.peek_answers(0), []);
}
