// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Front ends and devices that do not behave.

use std::{io::Write, os::unix::net::UnixStream};

use vhost::vhost_user::message::VhostTransferStateDirection;
use vhost_user_vsva::{
    frontend::{Event, Frontend, FrontendError},
    wire::{LostReason, Message, MessageType, DEVICE_NONE, PERM_READ, U16, U64},
};
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;

use crate::support::{retry_on_intr, submission, Backend, OneDevice, LONG};

const MESSAGE: u32 = 64;
const NEXT: u16 = low_half(VRING_DESC_F_NEXT);
const WRITE: u16 = low_half(VRING_DESC_F_WRITE);
const INDIRECT: u16 = low_half(VRING_DESC_F_INDIRECT);

#[allow(clippy::cast_possible_truncation, reason = "flags are 16 bits wide")]
const fn low_half(flag: u32) -> u16 {
    flag as u16
}

/// Descriptors that are no message, each with what is wrong with it.
fn bad_descriptors(address: u64, direction: u16) -> Vec<(&'static str, Descriptor)> {
    let other = direction ^ WRITE;
    vec![
        (
            "wrong direction",
            Descriptor::new(address, MESSAGE, other, 0),
        ),
        (
            "too short",
            Descriptor::new(address, MESSAGE - 1, direction, 0),
        ),
        (
            "too long",
            Descriptor::new(address, MESSAGE + 1, direction, 0),
        ),
        ("empty", Descriptor::new(address, 0, direction, 0)),
        ("huge", Descriptor::new(address, u32::MAX, direction, 0)),
        (
            "chained",
            Descriptor::new(address, MESSAGE, direction | NEXT, 1),
        ),
        (
            "chained to nowhere",
            Descriptor::new(address, MESSAGE, direction | NEXT, 9999),
        ),
        ("indirect", Descriptor::new(address, MESSAGE, INDIRECT, 0)),
        ("outside", Descriptor::new(0, MESSAGE, direction, 0)),
        (
            "half outside",
            Descriptor::new(0x1000_0000 - 32, MESSAGE, direction, 0),
        ),
        (
            "at the end of the world",
            Descriptor::new(u64::MAX - 10, MESSAGE, direction, 0),
        ),
    ]
}

#[test]
fn test_portal_chain_of_bad_shape_is_completed_and_ignored() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);

    let ring = vm.frontend.portal_ring();
    let address = ring.buffer(0).0;
    for (what, descriptor) in bad_descriptors(address, 0) {
        let ring = vm.frontend.portal_ring();
        let head = ring.take_free().unwrap();
        ring.write_descriptor(head, descriptor).unwrap();
        ring.publish(head).unwrap();
        ring.kick().unwrap();
        vm.frontend.wait_completed().expect(what);
    }

    let (_, event) = vm.stall(0x1000);
    vm.resume(&event);
    vm.source.answer();
}

#[test]
fn test_portal_chain_without_end_is_completed_and_ignored() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);

    for length in [1, 2, 3] {
        let ring = vm.frontend.portal_ring();
        let address = ring.buffer(0).0;
        let loop_of: Vec<u16> = (0..length).map(|_| ring.take_free().unwrap()).collect();
        for (index, at) in loop_of.iter().enumerate() {
            let next = loop_of[(index + 1) % loop_of.len()];
            let descriptor = Descriptor::new(address, MESSAGE, NEXT, next);
            ring.write_descriptor(*at, descriptor).unwrap();
        }
        ring.publish(loop_of[0]).unwrap();
        ring.kick().unwrap();
        vm.frontend.wait_completed().unwrap();
    }

    let (_, event) = vm.stall(0x1000);
    vm.resume(&event);
    vm.source.answer();
}

#[test]
fn test_portal_head_out_of_range_is_ignored() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);

    let ring = vm.frontend.portal_ring();
    for head in [256, 1000, u16::MAX] {
        ring.publish(head).unwrap();
    }
    ring.kick().unwrap();

    // They cannot be completed, but what comes behind them is served.
    let (_, event) = vm.stall(0x1000);
    vm.resume(&event);
    vm.source.answer();
}

#[test]
fn test_portal_index_beyond_the_ring_is_survived() {
    let mut backend = Backend::start();
    let mut vm = OneDevice::new(&backend);

    let ring = vm.frontend.portal_ring();
    let right = ring.next_available();
    ring.set_available_index(right.wrapping_add(5000)).unwrap();
    ring.kick_fd().write(1).unwrap();
    vm.frontend.config().unwrap();
    let ring = vm.frontend.portal_ring();
    ring.set_available_index(right).unwrap();
    ring.kick_fd().write(1).unwrap();

    let (_, event) = vm.stall(0x1000);
    vm.frontend.command(&[0; 16]).unwrap();
    vm.frontend.portal_ring().kick_fd().write(1).unwrap();
    vm.resume(&event);
    vm.source.answer();
    backend.assert_alive();
}

