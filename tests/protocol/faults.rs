// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faults and their answers.

use std::os::fd::AsFd;

use vhost_user_vsva::{
    frontend::{Companions, Event, FrontendError},
    wire::{
        LostReason, ResponseCode, SmmuCommand, PERM_EXEC, PERM_PRIV, PERM_READ, PERM_WRITE,
        PGFAULT_PASID_VALID, U32,
    },
};
use zerocopy::IntoBytes;

use crate::support::{attachment, resume, smmu_event, Backend, FaultSource, OneDevice, SID};

#[test]
fn test_fault_raised_by_device_becomes_event_and_resume_becomes_answer() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);

    let (cookie, event) = vm.stall(0x7f00_1234_5000);
    assert_eq!(event.sid, SID);
    assert_eq!(event.ssid, Some(1));
    assert_eq!(event.addr, 0x7f00_1234_5000);
    assert!(!vm.source.has_answer(), "nobody has answered yet");

    vm.resume(&event);
    assert_eq!(vm.source.answer(), (cookie, ResponseCode::Success));
    vm.frontend.wait_completed().unwrap();
    let config = vm.frontend.config().unwrap();
    assert_eq!(config.outstanding.get(), 0);
    assert_eq!(config.faults_read.get(), 1);
    assert_eq!(config.faults_answered.get(), 1);
}

#[test]
fn test_fault_with_each_permission_keeps_it() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);

    for perm in [
        PERM_READ,
        PERM_WRITE,
        PERM_READ | PERM_WRITE,
        PERM_READ | PERM_EXEC,
        PERM_READ | PERM_PRIV,
        PERM_WRITE | PERM_PRIV,
    ] {
        let fault = vm.source.fault(5, 0x1000, perm);
        vm.source.raise(&[fault]);
        let event = smmu_event(&mut vm.frontend);
        assert_eq!(event.write, perm & PERM_WRITE != 0, "{perm:#x}");
        assert_eq!(event.exec, perm & PERM_EXEC != 0, "{perm:#x}");
        assert_eq!(event.privileged, perm & PERM_PRIV != 0, "{perm:#x}");
    }
}

#[test]
fn test_fault_without_pasid_has_no_ssid() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);

    let mut fault = vm.source.fault(7, 0x1000, PERM_READ);
    fault.flags = U32::new(fault.flags.get() & !PGFAULT_PASID_VALID);
    vm.source.raise(&[fault]);

    assert_eq!(smmu_event(&mut vm.frontend).ssid, None);
}

#[test]
fn test_resume_abort_answers_invalid() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let (cookie, event) = vm.stall(0x1000);

    let abort = SmmuCommand::Resume {
        sid: SID,
        stag: event.stag,
        code: ResponseCode::Invalid,
    };
    vm.frontend.command(&abort.encode()).unwrap();

    assert_eq!(vm.source.answer(), (cookie, ResponseCode::Invalid));
}

#[test]
fn test_resume_twice_answers_once() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let (cookie, event) = vm.stall(0x1000);

    vm.resume(&event);
    vm.resume(&event);
    vm.frontend.wait_completed().unwrap();

    assert_eq!(vm.source.answer(), (cookie, ResponseCode::Success));
    assert!(!vm.source.has_answer());
    assert_eq!(vm.frontend.config().unwrap().unknown_answers.get(), 1);
}

#[test]
fn test_resume_of_other_sid_is_counted_and_answers_nothing() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let (_, mut event) = vm.stall(0x1000);

    event.sid += 1;
    vm.resume(&event);
    vm.frontend.wait_completed().unwrap();

    assert!(!vm.source.has_answer());
    let config = vm.frontend.config().unwrap();
    assert_eq!(config.unknown_answers.get(), 1);
    assert_eq!(config.outstanding.get(), 1);
}

#[test]
fn test_stall_term_answers_all_faults_of_the_sid_invalid() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let (mut other, fd) = FaultSource::new(101);
    vm.attach.attach(&attachment(1), Some(fd.as_fd())).unwrap();
    let cookies: Vec<u32> = (0..3).map(|n| vm.stall(n << 12).0).collect();
    other.raise_read(1, 0x9000);
    smmu_event(&mut vm.frontend);

    let command = SmmuCommand::StallTerm { sid: SID };
    vm.frontend.command(&command.encode()).unwrap();

    let mut answers: Vec<_> = cookies.iter().map(|_| vm.source.answer()).collect();
    answers.sort_by_key(|(cookie, _)| *cookie);
    let expected: Vec<_> = cookies
        .iter()
        .map(|cookie| (*cookie, ResponseCode::Invalid))
        .collect();
    assert_eq!(answers, expected);
    vm.frontend.wait_completed().unwrap();
    assert!(!other.has_answer());
}

