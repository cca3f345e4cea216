// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A state transfer that does not get on, or brings what cannot be.

use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    time::Instant,
};

use rustix::{
    fs::{fcntl_getfl, fcntl_setfl, OFlags},
    io::ioctl_fionread,
};
use vhost::vhost_user::message::VhostTransferStateDirection;

use crate::{
    raw::{self, Raw},
    support::{event_records, submission, Backend, OneDevice, HANG, LONG},
};

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
    // The flag belongs to the open file, so this changes it for the back-end as well.
    fcntl_setfl(&copy, fcntl_getfl(&copy).unwrap() - OFlags::NONBLOCK).unwrap();
    // Now there is room for a part of it, and whoever wants to write all of it blocks.
    let mut ours = File::from(ours);
    ours.read_exact(&mut [0; 1 << 14]).unwrap();
    let deadline = Instant::now() + HANG;
    while ioctl_fionread(&ours).unwrap() < 1 << 16 {
        assert!(Instant::now() < deadline, "the transfer has stopped");
        std::thread::yield_now();
    }
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
    let mut raw = Raw::negotiated(&backend, raw::ALL_PROTOCOL);
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let load = raw::words(&[1, 0]);
    raw.ask_with(raw::SET_DEVICE_STATE_FD, &load, theirs.as_fd());
    raw.send(raw::CHECK_DEVICE_STATE, &[]);
    let deadline = Instant::now() + HANG;
    while raw.unread() > 0 {
        assert!(Instant::now() < deadline, "CHECK is not read");
        std::thread::yield_now();
    }

    assert!(backend.terminate().success());

    for record in event_records(&log) {
        assert_ne!(record["event"], "save_failed", "{record}");
        if record["event"] == "load_failed" {
            let error = record["error"].as_str().unwrap();
            assert!(error.contains("cancelled"), "{error}");
        }
    }
}

#[test]
fn test_load_from_a_descriptor_that_fails_is_logged_as_a_load() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("events");
    let backend = Backend::start_with(&["--event-log", log.to_str().unwrap()]);
    let mut frontend = backend.negotiate();
    // Nothing can be read from this end.
    let (_reader, writer) = rustix::pipe::pipe().unwrap();
    frontend
        .transfer(VhostTransferStateDirection::LOAD, writer)
        .unwrap();
    frontend.check_state().unwrap_err();
    assert!(backend.terminate().success());

    let records = event_records(&log);
    let count = |event| records.iter().filter(|r| r["event"] == event).count();
    assert_eq!((count("load_failed"), count("save_failed")), (1, 0));
}

#[test]
fn test_load_that_announces_more_than_can_fit_is_not_kept() {
    const LENGTH: u64 = 64 << 20;
    let backend = Backend::start();
    let mut frontend = backend.negotiate();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    frontend
        .transfer(VhostTransferStateDirection::LOAD, reader)
        .unwrap();
    let mut header = b"VSVASTAT\x01\0\x01\0\x03\0\0\0".to_vec();
    header.extend(LENGTH.to_le_bytes());
    header.extend([0; 4]);
    header.extend(crc32c::crc32c(&header).to_le_bytes());
    header.extend([0; 8]);
    let mut writer = File::from(writer);
    writer.write_all(&header).unwrap();
    for _ in 0..LENGTH >> 16 {
        writer.write_all(&[0; 1 << 16]).unwrap();
    }
    drop(writer);
    frontend.check_state().unwrap_err();

    let status = std::fs::read_to_string(format!("/proc/{}/status", backend.child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().trim_end_matches(" kB");
    let peak: u64 = peak.parse().unwrap();
    assert!(peak < 48 << 10, "{peak} kB");
}
