// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that both sides share: the status is there, and nobody is asked for it.

use std::{
    os::fd::{AsFd, OwnedFd},
    thread,
    time::Instant,
};

use rustix::{
    fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags},
    io::{pwrite, Errno},
    process::Signal,
};
use vhost_user_vsva::{
    core::Phase,
    frontend::{Event, FrontendError, SharedMemory},
    wire::{
        AttachPacket, AttachType, MemoryHeader, SharedMemoryRequest, StatusBlock, DEVICE_NONE,
        FAULT_INFO_SSID_VALID, FAULT_INFO_VALID, MEMORY_MAGIC, STATUS_SIZE, U32, U64,
    },
};
use zerocopy::{FromZeros, IntoBytes};

use crate::support::{smmu_event, Backend, OneDevice, HANG, LONG, SID};

fn shared(vm: &mut OneDevice, generation: u64) -> SharedMemory {
    let memory = SharedMemory::new(generation).unwrap();
    vm.attach.share_memory(&memory).unwrap();
    memory
}

fn status(memory: &SharedMemory) -> StatusBlock {
    wait_status(memory, |_| true)
}

/// Waits until the status is as wanted.
fn wait_status(memory: &SharedMemory, wanted: impl Fn(&StatusBlock) -> bool) -> StatusBlock {
    let start = Instant::now();
    loop {
        let status = memory.status();
        if let Some(status) = status.filter(|status| wanted(status)) {
            return status;
        }
        assert!(start.elapsed() < HANG, "the status is {status:?}");
        thread::yield_now();
    }
}

#[test]
fn test_status_follows_each_step_without_a_request() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let memory = shared(&mut vm, 1);
    let first = status(&memory);
    assert_eq!(first.size.get(), STATUS_SIZE);
    assert_eq!(first.phase.get(), Phase::Running as u32);
    assert_eq!(first.devices.get(), 1);
    assert_eq!(first.oldest_flags.get(), 0);

    let (_, event) = vm.stall(0x5000);
    let stalled = status(&memory);
    assert_eq!(stalled.outstanding.get(), 1);
    assert_eq!(stalled.faults_read.get(), 1);
    assert_eq!(
        (stalled.oldest_sid.get(), stalled.oldest_ssid.get()),
        (SID, 1)
    );
    assert_eq!(stalled.oldest_addr.get(), 0x5000);
    assert_eq!(
        stalled.oldest_flags.get(),
        FAULT_INFO_VALID | FAULT_INFO_SSID_VALID
    );
    assert!(stalled.oldest_read_ns.get() > first.heartbeat_ns.get());
    assert!(stalled.oldest_read_ns.get() <= stalled.heartbeat_ns.get());

    vm.frontend.drain(7, LONG).unwrap();
    vm.frontend.wait_completed().unwrap();
    let draining = status(&memory);
    assert_eq!(draining.phase.get(), Phase::Draining as u32);
    assert_eq!((draining.generation.get(), draining.drains.get()), (7, 1));

    vm.resume(&event);
    vm.frontend.quiesced(0, 7).unwrap();
    assert!(matches!(
        vm.frontend.wait_event().unwrap(),
        Event::Drained(_)
    ));
    let drained = status(&memory);
    assert_eq!(drained.phase.get(), Phase::Drained as u32);
    assert_eq!(drained.outstanding.get(), 0);
    assert_eq!(drained.faults_answered.get(), 1);
    assert_eq!(drained.oldest_read_ns.get(), 0);
}

#[test]
fn test_status_read_while_faults_are_served_is_always_of_one_step() {
    const ROUNDS: u64 = 300;
    const BURST: u64 = 16;
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let memory = shared(&mut vm, 1);

    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut reads, start) = (0, Instant::now());
            loop {
                assert!(start.elapsed() < 10 * HANG, "the faults are not served");
                let status = status(&memory);
                let outstanding = u64::from(status.outstanding.get());
                let (read, answered) = (status.faults_read.get(), status.faults_answered.get());
                assert_eq!(read, answered + outstanding, "{status:?}");
                // Answered by the guest, it is not among the oldest; written, it is not
                // outstanding.
                let oldest = status.oldest_flags.get() != 0;
                assert!(outstanding > 0 || !oldest, "{status:?}");
                reads += 1;
                if answered == ROUNDS * BURST {
                    return reads;
                }
            }
        });
        for round in 0..ROUNDS {
            for n in 0..BURST {
                vm.source.raise_read(1, (round * BURST + n) << 12);
            }
            for _ in 0..BURST {
                let event = smmu_event(&mut vm.frontend);
                vm.resume(&event);
                vm.source.answer();
            }
        }
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn test_status_of_a_stopped_back_end_can_be_read() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let memory = shared(&mut vm, 1);
    vm.stall(0x1000);
    backend.signal(Signal::STOP);

    assert_eq!(status(&memory).outstanding.get(), 1);

    backend.signal(Signal::CONT);
}