#[test]
fn test_answers_out_of_order_reach_their_faults() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let faults: Vec<_> = (0..64).map(|n| vm.stall(n << 12)).collect();

    for (_, event) in faults.iter().rev() {
        vm.resume(event);
    }

    for (cookie, _) in faults.iter().rev() {
        assert_eq!(vm.source.answer(), (*cookie, ResponseCode::Success));
    }
}

#[test]
fn test_group_of_faults_is_answered_once_with_its_last() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let mut group: Vec<_> = (0..3)
        .map(|n| vm.source.fault(1, n << 12, PERM_READ))
        .collect();
    for fault in &mut group {
        fault.cookie = U32::new(77);
    }
    for fault in &mut group[..2] {
        fault.flags = U32::new(PGFAULT_PASID_VALID);
    }
    vm.source.raise(&group);
    let events: Vec<_> = (0..3).map(|_| smmu_event(&mut vm.frontend)).collect();

    vm.resume(&events[2]);
    vm.resume(&events[0]);
    vm.frontend.wait_completed().unwrap();
    assert!(!vm.source.has_answer());
    vm.resume(&events[1]);

    assert_eq!(vm.source.answer(), (77, ResponseCode::Success));
}

#[test]
fn test_pri_device_is_answered_by_pri_resp() {
    let backend = Backend::start();
    let mut frontend = backend.connect();
    let mut attach = frontend.attach_channel().unwrap();
    let (mut source, fd) = FaultSource::new(100);
    let mut attachment = attachment(0);
    attachment.pri = true;
    attach.attach(&attachment, Some(fd.as_fd())).unwrap();
    let mut fault = source.fault(3, 0x1000, PERM_READ);
    fault.grpid = U32::new(9);
    source.raise(&[fault]);
    let event = smmu_event(&mut frontend);
    assert_eq!(event.ssid, Some(3));

    let command = SmmuCommand::PriResp {
        sid: SID,
        ssid: Some(3),
        group: 9,
        code: ResponseCode::Success,
    };
    frontend.command(&command.encode()).unwrap();

    assert_eq!(source.answer(), (fault.cookie.get(), ResponseCode::Success));
}

#[test]
fn test_two_devices_on_one_channel_keep_their_sids() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let mut second = attachment(1);
    second.channel = 0;
    vm.attach.attach(&second, None).unwrap();
    let mut sharer = vm.source.share(101);

    let (first_cookie, first) = vm.stall(0x1000);
    let second_cookie = sharer.raise_read(2, 0x2000);
    let second = smmu_event(&mut vm.frontend);
    assert_eq!((first.sid, second.sid), (SID, SID + 1));

    resume(&mut vm.frontend, &second);
    assert_eq!(vm.source.answer(), (second_cookie, ResponseCode::Success));
    resume(&mut vm.frontend, &first);
    assert_eq!(vm.source.answer(), (first_cookie, ResponseCode::Success));
}

#[test]
fn test_fault_in_pieces_is_put_together() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let first = vm.source.fault(1, 0x1000, PERM_READ);
    let second = vm.source.fault(1, 0x2000, PERM_READ);
    let bytes = [first.as_bytes(), second.as_bytes()].concat();

    vm.source.send_bytes(&bytes[..45]);
    assert_eq!(smmu_event(&mut vm.frontend).addr, 0x1000);
    vm.source.send_bytes(&bytes[45..]);

    assert_eq!(smmu_event(&mut vm.frontend).addr, 0x2000);
}

#[test]
fn test_more_faults_than_the_table_holds_are_all_served() {
    let backend = Backend::start_with(&["--max-faults=8"]);
    let mut vm = OneDevice::new(&backend);
    let faults: Vec<_> = (0..100)
        .map(|n| vm.source.fault(1, n << 12, PERM_READ))
        .collect();
    vm.source.raise(&faults);

    for fault in &faults {
        let event = smmu_event(&mut vm.frontend);
        assert_eq!(event.addr, fault.addr.get());
        assert!(vm.frontend.config().unwrap().outstanding.get() <= 8);
        vm.resume(&event);
        assert_eq!(vm.source.answer().0, fault.cookie.get());
    }
}

