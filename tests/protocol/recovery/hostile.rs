// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An area that is another's, of another version, or written by somebody else while it is used: it
//! is refused, or does no harm.

use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rustix::io::{pread, pwrite, Errno};
use vhost_user_vsva::{
    core::Limits,
    frontend::{Event, FrontendError, SharedMemory},
    recovery::layout::Layout,
    wire::EventRecord,
};

use super::{
    random::Random,
    vm::{Vm, DEVICES, KERNEL, PRI},
};
use crate::support::{attachment, resume, Backend, FaultSource};

/// Where the area begins, and the words of its head that matter here.
const AREA: u64 = 4096;
const VERSION: u64 = AREA + 8;
const TAKEN: u64 = AREA + 16;
const INSTANCE: u64 = AREA + 24;

/// A VM whose back-end has ended with faults and submissions outstanding.
fn left() -> Vm {
    let mut vm = Vm::new(&[]);
    vm.withhold = true;
    for device in 0..DEVICES {
        vm.raise(device, 1);
        vm.submit(device);
    }
    vm.until("events", Vm::seen);
    vm.until("what has been sent", Vm::sent);
    vm.backend.child.kill().unwrap();
    vm.backend.child.wait().unwrap();
    vm
}

/// What another back-end says of a memory.
fn offered(memory: &mut SharedMemory) -> Result<(), (Errno, String)> {
    let backend = Backend::start();
    let mut frontend = backend.negotiate();
    let mut attach = frontend.attach_channel().unwrap();
    memory.go_on_at(0, 0).unwrap();
    let result = attach.share_memory(memory);
    // It goes on all the same.
    frontend.config().unwrap();
    match result {
        Ok(()) => Ok(()),
        Err(FrontendError::Refused { errno, text }) => Err((errno, text)),
        Err(e) => panic!("{e}"),
    }
}

fn patch(memory: &SharedMemory, at: u64, bytes: &[u8]) {
    pwrite(memory, bytes, at).unwrap();
}

#[test]
fn test_area_of_another_layout_version_is_refused_with_the_version_found() {
    let mut vm = left();
    patch(&vm.memory, VERSION, &7_u32.to_le_bytes());

    let refused = offered(&mut vm.memory);

    let text = "area: layout version 7, not 1".to_owned();
    assert_eq!(refused, Err((Errno::OPNOTSUPP, text)));
    // And nothing has happened: another one that knows it can go on.
    patch(&vm.memory, VERSION, &1_u32.to_le_bytes());
    assert_eq!(offered(&mut vm.memory), Ok(()));
}

#[test]
fn test_memory_that_is_shorter_than_its_area_is_refused() {
    let vm = left();
    let mut short = SharedMemory::with_recovery(1, vm.room / 2).unwrap();

    let (errno, text) = offered(&mut short).unwrap_err();

    assert_eq!(errno, Errno::MSGSIZE, "{text}");
}

#[test]
fn test_area_of_another_vm_does_no_harm_to_this_one() {
    let other = left();
    let mut vm = Vm::new(&[]);
    for _ in 0..3 {
        for device in 0..DEVICES {
            vm.raise(device, 1);
        }
        vm.until("answers", Vm::answered);
    }
    vm.until("what has been sent", Vm::sent);
    vm.backend.child.kill().unwrap();
    let taken = vm.memory.portal_taken().unwrap();
    let mut area = vec![0; usize::from(vm.room) << 16];
    let len = pread(&other.memory, &mut area, AREA).unwrap();
    patch(&vm.memory, AREA, &area[..len]);
    patch(&vm.memory, TAKEN, &taken.to_le_bytes());

    // It has faults of the other VM, of which this one knows nothing.
    vm.until("another back-end", |vm| vm.kills == 1);
    for device in [0, 1, PRI, KERNEL[0], KERNEL[1]] {
        vm.raise(device, 1);
        vm.submit(device);
    }
    vm.until("an empty queue", |vm| vm.copies.is_empty());
    vm.check();
    vm.backend.assert_alive();
}

/// Writes random words to the area as fast as it can, except to some.
fn scribble(memory: impl AsFd, len: u64, spare: &[u64], stop: &AtomicBool) {
    let mut random = Random(7);
    while !stop.load(Ordering::Relaxed) {
        let at = AREA + random.below(len / 8) * 8;
        let value = match random.below(3) {
            0 => 0,
            1 => u64::MAX,
            _ => random.below(1 << 30),
        };
        if !spare.contains(&at) {
            pwrite(&memory, &value.to_le_bytes(), at).unwrap();
        }
    }
}

#[test]
fn test_tables_that_are_written_to_while_they_are_used_change_no_answer() {
    let mut vm = Vm::new(&[]);
    let stop = AtomicBool::new(false);
    let memory = vm.memory.as_fd().try_clone_to_owned().unwrap();
    // The front end reads one word, and the process another; it reads the inboxes, too.
    let tables = Layout::new(&Limits::default()).inboxes as u64 * 8;
    thread::scope(|scope| {
        scope.spawn(|| scribble(&memory, tables, &[TAKEN, INSTANCE], &stop));
        let _stops = StopsScribbling(&stop);
        for _ in 0..30 {
            for device in [0, 1, PRI, KERNEL[0], KERNEL[1]] {
                vm.raise(device, 1);
                vm.submit(device);
            }
            vm.until("answers", Vm::answered);
            vm.until("an empty queue", |vm| vm.copies.is_empty());
        }
    });

    vm.check();

    assert_eq!(vm.kills, 0);
    vm.backend.child.kill().unwrap();
    assert_refused_or_taken(&mut vm.memory);
}

#[test]
fn test_area_that_is_written_to_everywhere_ends_the_process_at_most_with_its_own_message() {
    let mut backend = Backend::start();
    let mut frontend = backend.negotiate();
    let room = frontend.config().unwrap().recovery_room.get();
    let mut memory = SharedMemory::with_recovery(1, room).unwrap();
    let mut attach = frontend.attach_channel().unwrap();
    attach.share_memory(&memory).unwrap();
    let (mut source, fd) = FaultSource::new(100);
    attach.attach(&attachment(0), Some(fd.as_fd())).unwrap();
    frontend.start().unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| scribble(&memory, 256 << 10, &[], &stop));
        let _stops = StopsScribbling(&stop);
        for page in 0..200 {
            if backend.child.try_wait().unwrap().is_some() {
                break;
            }
            source.raise_read(1, page << 12);
            while let Ok(Some(event)) = frontend.next_event() {
                if let Event::Smmu { record, .. } = event {
                    let event = EventRecord::decode(&record).unwrap();
                    resume(&mut frontend, &event);
                }
            }
            thread::sleep(Duration::from_micros(200));
        }
    });

    if let Some(status) = backend.child.try_wait().unwrap() {
        assert_eq!(status.code(), Some(1), "{status}");
    }
    backend.child.kill().unwrap();
    assert_refused_or_taken(&mut memory);
}

/// Who comes next believes none of it.
fn assert_refused_or_taken(memory: &mut SharedMemory) {
    if let Err((errno, text)) = offered(memory) {
        let known = [Errno::PROTO, Errno::OPNOTSUPP];
        assert!(known.contains(&errno), "{errno}: {text}");
    }
}

/// Also when the test fails.
struct StopsScribbling<'a>(&'a AtomicBool);

impl Drop for StopsScribbling<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
