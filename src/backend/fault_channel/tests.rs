// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The rules of a fault file, against a model of the kernel's.

use std::{
    collections::{BTreeMap, VecDeque},
    os::unix::net::{UnixDatagram, UnixStream},
    sync::Arc,
};

use proptest::prelude::*;
use rustix::fs::{memfd_create, MemfdFlags};

use super::*;
use crate::wire::{PGFAULT_LAST_PAGE, U32, U64};

/// A fault object of iommufd, as far as its file goes.
#[derive(Default)]
struct Kernel {
    /// Groups not read yet, by number of records.
    queue: VecDeque<usize>,
    /// Cookies given out and not answered.
    outstanding: Vec<u32>,
    /// Every answer taken, in order.
    answered: Vec<(u32, u32)>,
    reads: usize,
    writes: usize,
}

impl Kernel {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        if buf.len() % PGFAULT_SIZE != 0 {
            return Err(Errno::SPIPE.into());
        }
        let mut done = 0;
        while let Some(&records) = self.queue.front() {
            let size = records * PGFAULT_SIZE;
            if buf.len() - done < size {
                if done == 0 {
                    return Err(Errno::INVAL.into());
                }
                break;
            }
            self.queue.pop_front();
            let cookie = (1..)
                .find(|cookie| !self.outstanding.contains(cookie))
                .unwrap();
            self.outstanding.push(cookie);
            for index in 0..records {
                let record = fault(cookie, index, index + 1 == records);
                buf[done..done + PGFAULT_SIZE].copy_from_slice(record.as_bytes());
                done += PGFAULT_SIZE;
            }
        }
        Ok(done)
    }

    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.writes += 1;
        if buf.len() % PAGE_RESPONSE_SIZE != 0 {
            return Err(Errno::SPIPE.into());
        }
        let answers = <[PageResponse]>::ref_from_bytes(buf).unwrap();
        for (index, answer) in answers.iter().enumerate() {
            let (cookie, code) = (answer.cookie.get(), answer.code.get());
            let known = self.outstanding.iter().position(|c| *c == cookie);
            match known.filter(|_| code <= 1) {
                Some(at) => drop(self.outstanding.remove(at)),
                None if index == 0 => return Err(Errno::INVAL.into()),
                None => return Ok(index * PAGE_RESPONSE_SIZE),
            }
            self.answered.push((cookie, code));
        }
        Ok(buf.len())
    }
}

fn fault(cookie: u32, index: usize, last: bool) -> PgFault {
    let mut record = PgFault::new_zeroed();
    record.cookie = U32::new(cookie);
    record.addr = U64::new(index as u64 * 4096);
    record.flags = U32::new(if last { PGFAULT_LAST_PAGE } else { 0 });
    record
}

#[derive(Clone, Default)]
struct KernelFd(Arc<Mutex<Kernel>>);

impl FaultIo for KernelFd {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.lock().unwrap().read(buf)
    }

    fn write(&self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(buf)
    }
}

/// Takes so many faults and no more.
struct Sink {
    room: usize,
    faults: Vec<PgFault>,
    empty: usize,
}

impl Sink {
    fn with_room(room: usize) -> Self {
        Self {
            room,
            faults: Vec::new(),
            empty: 0,
        }
    }

    fn cookies(&self) -> Vec<u32> {
        self.faults.iter().map(|fault| fault.cookie.get()).collect()
    }
}

impl FaultSink for Sink {
    type Error = ();

    fn take(&mut self, faults: &[PgFault]) -> (usize, Result<(), ()>) {
        let taken = faults.len().min(self.room);
        self.room -= taken;
        self.faults.extend_from_slice(&faults[..taken]);
        let result = if taken == faults.len() {
            Ok(())
        } else {
            Err(())
        };
        (taken, result)
    }

    fn empty(&mut self) {
        self.empty += 1;
    }
}

/// Answers that wait, and what became of them.
#[derive(Default)]
struct Source {
    waiting: VecDeque<PageResponse>,
    written: Vec<u32>,
    aborted: Vec<u32>,
}