#[test]
fn test_second_memory_replaces_the_first() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let first = shared(&mut vm, 1);
    let second = shared(&mut vm, 2);

    vm.stall(0x1000);

    assert_eq!(status(&second).outstanding.get(), 1);
    assert_eq!(status(&first).outstanding.get(), 0);
}

#[test]
fn test_memory_of_a_second_connection_replaces_that_of_the_first() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let first = shared(&mut vm, 1);
    let OneDevice {
        frontend,
        attach,
        mut source,
    } = vm;
    // A front end whose attach channel outlives its connection.
    drop(frontend);
    let mut frontend = backend.connect();
    let mut channel = frontend.attach_channel().unwrap();
    drop(attach);
    source.raise_read(1, 0x1000);
    smmu_event(&mut frontend);
    assert_eq!(status(&first).outstanding.get(), 0);

    let second = SharedMemory::new(2).unwrap();
    channel.share_memory(&second).unwrap();

    assert_eq!(status(&second).outstanding.get(), 1);
    assert_eq!(status(&first).outstanding.get(), 0);
}

#[test]
fn test_front_end_without_shared_memory_is_served_after_one_with_it() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let memory = shared(&mut vm, 1);
    drop(vm);

    let mut frontend = backend.connect_anew();
    let config = frontend.config().unwrap();
    assert_eq!(config.phase.get(), Phase::Running as u32);
    let mut vm = OneDevice::with_frontend(frontend);
    vm.stall(0x1000);

    assert_eq!(vm.frontend.config().unwrap().outstanding.get(), 1);
    assert_eq!(status(&memory).outstanding.get(), 0);
    assert!(!backend
        .descriptors(&mut vm.frontend)
        .iter()
        .any(|name| name.contains("vsva-shared")));
}

/// Memory that a careless front end makes.
fn memory(version: u32, size: u64, seals: SealFlags) -> OwnedFd {
    let header = MemoryHeader {
        magic: U64::new(MEMORY_MAGIC),
        version: U32::new(version),
        header_size: U32::new(64),
        total_size: U64::new(4096),
        generation: U64::new(9),
        status_offset: U32::new(64),
        status_room: U32::new(256),
        ..MemoryHeader::new_zeroed()
    };
    let fd = memfd_create("careless", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    pwrite(&fd, header.as_bytes(), 0).unwrap();
    ftruncate(&fd, size).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

#[test]
fn test_memory_that_cannot_be_shared_is_refused_and_the_one_before_stays() {
    let mut backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let before = shared(&mut vm, 1);
    let shrink = SealFlags::SHRINK;
    let (pipe, _writer) = rustix::pipe::pipe().unwrap();
    let request = SharedMemoryRequest {
        size: U64::new(4096),
        generation: U64::new(9),
    };
    let packet = AttachPacket::new(AttachType::SharedMemory, DEVICE_NONE, &request);
    for (fd, errno, text) in [
        (
            memory(1, 4096, SealFlags::empty()),
            Errno::PERM,
            "F_SEAL_SHRINK is missing",
        ),
        (
            memory(1, 4096, shrink | SealFlags::FUTURE_WRITE),
            Errno::PERM,
            "its seals forbid to write",
        ),
        (memory(1, 64, shrink), Errno::MSGSIZE, "64 bytes, not 4096"),
        (
            memory(2, 4096, shrink),
            Errno::OPNOTSUPP,
            "header: layout version 2, not 1",
        ),
        (pipe, Errno::BADF, "no memfd of ordinary pages"),
    ] {
        let refused = vm.attach.request(packet, &[fd.as_fd()]);
        match refused.unwrap_err() {
            FrontendError::Refused { errno: e, text: t } => assert_eq!((e, &*t), (errno, text)),
            other => panic!("{other}"),
        }
    }
    let good = memory(1, 4096, shrink);
    for fds in [&[][..], &[good.as_fd(), good.as_fd()]] {
        let refused = vm.attach.request(packet, fds).unwrap_err();
        assert!(
            matches!(
                refused,
                FrontendError::Refused {
                    errno: Errno::INVAL,
                    ..
                }
            ),
            "{refused}"
        );
    }

    vm.stall(0x1000);

    backend.assert_alive();
    wait_status(&before, |status| status.outstanding.get() == 1);
}