#[test]
fn test_more_events_than_buffers_are_all_delivered_in_order() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let faults: Vec<_> = (0..1000)
        .map(|n| vm.source.fault(1, n << 12, PERM_READ))
        .collect();
    vm.source.raise(&faults);

    for fault in &faults {
        assert_eq!(smmu_event(&mut vm.frontend).addr, fault.addr.get());
    }
}

#[test]
fn test_device_reset_answers_its_faults_and_drops_its_events() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let (cookie, event) = vm.stall(0x1000);

    vm.frontend.reset(0).unwrap();
    assert_eq!(vm.source.answer(), (cookie, ResponseCode::Invalid));
    vm.resume(&event);
    vm.frontend.wait_completed().unwrap();

    assert!(!vm.source.has_answer());
}

#[test]
fn test_fault_channel_closed_by_device_is_reported_lost() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    vm.stall(0x1000);

    drop(vm.source);

    let event = vm.frontend.wait_event().unwrap();
    let lost = Event::DeviceLost {
        device: 0,
        reason: LostReason::Ended as u32,
    };
    assert_eq!(event, lost);
    assert_eq!(vm.frontend.config().unwrap().outstanding.get(), 0);
}

#[test]
fn test_detach_with_outstanding_faults_answers_them_before_the_reply() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let (cookie, _) = vm.stall(0x1000);

    vm.attach.detach(0).unwrap();

    assert!(vm.source.has_answer());
    assert_eq!(vm.source.answer(), (cookie, ResponseCode::Invalid));
}

#[test]
fn test_cookie_used_again_at_once_names_the_new_fault() {
    const ROUNDS: u64 = 3000;
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let mut source = vm.source;
    // As the kernel does: the lowest free number, free as soon as the answer is there.
    let device = std::thread::spawn(move || {
        let mut fault = source.fault(1, 0, PERM_READ);
        for round in 0..ROUNDS {
            fault.addr = (round << 12).into();
            source.raise(&[fault]);
            assert_eq!(source.answer(), (1, ResponseCode::Success));
        }
    });

    for round in 0..ROUNDS {
        let event = smmu_event(&mut vm.frontend);
        assert_eq!(event.addr, round << 12);
        resume(&mut vm.frontend, &event);
    }

    device.join().unwrap();
}

#[test]
fn test_lost_device_after_detach_can_be_attached_again() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    vm.stall(0x1000);
    drop(vm.source);
    assert!(matches!(
        vm.frontend.wait_event().unwrap(),
        Event::DeviceLost { device: 0, .. }
    ));

    vm.attach.detach(0).unwrap();
    let (mut source, fd) = FaultSource::new(100);
    vm.attach.attach(&attachment(0), Some(fd.as_fd())).unwrap();
    let cookie = source.raise_read(1, 0x2000);
    let event = smmu_event(&mut vm.frontend);
    resume(&mut vm.frontend, &event);

    assert_eq!(source.answer(), (cookie, ResponseCode::Success));
}

#[test]
fn test_lost_channel_leaves_the_devices_of_others_alone() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let (mut other, fd) = FaultSource::new(101);
    vm.attach.attach(&attachment(1), Some(fd.as_fd())).unwrap();
    let cookie = other.raise_read(1, 0x9000);
    let event = smmu_event(&mut vm.frontend);
    drop(vm.source);
    assert!(matches!(
        vm.frontend.wait_event().unwrap(),
        Event::DeviceLost { device: 0, .. }
    ));

    resume(&mut vm.frontend, &event);

    assert_eq!(other.answer(), (cookie, ResponseCode::Success));
}