impl Source {
    fn answering(cookies: impl IntoIterator<Item = u32>) -> Self {
        let waiting = cookies.into_iter().map(|cookie| PageResponse {
            cookie: U32::new(cookie),
            code: U32::ZERO,
        });
        Self {
            waiting: waiting.collect(),
            ..Self::default()
        }
    }
}

impl AnswerSource for Source {
    fn peek(&mut self, answers: &mut [PageResponse]) -> usize {
        let count = answers.len().min(self.waiting.len());
        for (slot, answer) in answers.iter_mut().zip(&self.waiting) {
            *slot = *answer;
        }
        count
    }

    fn written(&mut self, count: usize) {
        let written = self.waiting.drain(..count);
        self.written
            .extend(written.map(|answer| answer.cookie.get()));
    }

    fn aborted(&mut self) {
        let aborted = self.waiting.pop_front().unwrap();
        self.aborted.push(aborted.cookie.get());
    }
}

fn kernel_channel(groups: impl IntoIterator<Item = usize>) -> (KernelFd, FaultChannel) {
    let kernel = KernelFd::default();
    kernel.0.lock().unwrap().queue.extend(groups);
    let channel = FaultChannel::with_io(ChannelKind::Kernel, Box::new(kernel.clone()));
    (kernel, channel)
}

#[test]
fn test_read_takes_a_batch_of_groups_by_one_system_call() {
    let (kernel, channel) = kernel_channel([1; 60]);
    let mut sink = Sink::with_room(100);

    assert!(matches!(channel.read(&mut sink), ReadEnd::More));

    assert_eq!(sink.cookies(), (1..=60).collect::<Vec<_>>());
    assert_eq!(kernel.0.lock().unwrap().reads, 1);
    assert_eq!(sink.empty, 0);
    assert!(matches!(channel.read(&mut sink), ReadEnd::Empty));
    assert_eq!(sink.empty, 1);
}

#[test]
fn test_read_of_group_larger_than_the_buffer_makes_room_for_it() {
    let (_, channel) = kernel_channel([1, READ_BATCH + 50, 2]);
    let mut sink = Sink::with_room(1000);

    while matches!(channel.read(&mut sink), ReadEnd::More) {}

    assert_eq!(sink.faults.len(), READ_BATCH + 53);
    assert_eq!(
        sink.faults.iter().filter(|fault| fault.is_last()).count(),
        3
    );
}

#[test]
fn test_read_of_group_larger_than_any_breaks_the_channel() {
    let (_, channel) = kernel_channel([MAX_GROUP + 1]);

    let end = channel.read(&mut Sink::with_room(usize::MAX));

    assert!(matches!(end, ReadEnd::Broken(_)));
}

#[test]
fn test_read_with_no_room_keeps_what_was_read_and_reads_no_more() {
    let (kernel, channel) = kernel_channel([1; 10]);
    let mut sink = Sink::with_room(3);

    assert!(matches!(channel.read(&mut sink), ReadEnd::Refused(())));
    assert!(matches!(channel.read(&mut sink), ReadEnd::Refused(())));
    assert_eq!(kernel.0.lock().unwrap().reads, 1);
    sink.room = 100;
    assert!(matches!(channel.read(&mut sink), ReadEnd::Empty));

    assert_eq!(sink.cookies(), (1..=10).collect::<Vec<_>>());
}

#[test]
fn test_write_takes_all_answers_by_one_system_call() {
    let (kernel, channel) = kernel_channel([1; 60]);
    channel.read(&mut Sink::with_room(60));
    let mut source = Source::answering(1..=60);

    assert!(matches!(channel.write(&mut source), WriteEnd::Done));

    let kernel = kernel.0.lock().unwrap();
    assert_eq!(kernel.writes, 1);
    assert_eq!(kernel.answered.len(), 60);
    assert_eq!(source.written.len(), 60);
}

#[test]
fn test_write_with_fault_aborted_by_kernel_skips_only_that_answer() {
    let (kernel, channel) = kernel_channel([1; 3]);
    channel.read(&mut Sink::with_room(3));
    kernel
        .0
        .lock()
        .unwrap()
        .outstanding
        .retain(|cookie| *cookie != 2);
    let mut source = Source::answering([1, 2, 3]);

    assert!(matches!(channel.write(&mut source), WriteEnd::Done));

    assert_eq!(source.written, [1, 3]);
    assert_eq!(source.aborted, [2]);
    assert_eq!(kernel.0.lock().unwrap().answered, [(1, 0), (3, 0)]);
}

