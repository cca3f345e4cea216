// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A back-end that has served one VM and is to serve the next.

use std::{
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::{io::Errno, net::sockopt::set_socket_send_buffer_size};
use vhost::vhost_user::message::VhostTransferStateDirection;
use vhost_user_vsva::{
    core::Phase,
    frontend::{Event, Frontend, FrontendError},
    wire::{AttachPacket, AttachRequest, AttachType, ResponseCode, PERM_READ, U32},
};
use zerocopy::IntoBytes;

use crate::support::{
    attachment, event_records, options, smmu_event, submission, Backend, FaultSource, OneDevice,
    LONG,
};

const RESET_DEVICE: u32 = 34;
const VERSION_AND_NEED_REPLY: u32 = 1 | 8;

/// What GET_CONFIG says of a back-end that nobody has used yet.
fn assert_as_new(frontend: &mut Frontend) {
    let new = Backend::start().connect().config().unwrap();
    assert_eq!(frontend.config().unwrap(), new);
    assert_eq!(new.phase.get(), Phase::Running as u32);
}

/// A new front end on this back-end serves the faults and submissions of device 0, and nothing
/// comes before them.
fn assert_serves(vm: &mut OneDevice) {
    let (cookie, event) = vm.stall(0x7000);
    vm.resume(&event);
    assert_eq!(vm.source.answer(), (cookie, ResponseCode::Success));
    vm.frontend.submit(0, &submission(0)).unwrap();
    let replay = Event::Replay {
        device: 0,
        submission: submission(0),
    };
    assert_eq!(vm.frontend.wait_event().unwrap(), replay);
    match vm.frontend.wait_event().unwrap() {
        Event::Released(released) => assert_eq!(released.next_ticket.get(), 1),
        other => panic!("expected RELEASED, not {other:?}"),
    }
}

/// A front end that drains, with a fault outstanding and two submissions queued. Returns the
/// fault's cookie.
fn draining(backend: &Backend) -> (OneDevice, u32) {
    let mut vm = OneDevice::new(backend);
    let (cookie, _) = vm.stall(0x1000);
    vm.frontend.drain(5, LONG).unwrap();
    for ticket in 0..2 {
        vm.frontend.submit(0, &submission(ticket)).unwrap();
    }
    vm.frontend.wait_completed().unwrap();
    let config = vm.frontend.config().unwrap();
    assert_eq!(config.phase.get(), Phase::Draining as u32);
    assert_eq!((config.outstanding.get(), config.pending.get()), (1, 2));
    (vm, cookie)
}

#[test]
fn test_reset_after_a_dead_front_end_leaves_nothing_of_it() {
    let backend = Backend::start();
    let (vm, cookie) = draining(&backend);
    let mut old = vm.source;
    drop((vm.frontend, vm.attach));

    let mut frontend = backend.connect_anew();

    assert_as_new(&mut frontend);
    assert_eq!(old.answer(), (cookie, ResponseCode::Invalid));
    assert_serves(&mut OneDevice::with_frontend(frontend));
}

#[test]
fn test_reset_after_a_lost_channel_reports_no_loss() {
    let backend = Backend::start();
    let OneDevice {
        mut frontend,
        source,
        attach,
    } = OneDevice::new(&backend);
    drop(source);
    let lost = frontend.wait_event().unwrap();
    assert!(matches!(lost, Event::DeviceLost { device: 0, .. }));
    drop((frontend, attach));

    let mut frontend = backend.connect_anew();

    assert_as_new(&mut frontend);
    assert_serves(&mut OneDevice::with_frontend(frontend));
}

#[test]
fn test_reset_of_a_channel_that_takes_no_answers_closes_it() {
    const FAULTS: usize = 2000;
    let backend = Backend::start();
    let mut frontend = backend.connect();
    let mut attach = frontend.attach_channel().unwrap();
    let (mut old, fd) = FaultSource::new(100);
    set_socket_send_buffer_size(&fd, 1).unwrap();
    attach.attach(&attachment(0), Some(fd.as_fd())).unwrap();
    drop(fd);
    for _ in 0..FAULTS {
        let fault = old.fault(1, 0x1000, PERM_READ);
        old.raise(&[fault]);
        smmu_event(&mut frontend);
    }
    drop((frontend, attach));

    let mut frontend = backend.connect_anew();

    assert_as_new(&mut frontend);
    assert!(old.answers_until_end() < FAULTS, "it has blocked");
    assert_serves(&mut OneDevice::with_frontend(frontend));
}

#[test]
fn test_reset_closes_the_attach_channel_and_a_new_one_works() {
    let backend = Backend::start();
    let OneDevice {
        mut frontend,
        mut attach,
        ..
    } = OneDevice::new(&backend);
    frontend.stop().unwrap();

    frontend.reset_backend().unwrap();

    let (_source, fd) = FaultSource::new(100);
    attach.attach(&attachment(1), Some(fd.as_fd())).unwrap_err();
    frontend.start().unwrap();
    assert_serves(&mut OneDevice::with_frontend(frontend));
}

#[test]
fn test_request_of_a_dead_front_end_attaches_nothing_after_reset() {
    let backend = Backend::start();
    let device = AttachRequest {
        vsid: U32::new(attachment(0).vsid),
        iommufd_dev_id: U32::new(100),
        channel: U32::ZERO,
        max_outstanding: U32::ZERO,
    };
    let request = AttachPacket::new(AttachType::Attach, 0, &device);
    // Whether the request is served before the reset or not at all is a matter of chance.
    for _ in 0..50 {
        let mut dead = backend.connect_anew();
        let attach = dead.attach_channel().unwrap();
        let (_source, fd) = FaultSource::new(100);
        attach.send(request.as_bytes(), &[fd.as_fd()]).unwrap();
        drop((dead, attach, fd));

        let mut vm = OneDevice::with_frontend(backend.connect_anew());

        vm.stall(0x1000);
    }
}

#[test]
fn test_reset_then_load_takes_the_state_of_another_back_end() {
    let (origin, backend) = (Backend::start(), Backend::start());
    let mut source = OneDevice::new(&origin);
    source.frontend.drain(1, LONG).unwrap();
    source.frontend.submit(0, &submission(0)).unwrap();
    source.frontend.quiesced(0, 1).unwrap();
    let drained = source.frontend.wait_event().unwrap();
    assert!(matches!(drained, Event::Drained(_)));
    source.frontend.stop().unwrap();
    let state = source.frontend.save().unwrap();
    let (vm, _) = draining(&backend);
    drop(vm);

    let mut destination = backend.negotiate();
    destination.reset_backend().unwrap();
    let mut attach = destination.attach_channel().unwrap();
    let (_source, fd) = FaultSource::new(100);
    attach.attach(&attachment(0), Some(fd.as_fd())).unwrap();
    destination.load(&state).unwrap();
    destination.start().unwrap();
    destination.release(0).unwrap();

    let replay = Event::Replay {
        device: 0,
        submission: submission(0),
    };
    assert_eq!(destination.wait_event().unwrap(), replay);
}

#[test]
fn test_reset_cancels_a_state_transfer() {
    let state = Backend::start().negotiate().save().unwrap();
    let backend = Backend::start();
    let mut frontend = backend.negotiate();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let direction = VhostTransferStateDirection::LOAD;
    frontend.transfer(direction, OwnedFd::from(theirs)).unwrap();
    ours.write_all(&state).unwrap();
    drop(ours);

    frontend.reset_backend().unwrap();

    frontend.check_state().unwrap_err();
    assert_as_new(&mut frontend);
    frontend.start().unwrap();
    assert_serves(&mut OneDevice::with_frontend(frontend));
}

#[test]
fn test_reset_while_the_rings_run_is_refused_by_the_front_end() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);

    let error = vm.frontend.reset_backend().unwrap_err();

    assert!(matches!(error, FrontendError::Rings("running")), "{error}");
    assert_serves(&mut vm);
}

