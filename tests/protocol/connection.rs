// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Negotiation, the attach channel, reconnection.

use std::os::{
    fd::{AsFd, OwnedFd},
    unix::net::UnixDatagram,
};

use rustix::io::Errno;
use vhost_user_vsva::{
    core::Phase,
    frontend::{Event, Frontend, FrontendError, Options},
    wire::{
        AttachPacket, AttachReply, AttachType, LostReason, ResponseCode, ATTACH_FLAG_VEVENTQ,
        ATTACH_PACKET_SIZE, U32,
    },
};

use crate::support::{
    attachment, options, smmu_event, submission, Backend, FaultSource, OneDevice, LONG,
};

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, FrontendError>, expected: Errno) {
    match result {
        Err(FrontendError::Refused { errno, text }) => {
            assert_eq!(errno, expected);
            assert!(!text.is_empty());
        }
        other => panic!("expected a refusal, not {other:?}"),
    }
}

#[test]
fn test_negotiate_with_default_options_offers_migration_blocking() {
    let backend = Backend::start();
    assert!(backend.connect().migration_blocking());
}

#[test]
fn test_negotiate_without_migration_blocking_is_not_offered_it() {
    for option in ["--without-migration-blocking", "--x-no-migration-blocking"] {
        let backend = Backend::start_with(&[option]);
        let mut vm = OneDevice::new(&backend);
        assert!(!vm.frontend.migration_blocking());
        vm.stall(0x1000);
    }
}

#[test]
fn test_negotiate_by_front_end_without_the_bit_works() {
    let backend = Backend::start();
    let without = Options {
        migration_blocking: false,
        ..options()
    };
    let frontend = Frontend::connect(backend.socket(), &without).unwrap();
    assert!(!frontend.migration_blocking());
}

#[test]
fn test_config_shows_limits_and_versions() {
    let backend = Backend::start_with(&[
        "--max-devices=3",
        "--max-faults=70",
        "--max-pending=80",
        "--x-state-version=9",
    ]);
    let config = backend.connect().config().unwrap();
    assert_eq!(config.max_devices.get(), 3);
    assert_eq!(config.max_faults.get(), 70);
    assert_eq!(config.max_pending.get(), 80);
    assert_eq!(config.state_version.get(), 9);
    assert_eq!(config.state_compat.get(), 9);
    assert_eq!(config.phase.get(), Phase::Running as u32);
}

#[test]
fn test_state_of_newer_version_is_refused_and_of_older_one_is_taken() {
    let old = Backend::start();
    let new = Backend::start_with(&["--x-state-version=2"]);
    let mut states = Vec::new();
    for backend in [&old, &new] {
        let mut frontend = backend.negotiate();
        states.push(frontend.save().unwrap());
    }
    old.negotiate().load(&states[1]).unwrap_err();
    old.negotiate().load(&states[0]).unwrap();
    new.negotiate().load(&states[0]).unwrap();
}

#[test]
fn test_attach_with_wrong_descriptors_is_refused_and_closes_them() {
    let backend = Backend::start();
    let mut frontend = backend.connect();
    let mut attach = frontend.attach_channel().unwrap();
    let before = backend.descriptors(&mut frontend);
    let (_source, fd) = FaultSource::new(100);
    let (datagram, _peer) = UnixDatagram::pair().unwrap();
    let file = OwnedFd::from(tempfile::tempfile().unwrap());
    let fd = fd.as_fd();

    assert_refused(attach.attach(&attachment(0), None), Errno::INVAL);
    assert_refused(
        attach.attach(&attachment(0), Some(datagram.as_fd())),
        Errno::INVAL,
    );
    assert_refused(
        attach.attach(&attachment(0), Some(file.as_fd())),
        Errno::INVAL,
    );
    let request = AttachPacket::new::<[u8; 0]>(AttachType::Attach, 0, &[]);
    for count in [2, 3, 8, 9, 15] {
        assert_refused(attach.request(request, &vec![fd; count]), Errno::INVAL);
    }
    let detach = AttachPacket::new::<[u8; 0]>(AttachType::Detach, 0, &[]);
    assert_refused(attach.request(detach, &[fd]), Errno::INVAL);
    let mut unknown = request;
    unknown.kind = U32::new(77);
    assert_refused(attach.request(unknown, &[fd, fd]), Errno::INVAL);

    assert_eq!(backend.descriptors(&mut frontend), before);
    attach.attach(&attachment(0), Some(fd)).unwrap();
}

#[test]
fn test_attach_channel_after_malformed_packets_still_works() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let before = backend.descriptors(&mut vm.frontend);
    let (_source, fd) = FaultSource::new(101);

    for len in [1, 39, ATTACH_PACKET_SIZE - 1, ATTACH_PACKET_SIZE + 1, 4096] {
        vm.attach.send(&vec![0xff; len], &[fd.as_fd()]).unwrap();
        let reply = vm.attach.receive().unwrap();
        let reply: AttachReply = reply.payload();
        let status = i32::try_from(reply.status.get()).unwrap();
        assert_eq!(status, Errno::INVAL.raw_os_error(), "{len}");
    }

    assert_eq!(backend.descriptors(&mut vm.frontend), before);
    vm.attach.attach(&attachment(1), Some(fd.as_fd())).unwrap();
}

