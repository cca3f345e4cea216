// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A back-end on a fault file of the kernel ends at every place, and another goes on with the same
//! file. The kernel gives the lowest cookie that is free when a record is read, takes an answer
//! once, and says EINVAL to one that it does not wait for.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io,
    os::fd::OwnedFd,
    panic::{catch_unwind, AssertUnwindSafe},
    sync::{Mutex, OnceLock, Weak},
};

use rustix::{
    fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags},
    io::{pwrite, Errno},
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::*;
use crate::{
    backend::{
        channels::{
            fault_file::{ChannelKind, FaultFile, FaultIo, FaultSink},
            open_channel::{OpenChannel, Watched},
        },
        events::Events,
        wait::wake::Wake,
    },
    core::{Attachment, Limits},
    recovery::{
        fail::LEFT,
        layout::{head, WORD},
    },
    wire::{
        EventRecord, MemoryHeader, Message, MessageType, PageResponse, PgFault, ResponseCode,
        SharedMemoryRequest, SmmuCommand, DEVICE_NONE, MEMORY_MAGIC, PAGE_RESPONSE_SIZE,
        PGFAULT_LAST_PAGE, PGFAULT_SIZE, U64,
    },
};

const AREA: u64 = 4096;
const LIMITS: Limits = Limits {
    max_devices: 2,
    max_pending: 4,
    max_faults: 16,
    max_device_faults: 8,
};

#[derive(Default)]
struct Kernel {
    /// Groups that nobody has read: their first address, and how many records they have.
    queue: VecDeque<(u64, u64)>,
    /// Groups that have been read, by cookie.
    read: BTreeMap<u32, u64>,
    answered: Vec<(u64, u32)>,
    /// Answers that it did not wait for.
    refused: usize,
}

/// The file; another reads from it as soon as an answer has been taken.
#[derive(Clone, Default)]
struct FaultFd {
    kernel: Arc<Mutex<Kernel>>,
    channel: Arc<OnceLock<Weak<OpenChannel>>>,
}

impl FaultIo for FaultFd {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut kernel = crate::lock::lock(&self.kernel);
        let mut count = 0;
        // Not all at once.
        for _ in 0..2 {
            let Some((addr, records)) = kernel.queue.pop_front() else {
                break;
            };
            let cookie = (1..).find(|cookie| !kernel.read.contains_key(cookie));
            let cookie = cookie.unwrap_or_default();
            kernel.read.insert(cookie, addr);
            for n in 0..records {
                let mut record = PgFault::new_zeroed();
                record.dev_id.set(5);
                record.addr.set(addr + n * 0x1000);
                record.cookie.set(cookie);
                record.flags.set(if n + 1 == records {
                    PGFAULT_LAST_PAGE
                } else {
                    0
                });
                buf[count..count + PGFAULT_SIZE].copy_from_slice(record.as_bytes());
                count += PGFAULT_SIZE;
            }
        }
        Ok(count)
    }

    fn write(&self, buf: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        for answer in <[PageResponse]>::ref_from_bytes(buf).unwrap() {
            let mut kernel = crate::lock::lock(&self.kernel);
            match kernel.read.remove(&answer.cookie.get()) {
                Some(addr) => kernel.answered.push((addr, answer.code.get())),
                None if taken == 0 => {
                    kernel.refused += 1;
                    return Err(Errno::INVAL.into());
                }
                None => break,
            }
            taken += PAGE_RESPONSE_SIZE;
        }
        if let Some(channel) = self.channel.get().and_then(Weak::upgrade) {
            // Another thread, before this one has told the core.
            channel.faults.read(&mut Idle);
        }
        Ok(taken)
    }

    fn readable(&self) -> io::Result<bool> {
        Ok(!crate::lock::lock(&self.kernel).queue.is_empty())
    }
}

/// A thread that has read, and not come further yet.
struct Idle;

impl FaultSink for Idle {
    type Error = ();

    fn take(&mut self, _faults: &[PgFault]) -> (usize, Result<(), ()>) {
        (0, Err(()))
    }

    fn empty(&mut self) {}
}

/// What outlives a back-end.
struct World {
    kernel: FaultFd,
    memory: File,
    size: u64,
    event_base: u64,
    portal_base: u64,
    /// Commands, and their numbers.
    commands: Vec<(u64, Message)>,
    /// How often the guest has seen each fault.
    seen: BTreeMap<u64, u32>,
}