#[test]
fn test_reset_while_the_rings_run_disables_them_until_they_are_started_anew() {
    let backend = Backend::start();
    let mut stream = backend.stream();
    let mut frontend = Frontend::from_stream(stream.try_clone().unwrap(), &options()).unwrap();
    frontend.drain(5, LONG).unwrap();
    frontend.wait_completed().unwrap();

    let request = [RESET_DEVICE, VERSION_AND_NEED_REPLY, 0].map(u32::to_le_bytes);
    stream.write_all(request.as_flattened()).unwrap();
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[12..], [0; 8], "an error was reported");

    frontend.drain(6, LONG).unwrap();
    assert_as_new(&mut frontend);
    frontend.stop().unwrap();
    frontend.reset_backend().unwrap();
    frontend.start().unwrap();
    assert_eq!(frontend.completed().unwrap(), 0);
    assert_serves(&mut OneDevice::with_frontend(frontend));
}

#[test]
fn test_reset_is_in_the_event_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("events.jsonl");
    let backend = Backend::start_with(&["--event-log", log.to_str().unwrap()]);
    drop(OneDevice::new(&backend));
    drop(backend.connect_anew());
    assert!(backend.terminate().success());

    let records = event_records(&log);
    let reset: Vec<_> = records.iter().filter(|r| r["event"] == "reset").collect();
    assert_eq!(reset.len(), 1);
    assert_eq!(reset[0]["devices"], 1);
}

#[test]
fn test_attach_after_reset_with_the_sid_of_a_left_over_device_is_accepted() {
    let backend = Backend::start();
    let (vm, _) = draining(&backend);
    drop(vm);
    let mut frontend = backend.connect_anew();
    let mut attach = frontend.attach_channel().unwrap();
    let (_source, fd) = FaultSource::new(100);
    let same_sid = vhost_user_vsva::frontend::Attachment {
        vsid: attachment(0).vsid,
        ..attachment(1)
    };

    attach.attach(&same_sid, Some(fd.as_fd())).unwrap();

    let again = attach.attach(&attachment(0), Some(fd.as_fd()));
    let exists = |e| matches!(e, FrontendError::Refused { errno, .. } if errno == Errno::EXIST);
    assert!(again.is_err_and(exists));
}
