// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! No device takes the room that another needs.

use std::os::fd::AsFd;

use vhost_user_vsva::wire::{ResponseCode, PERM_READ};

use crate::support::{attachment, resume, smmu_event, Backend, FaultSource, SID};

#[test]
fn test_device_that_floods_leaves_room_for_another() {
    let backend = Backend::start_with(&["--max-faults=9"]);
    let mut frontend = backend.connect();
    let mut attach = frontend.attach_channel().unwrap();
    let (mut flood, flood_fd) = FaultSource::new(100);
    let (mut other, other_fd) = FaultSource::new(101);
    for (device, fd) in [(0, &flood_fd), (1, &other_fd)] {
        attach
            .attach(&attachment(device), Some(fd.as_fd()))
            .unwrap();
    }
    let faults: Vec<_> = (0..100)
        .map(|n| flood.fault(1, n << 12, PERM_READ))
        .collect();
    flood.raise(&faults);
    let share: Vec<_> = (0..3).map(|_| smmu_event(&mut frontend)).collect();
    assert!(share.iter().all(|event| event.sid == SID));

    let cookie = other.raise_read(1, 0x1000);
    let event = smmu_event(&mut frontend);
    assert_eq!(event.sid, SID + 1);
    assert_eq!(frontend.config().unwrap().outstanding.get(), 4);
    resume(&mut frontend, &event);

    assert_eq!(other.answer(), (cookie, ResponseCode::Success));
}