#[test]
fn test_event_buffer_of_bad_shape_is_given_back_and_no_event_is_lost() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);

    let ring = vm.frontend.event_ring();
    let address = ring.buffer(0).0;
    // All buffers were made available when the ring was made: spoil the first ones.
    let bad = bad_descriptors(address, WRITE);
    let count = bad.len();
    for (head, (_, descriptor)) in bad.into_iter().enumerate() {
        let ring = vm.frontend.event_ring();
        // They are offered from the first to the last.
        ring.write_descriptor(u16::try_from(head).unwrap(), descriptor)
            .unwrap();
    }
    let fault = vm.source.fault(1, 0x1000, PERM_READ);
    vm.source.raise(&[fault]);

    for _ in 0..count {
        let used = wait_used(&mut vm.frontend);
        assert_eq!(used.len, 0);
    }
    let used = wait_used(&mut vm.frontend);
    assert_eq!(used.len, MESSAGE);
    let message = vm.frontend.event_ring().read_buffer(used.head).unwrap();
    assert_eq!(message.message_type(), Some(MessageType::SmmuEvent));
    assert_eq!(message.seq.get(), 1);
}

fn wait_used(frontend: &mut Frontend) -> vhost_user_vsva::frontend::Used {
    loop {
        if let Some(used) = frontend.event_ring().next_used().unwrap() {
            return used;
        }
        let event = frontend.event_ring().call_fd().try_clone().unwrap();
        // A blocking read of a non-blocking eventfd: wait for it, then take it.
        crate::support::wait_readable(&event);
        event.read().unwrap();
    }
}

/// The connection ends, and the next one is served.
fn assert_disconnected(backend: &mut Backend, mut frontend: Frontend) {
    let hang_up = frontend.wait_completed();
    drop(hang_up);
    while frontend.config().is_ok() {}
    drop(frontend);
    backend.assert_alive();
    backend.connect();
}

#[test]
fn test_portal_message_that_breaks_the_protocol_ends_the_connection() {
    let unknown = Message {
        kind: U16::new(99),
        ..Message::new::<[u8; 0]>(MessageType::SmmuCmd, DEVICE_NONE, &[])
    };
    let wrong_seq = {
        let mut message = Message::new(MessageType::SmmuCmd, DEVICE_NONE, &[0u8; 16]);
        message.seq = U64::new(5);
        message
    };
    for mut message in [unknown, wrong_seq] {
        let mut backend = Backend::start();
        let mut vm = OneDevice::new(&backend);
        if message.seq.get() == 0 {
            message.seq = U64::new(1);
        }
        vm.frontend.send_raw(&message).unwrap();
        assert_disconnected(&mut backend, vm.frontend);
    }
}

#[test]
fn test_submissions_beyond_the_credit_end_the_connection_and_keep_the_queue() {
    let mut backend = Backend::start_with(&["--max-pending=4"]);
    let mut vm = OneDevice::new(&backend);
    vm.frontend.drain(1, LONG).unwrap();
    for ticket in 0..5 {
        vm.frontend.submit(0, &submission(ticket)).unwrap();
    }
    assert_disconnected(&mut backend, vm.frontend);

    assert_eq!(backend.connect().config().unwrap().pending.get(), 4);
}

