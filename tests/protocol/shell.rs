// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a peer can do to the threads of the process: none of them is held, none ends in silence.

use std::{
    io::Read,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    process::Command,
};

use rustix::{
    fs::{fcntl_getfl, fcntl_setfl, mknodat, FileType, Mode, OFlags, CWD},
    process::Signal,
};
use vhost::vhost_user::message::VhostTransferStateDirection;
use vhost_user_vsva::wire::{Message, MessageType, DEVICE_NONE, U64};
use vmm_sys_util::eventfd::EventFd;

use crate::support::{command, event_records, submission, Backend, OneDevice, HANG, LONG};

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
    make_blocking_and_full(vm.frontend.portal_ring().call_fd());
    vm.frontend.command(&[0; 16]).unwrap();
    assert!(backend.terminate().success());
}

#[test]
fn test_kick_that_the_front_end_takes_back_leaves_the_portal_working() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    for _ in 0..2000 {
        let kick = vm.frontend.portal_ring().kick_fd();
        kick.write(1).unwrap();
        let _ = kick.read();
    }
    let (_, event) = vm.stall(0x1000);
    vm.resume(&event);
    vm.source.answer();
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
fn test_state_channel_that_blocks_holds_neither_the_next_client_nor_sigterm() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    vm.frontend.drain(1, LONG).unwrap();
    for ticket in 0..3000 {
        vm.frontend.submit(0, &submission(ticket)).unwrap();
    }
    vm.frontend.wait_completed().unwrap();
    vm.frontend.stop().unwrap();
    let (ours, theirs) = rustix::pipe::pipe().unwrap();
    let copy = theirs.try_clone().unwrap();
    vm.frontend
        .transfer(VhostTransferStateDirection::SAVE, theirs)
        .unwrap();
    make_blocking(&copy);
    drop(vm);

    assert_eq!(backend.connect().config().unwrap().pending.get(), 3000);
    assert!(backend.terminate().success());
    drop(ours);
}

#[test]
fn test_sigterm_during_check_cancels_the_transfer_and_says_load_failed() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("events");
    let backend = Backend::start_with(&["--event-log", log.to_str().unwrap()]);
    let mut frontend = backend.negotiate();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    frontend
        .transfer(VhostTransferStateDirection::LOAD, theirs.into())
        .unwrap();
    let check = std::thread::spawn(move || frontend.check_state());

    assert!(backend.terminate().success());

    check.join().unwrap().unwrap_err();
    for record in event_records(&log) {
        assert_ne!(record["event"], "save_failed", "{record}");
        if record["event"] == "load_failed" {
            let error = record["error"].as_str().unwrap();
            assert!(error.contains("cancelled"), "{error}");
        }
    }
}

#[test]
fn test_failed_load_is_logged_as_a_load() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("events");
    let backend = Backend::start_with(&["--event-log", log.to_str().unwrap()]);
    backend.negotiate().load(b"nonsense").unwrap_err();
    assert!(backend.terminate().success());

    let records = event_records(&log);
    let failed = |record: &&serde_json::Value| record["event"] == "load_failed";
    assert_eq!(records.iter().filter(failed).count(), 1, "{records:?}");
}

#[test]
fn test_event_log_fifo_without_reader_does_not_hold_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("events");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    let backend = Backend::start_with(&["--event-log", fifo.to_str().unwrap()]);
    backend.connect();
    assert!(backend.terminate().success());
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
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let stream = loop {
        assert_eq!(child.try_wait().unwrap(), None, "it has ended");
        if let Ok(stream) = UnixStream::connect(&path) {
            break stream;
        }
        std::thread::yield_now();
    };
    stream.set_read_timeout(Some(HANG)).unwrap();
    assert_eq!((&stream).read(&mut [0]).expect("an end"), 0);

    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stderr).unwrap().lines().count();
    assert!(lines < 20, "{lines} lines");
}