/// Takes a few bytes at a time, like a socket whose buffer is nearly full.
struct Narrow {
    taken: Mutex<Vec<u8>>,
    room: Mutex<VecDeque<usize>>,
}

impl FaultIo for Arc<Narrow> {
    fn read(&self, _buf: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    fn write(&self, buf: &[u8]) -> io::Result<usize> {
        let room = self.room.lock().unwrap().pop_front().unwrap_or(usize::MAX);
        if room == 0 {
            return Err(Errno::AGAIN.into());
        }
        let count = room.min(buf.len());
        self.taken.lock().unwrap().extend_from_slice(&buf[..count]);
        Ok(count)
    }
}

fn cookies(bytes: &[u8]) -> Vec<u32> {
    let answers = <[PageResponse]>::ref_from_bytes(bytes).unwrap();
    answers.iter().map(|answer| answer.cookie.get()).collect()
}

proptest! {
    #[test]
    fn test_write_in_pieces_of_any_size_writes_each_answer_once(
        room in prop::collection::vec(0usize..40, 0..40),
        count in 1u32..50,
    ) {
        let narrow = Arc::new(Narrow {
            taken: Mutex::default(),
            room: Mutex::new(room.into_iter().collect()),
        });
        let channel = FaultChannel::with_io(ChannelKind::Socket, Box::new(narrow.clone()));
        let mut source = Source::answering(1..=count);

        while matches!(channel.write(&mut source), WriteEnd::Blocked) {}

        let expected: Vec<u32> = (1..=count).collect();
        prop_assert_eq!(cookies(&narrow.taken.lock().unwrap()), expected.clone());
        prop_assert_eq!(source.written, expected);
    }

    #[test]
    fn test_kernel_with_any_aborts_gets_each_other_answer_once(
        groups in prop::collection::vec(1usize..5, 1..100),
        aborted in prop::collection::vec(any::<bool>(), 100),
    ) {
        let (kernel, channel) = kernel_channel(groups.clone());
        let mut sink = Sink::with_room(usize::MAX);
        while matches!(channel.read(&mut sink), ReadEnd::More) {}
        let total: usize = groups.iter().sum();
        prop_assert_eq!(sink.faults.len(), total);
        let all: Vec<u32> = kernel.0.lock().unwrap().outstanding.clone();
        let gone: BTreeMap<u32, bool> = all.iter().copied().zip(aborted).collect();
        kernel.0.lock().unwrap().outstanding.retain(|cookie| !gone[cookie]);
        let mut source = Source::answering(all.iter().copied());

        prop_assert!(matches!(channel.write(&mut source), WriteEnd::Done));

        let kernel = kernel.0.lock().unwrap();
        prop_assert!(kernel.outstanding.is_empty());
        let (lost, kept): (Vec<u32>, Vec<u32>) = all.iter().partition(|cookie| gone[cookie]);
        prop_assert_eq!(source.aborted, lost);
        prop_assert_eq!(source.written, kept.clone());
        let answered: Vec<u32> = kernel.answered.iter().map(|(cookie, _)| *cookie).collect();
        prop_assert_eq!(answered, kept);
    }
}

#[test]
fn test_kind_of_stream_socket_and_anonymous_inode_is_told_apart() {
    let (stream, _peer) = UnixStream::pair().unwrap();
    let anonymous = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();

    assert_eq!(
        ChannelKind::of(stream.as_fd()).unwrap(),
        ChannelKind::Socket
    );
    assert_eq!(
        ChannelKind::of(anonymous.as_fd()).unwrap(),
        ChannelKind::Kernel
    );
}

#[test]
fn test_kind_of_anything_else_is_refused() {
    let (datagram, _peer) = UnixDatagram::pair().unwrap();
    let file = memfd_create("file", MemfdFlags::CLOEXEC).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let directory = std::fs::File::open("/").unwrap();

    for fd in [
        datagram.as_fd(),
        file.as_fd(),
        null.as_fd(),
        directory.as_fd(),
    ] {
        ChannelKind::of(fd).unwrap_err();
    }
}