impl World {
    fn new() -> Self {
        let layout = Layout::new(&LIMITS);
        let size = AREA + layout.room();
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = memfd_create("world", flags).unwrap();
        ftruncate(&fd, size).unwrap();
        fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
        let kernel = FaultFd::default();
        let groups = [1, 2, 1, 1, 3, 1, 1];
        let queue = (1..).zip(groups).map(|(n, records)| (n << 16, records));
        crate::lock::lock(&kernel.kernel).queue = queue.collect();
        World {
            kernel,
            memory: File::from(fd),
            size,
            event_base: 0,
            portal_base: 0,
            commands: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    fn portal_taken(&self) -> u64 {
        let mut word = [0; WORD];
        let at = AREA + (head::PORTAL_TAKEN * WORD) as u64;
        rustix::io::pread(&self.memory, &mut word, at).unwrap();
        u64::from_le_bytes(word)
    }

    /// A back-end that has taken over, and the channel.
    fn start(&mut self) -> (Arc<Shell>, Arc<OpenChannel>) {
        let wake = Wake::new().unwrap();
        let shell = Arc::new(Shell::new(LIMITS, Events::for_tests(), wake).unwrap());
        self.portal_base = self.portal_taken();
        let mut header = MemoryHeader::new_zeroed();
        header.magic.set(MEMORY_MAGIC);
        header.version.set(1);
        header.header_size.set(128);
        header.total_size.set(self.size);
        header.status_offset.set(128);
        header.status_room.set(256);
        header.recovery_offset.set(AREA);
        header.recovery_room.set(self.size - AREA);
        header.event_base.set(self.event_base);
        header.portal_base.set(self.portal_base);
        pwrite(&self.memory, header.as_bytes(), 0).unwrap();
        let request = SharedMemoryRequest {
            size: U64::new(self.size),
            generation: U64::ZERO,
        };
        let fd = OwnedFd::from(self.memory.try_clone().unwrap());
        let memory = SharedMemory::map(fd, &request).unwrap();
        shell.share_memory(memory).unwrap();

        let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let fd = Watched {
            token: 0,
            fd: Arc::new(fd),
        };
        let io = FaultFd {
            kernel: self.kernel.kernel.clone(),
            channel: Arc::default(),
        };
        let faults = FaultFile::with_io(ChannelKind::Kernel, Box::new(io.clone()));
        let channel = Arc::new(OpenChannel::new(0, fd, faults, None));
        let _ = io.channel.set(Arc::downgrade(&channel));
        let desc = Attachment {
            device: 0,
            vsid: 8,
            dev_id: 5,
            channel: 0,
            max_outstanding: 0,
            pri: false,
        };
        shell.attach_first(&desc, &channel, false).unwrap();
        shell.core.step(|core, _| core.claim(0));
        shell.settle();
        shell.core.finish_recovery();
        shell.settle();
        (shell, channel)
    }

    fn post(&self, shell: &Shell, seq: u64, mut message: Message) {
        message.seq.set(seq);
        let (_, result, wants) = shell.portal([Some(&message)].into_iter());
        result.unwrap();
        shell.follow(wants).send();
    }

    /// Serves everything that there is.
    fn serve(&mut self) {
        let (shell, channel) = self.start();
        let mut seq = 0;
        let taken = self.portal_base;
        self.commands.retain(|(number, _)| *number > taken);
        for index in 0..self.commands.len() {
            seq += 1;
            self.commands[index].0 = self.portal_base + seq;
            self.post(&shell, seq, self.commands[index].1);
        }
        loop {
            while shell.channels.read(&channel) {}
            shell.settle();
            let mut message = None;
            shell
                .core
                .step(|core, now| {
                    core.emit(now, |next| {
                        message = Some(*next);
                        Ok::<(), ()>(())
                    })
                })
                .unwrap();
            // Only now does the front end see it.
            let Some(message) = message else { break };
            self.event_base += 1;
            if message.message_type() != Some(MessageType::SmmuEvent) {
                continue;
            }
            let event = EventRecord::decode(&message.payload()).unwrap();
            *self.seen.entry(event.addr).or_default() += 1;
            let resume = SmmuCommand::Resume {
                sid: 8,
                stag: event.stag,
                code: code_of(event.addr),
            };
            let message = Message::new(MessageType::SmmuCmd, DEVICE_NONE, &resume.encode());
            seq += 1;
            self.commands.push((self.portal_base + seq, message));
            self.post(&shell, seq, message);
        }
    }

    fn check(&self, place: u64) {
        let kernel = crate::lock::lock(&self.kernel.kernel);
        assert!(
            kernel.queue.is_empty() && kernel.read.is_empty(),
            "{place}: {:?}",
            kernel.read
        );
        let mut answered: Vec<(u64, u32)> = kernel.answered.clone();
        answered.sort_unstable();
        let expected = (1..8_u64).map(|n| (n << 16, code_of(n << 16) as u32));
        assert_eq!(answered, expected.collect::<Vec<_>>(), "{place}");
        assert_eq!(self.seen.len(), 10, "{place}: {:?}", self.seen);
        assert!(
            self.seen.values().all(|times| *times == 1),
            "{place}: {:?}",
            self.seen
        );
    }
}

/// All faults of a group are answered alike.
fn code_of(addr: u64) -> ResponseCode {
    if (addr >> 16) % 3 == 0 {
        ResponseCode::Invalid
    } else {
        ResponseCode::Success
    }
}

/// Returns whether it has come to its end.
fn serve_until(world: &mut World, place: u64) -> bool {
    LEFT.set(Some(place));
    let ended = catch_unwind(AssertUnwindSafe(|| world.serve())).is_ok();
    LEFT.set(None);
    ended
}

#[test]
fn test_kernel_file_whose_back_end_ends_at_any_place_gets_each_answer_once() {
    let mut refused = 0;
    for place in 0.. {
        let mut world = World::new();
        let ended = serve_until(&mut world, place);
        if !ended {
            world.serve();
        }
        world.check(place);
        refused += crate::lock::lock(&world.kernel.kernel).refused;
        if ended {
            assert!(place > 300, "{place} places");
            break;
        }
    }
    // Answers that had been written, and that nobody had told of.
    assert!(refused > 0);
}

#[test]
fn test_kernel_file_whose_back_ends_end_again_and_again_gets_each_answer_once() {
    for step in [37, 61, 101, 163, 250, 401] {
        let mut world = World::new();
        let mut kills = 0;
        while !serve_until(&mut world, step + kills) {
            kills += 1;
            assert!(kills < 2000, "no progress");
        }
        world.check(step);
    }
}
