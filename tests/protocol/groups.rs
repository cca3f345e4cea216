// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rules of the records of a fault channel, and what breaking each of them leads to.

use std::os::fd::AsFd;

use vhost_user_vsva::{
    frontend::Event,
    wire::{
        LostReason, PgFault, ResponseCode, SmmuCommand, PERM_READ, PGFAULT_PASID_VALID, SSID_MAX,
        U32,
    },
};

use crate::support::{attachment, smmu_event, wait_config, Backend, FaultSource, OneDevice, SID};

/// A record that does not end its group.
fn part(source: &mut FaultSource, cookie: u32) -> PgFault {
    let mut fault = source.fault(1, u64::from(cookie) << 12, PERM_READ);
    fault.cookie = U32::new(cookie);
    fault.flags = U32::new(PGFAULT_PASID_VALID);
    fault
}

/// The next DEVICE_LOST, whatever events come before it.
fn lost(vm: &mut OneDevice) -> (u32, u32) {
    loop {
        match vm.frontend.wait_event().unwrap() {
            Event::DeviceLost { device, reason } => return (device, reason),
            Event::Smmu { .. } => {}
            other => panic!("expected DEVICE_LOST, not {other:?}"),
        }
    }
}

#[test]
fn test_group_interrupted_by_another_cookie_loses_the_device() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let records = [part(&mut vm.source, 1), part(&mut vm.source, 2)];

    vm.source.raise(&records);

    assert_eq!(lost(&mut vm), (0, LostReason::Protocol as u32));
    assert_eq!(vm.source.answers_until_end(), 0);
}

#[test]
fn test_group_with_records_of_two_devices_loses_every_device_of_the_channel() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let mut second = attachment(1);
    second.channel = 0;
    vm.attach.attach(&second, None).unwrap();
    let mut other = vm.source.share(101);
    let records = [part(&mut vm.source, 1), part(&mut other, 1)];

    vm.source.raise(&records);

    let reason = LostReason::Protocol as u32;
    assert_eq!([lost(&mut vm), lost(&mut vm)], [(0, reason), (1, reason)]);
}

#[test]
fn test_cookies_in_any_order_are_groups_of_their_own() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);

    for cookie in [7, 0, u32::MAX, 7] {
        let mut fault = vm.source.fault(1, 0x1000, PERM_READ);
        fault.cookie = U32::new(cookie);
        // Neither has a meaning here.
        fault.reserved = U32::new(u32::MAX);
        fault.length = U32::new(1);
        vm.source.raise(&[fault]);
        let event = smmu_event(&mut vm.frontend);
        vm.resume(&event);
        assert_eq!(vm.source.answer(), (cookie, ResponseCode::Success));
    }
}

#[test]
fn test_pasid_above_20_bits_is_answered_invalid_without_an_event() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);

    let cookie = vm.source.raise_read(SSID_MAX + 1, 0x1000);

    assert_eq!(vm.source.answer(), (cookie, ResponseCode::Invalid));
    let (_, event) = vm.stall(0x2000);
    assert_eq!(event.addr, 0x2000);
    let cookie = vm.source.raise_read(SSID_MAX, 0x3000);
    assert_eq!(smmu_event(&mut vm.frontend).ssid, Some(SSID_MAX));
    assert!(cookie > 0);
}

#[test]
fn test_refused_record_within_a_group_makes_its_answer_invalid_once_the_rest_is_answered() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let first = part(&mut vm.source, 5);
    let mut refused = part(&mut vm.source, 5);
    refused.pasid = U32::new(SSID_MAX + 1);
    let mut last = vm.source.fault(1, 0x9000, PERM_READ);
    last.cookie = U32::new(5);

    vm.source.raise(&[first, refused, last]);

    let event = smmu_event(&mut vm.frontend);
    assert_eq!(event.addr, 0x5000);
    vm.resume(&event);
    assert_eq!(vm.source.answer(), (5, ResponseCode::Invalid));
    assert_eq!(vm.frontend.next_event().unwrap(), None);
}

#[test]
fn test_stall_term_drops_events_that_were_not_sent_and_answers_their_faults() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let buffers = vm.frontend.event_ring().layout().size;
    let count = u32::from(buffers) + 10;
    for n in 0..count {
        vm.source.raise_read(1, u64::from(n) << 12);
    }
    // The last events have no buffer, as none has been given back.
    wait_config(&mut vm.frontend, |config| config.backlog.get() == 10);

    vm.frontend
        .command(&SmmuCommand::StallTerm { sid: SID }.encode())
        .unwrap();
    for _ in 0..count {
        assert_eq!(vm.source.answer().1, ResponseCode::Invalid);
    }

    for n in 0..u64::from(buffers) {
        assert_eq!(smmu_event(&mut vm.frontend).addr, n << 12);
    }
    assert_eq!(vm.frontend.config().unwrap().backlog.get(), 0);
    let (_, event) = vm.stall(0xabc_d000);
    assert_eq!(event.addr, 0xabc_d000);
}

#[test]
fn test_device_lost_for_its_records_can_be_attached_again() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let records = [part(&mut vm.source, 1), part(&mut vm.source, 2)];
    vm.source.raise(&records);
    lost(&mut vm);

    let (source, fd) = FaultSource::new(100);
    vm.attach.attach(&attachment(0), Some(fd.as_fd())).unwrap();
    vm.source = source;

    vm.stall(0x1000);
}
