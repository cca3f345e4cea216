// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a peer can do to the threads of the process: none of them is held, none ends in silence.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Instant,
};

use rustix::{
    event::{eventfd, EventfdFlags},
    fs::{fcntl_getfl, fcntl_setfl, OFlags},
    process::{kill_process, Pid, Signal},
};
use vhost_user_vsva::wire::{Message, MessageType, DEVICE_NONE, U64};
use vmm_sys_util::eventfd::EventFd;

use crate::{
    raw::{self, Raw},
    support::{command, connect, wait_readable, Backend, OneDevice, HANG},
};

/// The flag belongs to the open file, so this changes it for the back-end as well.
fn make_blocking(fd: impl AsFd) {
    let flags = fcntl_getfl(&fd).unwrap();
    fcntl_setfl(&fd, flags - OFlags::NONBLOCK).unwrap();
}

/// Fills the counter of an eventfd and makes writing to it block.
fn make_blocking_and_full(event: &EventFd) {
    let _ = event.read();
    event.write(u64::MAX - 1).unwrap();
    // SAFETY: the eventfd outlives the borrow.
    make_blocking(unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) });
}

#[test]
fn test_call_eventfd_that_blocks_ends_the_connection_and_holds_nobody() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    make_blocking_and_full(vm.frontend.event_ring().call_fd());

    vm.source.raise_read(1, 0x1000);
    while vm.frontend.config().is_ok() {}

    // The next client is served, and the faults are still there.
    assert_eq!(backend.connect().config().unwrap().outstanding.get(), 1);
    assert!(backend.terminate().success());
}

#[test]
fn test_sigterm_while_a_call_eventfd_blocks_ends_the_process() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    make_blocking_and_full(vm.frontend.event_ring().call_fd());
    vm.source.raise_read(1, 0x1000);
    assert!(backend.terminate().success());
}

#[test]
fn test_kick_that_is_gone_when_it_is_read_leaves_the_worker_alive() {
    let backend = Backend::start();
    let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
    let kick = File::from(eventfd(0, flags).unwrap());
    let mut raw = Raw::negotiated(&backend, raw::ALL_PROTOCOL);
    // Of two rings that are kicked by the same eventfd one finds nothing to read.
    for ring in [0, 1] {
        let index = raw::words(&[ring, 0]);
        let started = raw.acknowledged_with(raw::SET_VRING_KICK, &index, kick.as_fd());
        let enabled = raw.acknowledged(raw::SET_VRING_ENABLE, &raw::words(&[ring, 1]));
        assert_eq!((started, enabled), (0, 0));
    }
    // A worker that ends takes its connection with it.
    for round in 0..20 {
        rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
        let alive = raw.acknowledged(raw::SET_VRING_ENABLE, &raw::words(&[round % 2, 1]));
        assert_eq!(alive, 0, "kick {round}");
    }
    let disabled =
        [0, 1].map(|ring| raw.acknowledged(raw::SET_VRING_ENABLE, &raw::words(&[ring, 0])));
    assert_eq!(disabled, [0; 2]);
}

#[test]
fn test_descriptors_from_a_broken_message_on_are_not_completed() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let ring = vm.frontend.portal_ring();
    for seq in [1, 5, 2] {
        let mut message = Message::new(MessageType::SmmuCmd, DEVICE_NONE, &[0u8; 16]);
        message.seq = U64::new(seq);
        let head = ring.take_free().unwrap();
        ring.write_buffer(head, &message).unwrap();
        ring.offer(head).unwrap();
    }
    ring.kick_fd().write(1).unwrap();
    while vm.frontend.config().is_ok() {}

    let ring = vm.frontend.portal_ring();
    assert!(ring.next_used().unwrap().is_some());
    assert_eq!(ring.next_used().unwrap(), None);
}