#[test]
fn test_unknown_vhost_user_request_ends_the_connection_only() {
    let mut backend = Backend::start();
    for bytes in [
        &[0xff; 12][..],
        // Request 1000, version 1, no body.
        &[0xe8, 3, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        // GET_FEATURES with a body of 4 GiB.
        &[1, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        b"GET / HTTP/1.0\r\n\r\n",
    ] {
        let mut stream = backend.stream();
        stream.write_all(bytes).unwrap();
        wait_closed(stream);
    }
    backend.assert_alive();
    backend.connect();
}

fn wait_closed(mut stream: UnixStream) {
    use std::io::Read;
    stream.set_read_timeout(Some(crate::support::HANG)).unwrap();
    let mut byte = [0];
    match retry_on_intr(|| stream.read(&mut byte)) {
        Ok(0) => {}
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => panic!("expected the connection to be closed, not {other:?}"),
    }
}

#[test]
fn test_garbage_from_the_device_loses_the_channel_only() {
    let mut backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let fault = vm.source.fault(1, 0x1000, PERM_READ);

    // The same cookie again before it was answered.
    vm.source.raise(&[fault, fault]);

    let lost = Event::DeviceLost {
        device: 0,
        reason: LostReason::Protocol as u32,
    };
    // The first fault may or may not have been delivered before.
    let first = vm.frontend.wait_event().unwrap();
    if first != lost {
        assert!(matches!(first, Event::Smmu { .. }));
        assert_eq!(vm.frontend.wait_event().unwrap(), lost);
    }
    assert_eq!(vm.frontend.config().unwrap().outstanding.get(), 0);
    backend.assert_alive();
}

#[test]
fn test_faults_of_unknown_devices_are_answered_invalid() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let mut stranger = vm.source.share(555);

    let cookie = stranger.raise_read(1, 0x1000);

    assert_eq!(
        vm.source.answer(),
        (cookie, vhost_user_vsva::wire::ResponseCode::Invalid)
    );
}

#[test]
fn test_answers_to_a_device_that_does_not_read_are_kept_for_it() {
    let backend = Backend::start_with(&["--max-faults=65536"]);
    let mut vm = OneDevice::new(&backend);
    // More answers than the socket's buffer holds.
    let count = 2000;
    let mut cookies = Vec::new();
    for n in 0..count {
        let (cookie, event) = vm.stall(n << 12);
        cookies.push(cookie);
        vm.resume(&event);
    }
    vm.frontend.wait_completed().unwrap();
    let unwritten = vm.frontend.config().unwrap().outstanding.get();
    assert!(unwritten > 0, "the socket has taken all answers");

    for cookie in cookies {
        assert_eq!(vm.source.answer().0, cookie);
    }
}

#[test]
fn test_state_transfer_while_rings_run_is_refused() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    // The rings run when they have been used.
    vm.stall(0x1000);
    let (_ours, theirs) = UnixStream::pair().unwrap();

    let result = vm
        .frontend
        .transfer(VhostTransferStateDirection::SAVE, theirs.into());

    assert!(matches!(result, Err(FrontendError::Request { .. })));
    vm.stall(0x2000);
}

#[test]
fn test_check_without_transfer_is_an_error_and_keeps_the_connection() {
    let backend = Backend::start();
    let mut frontend = backend.negotiate();

    frontend.check_state().unwrap_err();

    frontend.start().unwrap();
    frontend.config().unwrap();
}

#[test]
fn test_second_transfer_before_the_first_has_ended_is_refused() {
    let backend = Backend::start();
    let mut frontend = backend.negotiate();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (_other, other_theirs) = UnixStream::pair().unwrap();
    frontend
        .transfer(VhostTransferStateDirection::LOAD, theirs.into())
        .unwrap();

    frontend
        .transfer(VhostTransferStateDirection::SAVE, other_theirs.into())
        .unwrap_err();

    drop(ours);
    // The state was empty.
    frontend.check_state().unwrap_err();
}

#[test]
fn test_disconnect_during_transfer_leaves_no_descriptor_behind() {
    let backend = Backend::start();
    let mut frontend = backend.negotiate();
    let before = backend.descriptors(&mut frontend);
    drop(frontend);
    let mut frontend = backend.negotiate();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    frontend
        .transfer(VhostTransferStateDirection::LOAD, theirs.into())
        .unwrap();
    drop(frontend);

    let mut frontend = backend.negotiate();
    assert_eq!(backend.descriptors(&mut frontend), before);
}

#[test]
fn test_attach_of_an_eventfd_as_fault_file_is_refused() {
    let mut backend = Backend::start();
    let mut frontend = backend.connect();
    let mut attach = frontend.attach_channel().unwrap();
    let flags = rustix::event::EventfdFlags::CLOEXEC;
    let eventfd = rustix::event::eventfd(0, flags).unwrap();

    let refused = attach.attach(
        &crate::support::attachment(0),
        Some(std::os::fd::AsFd::as_fd(&eventfd)),
    );

    let text = refused.unwrap_err().to_string();
    assert!(text.contains("no fault file of iommufd"), "{text}");
    backend.assert_alive();
}

#[test]
fn test_attach_of_a_connection_to_the_own_socket_is_refused() {
    let mut backend = Backend::start();
    let mut frontend = backend.connect();
    let mut attach = frontend.attach_channel().unwrap();
    let own = UnixStream::connect(backend.socket()).unwrap();

    let refused = attach.attach(
        &crate::support::attachment(0),
        Some(std::os::fd::AsFd::as_fd(&own)),
    );

    let text = refused.unwrap_err().to_string();
    assert!(
        text.contains("fault fd: it is the vhost-user socket"),
        "{text}"
    );
    backend.assert_alive();
}