#[test]
fn test_attach_of_taken_number_sid_or_dev_id_is_refused() {
    let backend = Backend::start_with(&["--max-devices=4"]);
    let mut vm = OneDevice::new(&backend);
    let before = backend.descriptors(&mut vm.frontend);
    let (_source, fd) = FaultSource::new(101);
    let fd = fd.as_fd();

    let mut taken = attachment(0);
    taken.channel = 1;
    assert_refused(vm.attach.attach(&taken, Some(fd)), Errno::EXIST);
    let mut taken = attachment(1);
    taken.vsid = attachment(0).vsid;
    assert_refused(vm.attach.attach(&taken, Some(fd)), Errno::EXIST);
    let mut taken = attachment(1);
    taken.channel = 0;
    taken.dev_id = attachment(0).dev_id;
    assert_refused(vm.attach.attach(&taken, None), Errno::EXIST);
    assert_refused(vm.attach.attach(&attachment(4), Some(fd)), Errno::INVAL);
    let mut existing = attachment(1);
    existing.channel = 0;
    assert_refused(vm.attach.attach(&existing, Some(fd)), Errno::INVAL);
    assert_refused(vm.attach.detach(3), Errno::NODEV);

    assert_eq!(backend.descriptors(&mut vm.frontend), before);
    vm.stall(0x1000);
}

#[test]
fn test_attach_with_socket_as_veventq_is_refused_and_closes_it() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let before = backend.descriptors(&mut vm.frontend);
    let (_source, fd) = FaultSource::new(101);
    let mut request = AttachPacket::new::<[u8; 0]>(AttachType::Attach, 1, &[]);
    request.flags = U32::new(ATTACH_FLAG_VEVENTQ);

    let result = vm.attach.request(request, &[fd.as_fd(), fd.as_fd()]);

    assert_refused(result, Errno::INVAL);
    assert_eq!(backend.descriptors(&mut vm.frontend), before);
}

#[test]
fn test_detach_and_attach_again_uses_the_new_channel() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let before = backend.descriptors(&mut vm.frontend);
    vm.stall(0x1000);
    vm.attach.detach(0).unwrap();

    let (mut source, fd) = FaultSource::new(100);
    vm.attach.attach(&attachment(0), Some(fd.as_fd())).unwrap();
    assert_eq!(backend.descriptors(&mut vm.frontend), before);
    let cookie = source.raise_read(1, 0x2000);
    let event = smmu_event(&mut vm.frontend);
    assert_eq!(event.addr, 0x2000);
    vm.resume(&event);

    assert_eq!(source.answer(), (cookie, ResponseCode::Success));
}

#[test]
fn test_second_attach_channel_replaces_the_first_and_keeps_devices() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let mut second = vm.frontend.attach_channel().unwrap();

    assert_refused(second.attach(&attachment(0), None), Errno::EXIST);
    vm.attach.detach(0).unwrap_err();
    vm.stall(0x1000);
    drop(second);
    vm.stall(0x2000);
}

#[test]
fn test_reconnect_with_fault_outstanding_and_queue_keeps_both() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let (cookie, event) = vm.stall(0x1000);
    vm.frontend.drain(1, LONG).unwrap();
    for ticket in 0..10 {
        vm.frontend.submit(0, &submission(ticket)).unwrap();
    }
    vm.frontend.wait_completed().unwrap();
    let OneDevice {
        frontend,
        mut source,
        ..
    } = vm;
    drop(frontend);

    let mut frontend = backend.connect();
    let config = frontend.config().unwrap();
    assert_eq!(config.phase.get(), Phase::Draining as u32);
    assert_eq!(config.outstanding.get(), 1);
    assert_eq!(config.pending.get(), 10);
    crate::support::resume(&mut frontend, &event);
    assert_eq!(source.answer(), (cookie, ResponseCode::Success));
    frontend.release(1).unwrap();
    for ticket in 0..10 {
        let expected = Event::Replay {
            device: 0,
            submission: submission(ticket),
        };
        assert_eq!(frontend.wait_event().unwrap(), expected);
    }
}

#[test]
fn test_reconnect_delivers_faults_that_came_meanwhile() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    vm.stall(0x1000);
    let OneDevice {
        frontend,
        mut source,
        ..
    } = vm;
    drop(frontend);
    // When a new connection is served, the one before it is over.
    let mut frontend = backend.negotiate();
    let cookie = source.raise_read(1, 0x2000);

    frontend.start().unwrap();
    let event = smmu_event(&mut frontend);
    assert_eq!(event.addr, 0x2000);
    crate::support::resume(&mut frontend, &event);
    assert_eq!(source.answer(), (cookie, ResponseCode::Success));
}

#[test]
fn test_reconnect_reports_lost_device_until_it_is_attached_again() {
    let backend = Backend::start();
    let OneDevice {
        mut frontend,
        source,
        ..
    } = OneDevice::new(&backend);
    let lost = Event::DeviceLost {
        device: 0,
        reason: LostReason::Ended as u32,
    };
    drop(source);
    assert_eq!(frontend.wait_event().unwrap(), lost);
    drop(frontend);

    let mut frontend = backend.connect();
    assert_eq!(frontend.wait_event().unwrap(), lost);
    let (mut source, fd) = FaultSource::new(100);
    let mut attach = frontend.attach_channel().unwrap();
    attach.attach(&attachment(0), Some(fd.as_fd())).unwrap();
    drop(frontend);

    let mut frontend = backend.connect();
    source.raise_read(1, 0x1000);
    assert_eq!(smmu_event(&mut frontend).addr, 0x1000);
}

#[test]
fn test_many_connections_leave_no_descriptor_behind() {
    let backend = Backend::start();
    let mut frontend = backend.connect();
    let before = backend.descriptors(&mut frontend);
    drop(frontend);

    for _ in 0..20 {
        frontend = backend.connect();
        drop(frontend);
    }

    // When a new connection is served, the one before it has been cleaned up.
    let mut frontend = backend.connect();
    assert_eq!(backend.descriptors(&mut frontend), before);
}