#[test]
fn test_back_end_tells_of_portal_messages_only_when_it_is_asked_to() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    for _ in 0..3 {
        vm.frontend.command(&[0; 16]).unwrap();
        while vm.frontend.portal_ring().next_used().unwrap().is_none() {}
    }
    // An answer to a request of the control thread comes long after the call would have.
    vm.frontend.config().unwrap();
    let unasked = vm.frontend.portal_ring().call_fd().read();

    vm.frontend.portal_fd().unwrap();
    vm.frontend.command(&[0; 16]).unwrap();

    assert!(unasked.is_err(), "a call that nobody waits for");
    wait_readable(vm.frontend.portal_fd().unwrap());
}

#[test]
fn test_start_on_a_socket_with_a_full_backlog_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsva.sock");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();

    let output = command().arg("--socket-path").arg(&path).output().unwrap();

    assert!(!output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("another process is listening"), "{stderr}");
    assert!(path.exists());
}

#[test]
fn test_client_without_descriptors_to_serve_it_is_hung_up_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsva.sock");
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 20; exec \"$0\" --socket-path \"$1\""])
        .arg(env!("CARGO_BIN_EXE_vhost-user-vsva"))
        .arg(&path)
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stream = connect(&mut child, &path);
    stream.set_read_timeout(Some(HANG)).unwrap();
    assert_eq!((&stream).read(&mut [0]).expect("an end"), 0);

    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stderr).unwrap().lines().count();
    assert!(lines < 20, "{lines} lines");
}

/// How many descriptors a process has.
fn descriptors(child: &Child) -> usize {
    let folder = format!("/proc/{}/fd", child.id());
    fs::read_dir(folder).unwrap().count()
}

/// Whether the next connection gets a reply; else it is ended. `None`: the process has ended.
fn is_served(child: &mut Child, path: &Path) -> Option<bool> {
    let requests = [raw::SET_OWNER, raw::GET_FEATURES].map(|code| raw::words(&[code, 1, 0]));
    let mut stream = loop {
        match UnixStream::connect(path) {
            Ok(stream) => break stream,
            Err(_) if child.try_wait().unwrap().is_some() => return None,
            Err(_) => thread::yield_now(),
        }
    };
    stream.set_read_timeout(Some(HANG)).unwrap();
    // It may have been ended before.
    let _ = stream.write_all(&requests.concat());
    match stream.read(&mut [0; 12]) {
        Ok(len) => Some(len > 0),
        Err(e) if e.kind() == ErrorKind::ConnectionReset => Some(false),
        Err(e) => panic!("neither a reply nor an end: {e}"),
    }
}

/// With each limit from what the process itself needs to what a connection needs, so that the start
/// of a connection fails at each of its descriptors.
#[test]
fn test_connection_that_cannot_be_started_leaves_no_descriptor_behind() {
    const ATTEMPTS: usize = 20;
    let dir = tempfile::tempdir().unwrap();
    let mut failed = 0;
    for limit in 10.. {
        let path = dir.path().join(format!("{limit}.sock"));
        let script = format!("ulimit -n {limit}; exec \"$0\" --socket-path \"$1\"");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .arg(env!("CARGO_BIN_EXE_vhost-user-vsva"))
            .arg(&path)
            .env_remove("RUST_LOG")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let first = is_served(&mut child, &path);
        let before = first.map(|_| descriptors(&child));
        let again: Vec<_> = (0..ATTEMPTS)
            .map(|_| is_served(&mut child, &path))
            .collect();
        let (Some(first), Some(before), Some(last)) = (first, before, again[ATTEMPTS - 1]) else {
            // Too few for the process itself.
            child.wait().unwrap();
            continue;
        };
        let served = first || last;
        // What served one may be about to be closed, or about to be opened for the next: one for
        // each attempt is a leak, a few are not.
        let most = before + ATTEMPTS / 2;
        let end = Instant::now() + HANG;
        while !served && descriptors(&child) > most && Instant::now() < end {
            thread::yield_now();
        }
        let left = served || descriptors(&child) <= most;
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(
            left,
            "limit {limit}: {before} descriptors, and after {ATTEMPTS} attempts more than {most}"
        );
        if served {
            break;
        }
        failed += 1;
    }
    assert!(failed > 0, "no start has failed");
}