#[test]
fn test_end_of_the_owner_process_loses_its_devices() {
    let backend = Backend::start();
    let mut frontend = backend.connect();
    let mut attach = frontend.attach_channel().unwrap();
    let (_source, fd) = FaultSource::new(100);
    let mut owner = std::process::Command::new("/bin/cat")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pidfd = rustix::process::pidfd_open(
        rustix::process::Pid::from_child(&owner),
        rustix::process::PidfdFlags::empty(),
    )
    .unwrap();
    let companions = Companions {
        fault_fd: Some(fd.as_fd()),
        owner: Some(pidfd.as_fd()),
        ..Companions::default()
    };
    attach.attach_with(&attachment(0), &companions).unwrap();

    owner.kill().unwrap();
    owner.wait().unwrap();

    let lost = Event::DeviceLost {
        device: 0,
        reason: LostReason::Owner as u32,
    };
    assert_eq!(frontend.wait_event().unwrap(), lost);
}

#[test]
fn test_hold_of_emulated_device_is_refused_and_changes_nothing() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let (cookie, event) = vm.stall(0x1000);

    for result in [
        vm.attach.hold(0),
        vm.attach.unhold(0, true),
        vm.attach.hold(9),
    ] {
        assert!(matches!(result, Err(FrontendError::Refused { .. })));
    }

    vm.resume(&event);
    assert_eq!(vm.source.answer(), (cookie, ResponseCode::Success));
}

#[test]
fn test_as_many_devices_as_allowed_are_attached_and_served() {
    let backend = Backend::start_with(&["--max-devices=256"]);
    let mut frontend = backend.connect();
    let mut attach = frontend.attach_channel().unwrap();
    let mut sources = Vec::new();
    for device in 0..256 {
        let (source, fd) = FaultSource::new(100 + device);
        attach
            .attach(&attachment(device), Some(fd.as_fd()))
            .unwrap();
        sources.push(source);
    }

    for (device, source) in (0..).zip(&mut sources) {
        let cookie = source.raise_read(1, 0x1000);
        let event = smmu_event(&mut frontend);
        assert_eq!(event.sid, SID + device);
        resume(&mut frontend, &event);
        assert_eq!(source.answer(), (cookie, ResponseCode::Success));
    }
}

#[test]
fn test_detached_channel_whose_answers_go_out_late_is_closed() {
    // More answers than a socket takes.
    const FAULTS: u32 = 60_000;
    let backend = Backend::start_with(&["--max-faults=65536", "--max-device-faults=65536"]);
    let mut vm = OneDevice::new(&backend);
    let faults: Vec<_> = (0..u64::from(FAULTS))
        .map(|n| vm.source.fault(1, n << 12, PERM_READ))
        .collect();
    vm.source.raise(&faults);
    while vm.frontend.config().unwrap().outstanding.get() < FAULTS {
        std::thread::yield_now();
    }

    vm.attach.detach(0).unwrap();
    assert!(vm.frontend.config().unwrap().outstanding.get() > 0);
    assert_eq!(vm.source.answers_until_end(), faults.len());

    let (_source, fd) = FaultSource::new(100);
    vm.attach.attach(&attachment(0), Some(fd.as_fd())).unwrap();
}

/// Waits until the engine sleeps and the front end is asked for kicks.
fn wait_until_kicks_are_wanted(vm: &mut OneDevice) {
    let ring = vm.frontend.portal_ring();
    while !ring.kicks_wanted().unwrap() {
        std::thread::yield_now();
    }
}

#[test]
fn test_busy_polling_serves_what_comes_before_and_after_it_sleeps() {
    let backend = Backend::start_with(&["--busy-poll-us=1000"]);
    let mut vm = OneDevice::new(&backend);

    for round in 0..200 {
        let (cookie, event) = vm.stall(0x1000 + (round << 12));
        if round % 10 == 0 {
            wait_until_kicks_are_wanted(&mut vm);
        }
        vm.resume(&event);
        assert_eq!(vm.source.answer(), (cookie, ResponseCode::Success));
        if round % 10 == 5 {
            wait_until_kicks_are_wanted(&mut vm);
        }
    }

    vm.frontend.wait_completed().unwrap();
    let config = vm.frontend.config().unwrap();
    assert_eq!(
        (config.faults_answered.get(), config.outstanding.get()),
        (200, 0)
    );
}

#[test]
fn test_busy_polling_ends_with_its_connection() {
    let backend = Backend::start_with(&["--busy-poll-us=1000"]);
    for _ in 0..10 {
        let mut vm = OneDevice::with_frontend(backend.connect_anew());
        let (cookie, event) = vm.stall(0x1000);
        vm.resume(&event);
        assert_eq!(vm.source.answer(), (cookie, ResponseCode::Success));
    }
}
