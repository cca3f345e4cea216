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
    /// What a read of a group that does not fit says: nothing, as Linux does, or EINVAL.
    says_einval: bool,
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
                if done == 0 && self.says_einval {
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

    fn readable(&self) -> io::Result<bool> {
        Ok(!self.0.lock().unwrap().queue.is_empty())
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

    fn written(&mut self, count: usize, answers: &mut [PageResponse]) -> usize {
        let written = self.waiting.drain(..count);
        self.written
            .extend(written.map(|answer| answer.cookie.get()));
        self.peek(answers)
    }

    fn aborted(&mut self, answers: &mut [PageResponse]) -> usize {
        let aborted = self.waiting.pop_front().unwrap();
        self.aborted.push(aborted.cookie.get());
        self.peek(answers)
    }
}

fn kernel_channel(groups: impl IntoIterator<Item = usize>) -> (KernelFd, FaultFile) {
    let kernel = KernelFd::default();
    kernel.0.lock().unwrap().queue.extend(groups);
    let channel = FaultFile::with_io(ChannelKind::Kernel, Box::new(kernel.clone()));
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
    for says_einval in [false, true] {
        let (kernel, channel) = kernel_channel([1, READ_BATCH + 50, 2]);
        kernel.0.lock().unwrap().says_einval = says_einval;
        let mut sink = Sink::with_room(1000);

        while matches!(channel.read(&mut sink), ReadEnd::More) {}

        assert_eq!(sink.faults.len(), READ_BATCH + 53);
        let last = sink.faults.iter().filter(|fault| fault.is_last());
        assert_eq!(last.count(), 3);
        assert_eq!(sink.empty, 1);
    }
}

#[test]
fn test_read_of_the_largest_group_takes_it() {
    for says_einval in [false, true] {
        let (kernel, channel) = kernel_channel([MAX_GROUP]);
        kernel.0.lock().unwrap().says_einval = says_einval;
        let mut sink = Sink::with_room(MAX_GROUP);

        assert!(matches!(channel.read(&mut sink), ReadEnd::More));

        assert_eq!(sink.faults.len(), MAX_GROUP);
    }
}

#[test]
fn test_read_of_group_larger_than_any_breaks_the_channel() {
    for says_einval in [false, true] {
        let (kernel, channel) = kernel_channel([MAX_GROUP + 1]);
        kernel.0.lock().unwrap().says_einval = says_einval;
        let mut sink = Sink::with_room(usize::MAX);

        let end = channel.read(&mut sink);

        let ReadEnd::Broken(error) = end else {
            panic!("{end:?}");
        };
        assert_eq!(error.to_string(), "a group of more than 4096 faults");
        assert_eq!(sink.empty, 0);
        assert!(kernel.0.lock().unwrap().reads <= EMPTY_READS + 1);
    }
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

    fn readable(&self) -> io::Result<bool> {
        Ok(false)
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
        let channel = FaultFile::with_io(ChannelKind::Socket, Box::new(narrow.clone()));
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
    let text = ChannelKind::of(datagram.as_fd()).unwrap_err().to_string();
    assert_eq!(text, "a socket, but not SOCK_STREAM");
}

/// Says what it is told to.
#[derive(Default)]
struct Scripted {
    reads: Mutex<VecDeque<io::Result<Vec<u8>>>>,
    writes: Mutex<VecDeque<io::Result<usize>>>,
    readable: Mutex<VecDeque<io::Result<bool>>>,
    written: Mutex<Vec<usize>>,
}

impl FaultIo for Arc<Scripted> {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.reads.lock().unwrap().pop_front().expect("a read")?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write(&self, buf: &[u8]) -> io::Result<usize> {
        self.written.lock().unwrap().push(buf.len());
        self.writes.lock().unwrap().pop_front().expect("a write")
    }

    fn readable(&self) -> io::Result<bool> {
        self.readable.lock().unwrap().pop_front().expect("a poll")
    }
}

fn scripted(kind: ChannelKind) -> (Arc<Scripted>, FaultFile) {
    let io = Arc::new(Scripted::default());
    (io.clone(), FaultFile::with_io(kind, Box::new(io)))
}

/// Reads of both kinds that end with `errno`.
fn read_with(kind: ChannelKind, results: Vec<io::Result<Vec<u8>>>) -> (ReadEnd<()>, Sink) {
    let (io, channel) = scripted(kind);
    io.reads.lock().unwrap().extend(results);
    let mut sink = Sink::with_room(100);
    let end = channel.read(&mut sink);
    assert!(io.reads.lock().unwrap().is_empty());
    (end, sink)
}

const KINDS: [ChannelKind; 2] = [ChannelKind::Kernel, ChannelKind::Socket];

#[test]
fn test_read_interrupted_by_a_signal_is_made_again() {
    for kind in KINDS {
        let record = fault(7, 0, true).as_bytes().to_vec();

        let (end, sink) = read_with(kind, vec![Err(Errno::INTR.into()), Ok(record)]);

        assert!(matches!(end, ReadEnd::More));
        assert_eq!(sink.cookies(), [7]);
    }
}

#[test]
fn test_read_without_memory_is_tried_again_later_and_not_the_end() {
    for kind in KINDS {
        let (end, sink) = read_with(kind, vec![Err(Errno::NOMEM.into())]);

        assert!(matches!(end, ReadEnd::Again(_)), "{end:?}");
        assert_eq!(sink.empty, 0);
    }
}

#[test]
fn test_read_that_would_block_is_empty() {
    let (end, sink) = read_with(ChannelKind::Socket, vec![Err(Errno::AGAIN.into())]);

    assert!(matches!(end, ReadEnd::Empty));
    assert_eq!(sink.empty, 1);
}

#[test]
fn test_read_of_nothing_from_a_socket_is_its_end() {
    let (end, sink) = read_with(ChannelKind::Socket, vec![Ok(vec![])]);

    assert!(matches!(end, ReadEnd::Closed));
    assert_eq!(sink.empty, 0);
}

#[test]
fn test_read_error_breaks_the_channel() {
    for (kind, errno) in [
        (ChannelKind::Kernel, Errno::FAULT),
        (ChannelKind::Kernel, Errno::SPIPE),
        (ChannelKind::Socket, Errno::CONNRESET),
        (ChannelKind::Socket, Errno::INVAL),
    ] {
        let (end, _) = read_with(kind, vec![Err(errno.into())]);

        let ReadEnd::Broken(error) = end else {
            panic!("{end:?}");
        };
        assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()));
    }
}

#[test]
fn test_read_of_nothing_while_poll_fails_breaks_the_channel() {
    let (io, channel) = scripted(ChannelKind::Kernel);
    io.reads.lock().unwrap().push_back(Ok(vec![]));
    let failed = Err(Errno::NOMEM.into());
    io.readable.lock().unwrap().push_back(failed);

    let end = channel.read(&mut Sink::with_room(1));

    assert!(matches!(end, ReadEnd::Broken(_)));
}

#[test]
fn test_fault_that_comes_between_read_and_poll_is_read() {
    let (io, channel) = scripted(ChannelKind::Kernel);
    let record = fault(7, 0, true).as_bytes().to_vec();
    io.reads.lock().unwrap().extend([Ok(vec![]), Ok(record)]);
    io.readable.lock().unwrap().push_back(Ok(true));
    let mut sink = Sink::with_room(1);

    let end = channel.read(&mut sink);

    assert!(matches!(end, ReadEnd::More));
    assert_eq!(sink.cookies(), [7]);
}

fn write_with(kind: ChannelKind, results: Vec<io::Result<usize>>) -> (WriteEnd, Source) {
    let (io, channel) = scripted(kind);
    io.writes.lock().unwrap().extend(results);
    let mut source = Source::answering(1..=2);
    let end = channel.write(&mut source);
    assert!(io.writes.lock().unwrap().is_empty());
    (end, source)
}

#[test]
fn test_write_interrupted_by_a_signal_is_made_again() {
    for kind in KINDS {
        let both = 2 * PAGE_RESPONSE_SIZE;

        let (end, source) = write_with(kind, vec![Err(Errno::INTR.into()), Ok(both)]);

        assert!(matches!(end, WriteEnd::Done));
        assert_eq!(source.written, [1, 2]);
    }
}

#[test]
fn test_write_error_breaks_the_channel_and_keeps_the_answers() {
    for (kind, errno) in [
        (ChannelKind::Kernel, Errno::PIPE),
        (ChannelKind::Kernel, Errno::FAULT),
        (ChannelKind::Socket, Errno::PIPE),
        (ChannelKind::Socket, Errno::CONNRESET),
        (ChannelKind::Socket, Errno::INVAL),
    ] {
        let (end, source) = write_with(kind, vec![Err(errno.into())]);

        let WriteEnd::Broken(error) = end else {
            panic!("{end:?}");
        };
        assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()));
        assert_eq!(source.waiting.len(), 2);
        assert!(source.aborted.is_empty());
    }
}

#[test]
fn test_write_that_takes_nothing_breaks_the_channel() {
    for kind in KINDS {
        let (end, source) = write_with(kind, vec![Ok(0)]);

        assert!(matches!(end, WriteEnd::Broken(e) if e.kind() == io::ErrorKind::WriteZero));
        assert_eq!(source.waiting.len(), 2);
    }
}

#[test]
fn test_discard_drops_what_was_read_of_that_device_only() {
    let (io, channel) = scripted(ChannelKind::Kernel);
    let record = |cookie, dev_id| {
        let mut record = fault(cookie, 0, true);
        record.dev_id = U32::new(dev_id);
        record
    };
    let records = [record(1, 5), record(2, 6), record(3, 5), record(4, 6)];
    let bytes = records.as_bytes().to_vec();
    io.reads.lock().unwrap().push_back(Ok(bytes));
    let mut sink = Sink::with_room(1);
    assert!(matches!(channel.read(&mut sink), ReadEnd::Refused(())));

    let result = channel.discard_if(|| true, 5, || 42);
    io.reads.lock().unwrap().push_back(Ok(vec![]));
    io.readable.lock().unwrap().push_back(Ok(false));
    sink.room = 10;
    let end = channel.read(&mut sink);

    assert_eq!(result, 42);
    assert!(matches!(end, ReadEnd::Empty));
    assert_eq!(sink.cookies(), [1, 2, 4]);
}

#[test]
fn test_discard_keeps_a_record_that_has_come_in_part() {
    let (io, channel) = scripted(ChannelKind::Socket);
    let first = fault(1, 0, true);
    let second = fault(2, 0, true);
    let (half, rest) = second.as_bytes().split_at(17);
    let bytes = [first.as_bytes(), half].concat();
    io.reads.lock().unwrap().push_back(Ok(bytes));
    let mut sink = Sink::with_room(0);
    assert!(matches!(channel.read(&mut sink), ReadEnd::Refused(())));

    channel.discard_if(|| true, 0, || ());
    io.reads.lock().unwrap().push_back(Ok(rest.to_vec()));
    sink.room = 10;
    let end = channel.read(&mut sink);

    assert!(matches!(end, ReadEnd::More));
    assert_eq!(sink.cookies(), [2]);
}

#[test]
fn test_sink_that_wants_nothing_is_offered_nothing() {
    struct Unwilling;

    impl FaultSink for Unwilling {
        type Error = ();

        fn take(&mut self, _: &[PgFault]) -> (usize, Result<(), ()>) {
            panic!("offered")
        }

        fn empty(&mut self) {
            panic!("called empty")
        }

        fn wanted(&mut self) -> bool {
            false
        }
    }
    let (kernel, channel) = kernel_channel([1]);

    let end = channel.read(&mut Unwilling);

    assert!(matches!(end, ReadEnd::Unwanted));
    assert_eq!(kernel.0.lock().unwrap().reads, 0);
}

/// The system calls of [`KernelFile`] and [`StreamSocket`], on files that can be had without an
/// IOMMU.
#[test]
fn test_system_calls_read_write_and_poll_the_descriptor() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let fd: Arc<OwnedFd> = Arc::new(ours.into());
    let ios: [Box<dyn FaultIo>; 2] = [
        Box::new(KernelFile(fd.clone())),
        Box::new(StreamSocket(fd.clone())),
    ];
    for io in ios {
        let mut buf = [0; 8];
        assert!(!io.readable().unwrap());
        let empty = io.read(&mut buf).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);

        rustix::io::write(&theirs, b"fault").unwrap();
        assert!(io.readable().unwrap());
        assert_eq!(io.read(&mut buf).unwrap(), 5);
        assert_eq!(&buf[..5], b"fault");
        assert_eq!(io.write(b"answer").unwrap(), 6);
        assert_eq!(rustix::io::read(&theirs, &mut buf).unwrap(), 6);
        assert_eq!(&buf[..6], b"answer");
    }
}

/// O_NONBLOCK is the peer's to clear, so each call says that it must not wait.
#[test]
fn test_answers_to_a_socket_that_is_full_do_not_wait() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let socket = StreamSocket(Arc::new(ours.into()));
    let (done, full) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let error = loop {
            if let Err(error) = socket.write(&[0; 4096]) {
                break error;
            }
        };
        done.send(error.kind())
    });

    let hang = std::time::Duration::from_secs(120);
    assert_eq!(full.recv_timeout(hang), Ok(io::ErrorKind::WouldBlock));
}

#[test]
fn test_answer_to_a_socket_that_is_gone_is_epipe_and_no_signal() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let channel = FaultFile::new(Arc::new(ours.into())).unwrap();

    let end = channel.write(&mut Source::answering([1]));

    let WriteEnd::Broken(error) = end else {
        panic!("{end:?}");
    };
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert!(matches!(
        channel.read(&mut Sink::with_room(1)),
        ReadEnd::Closed
    ));
}

#[test]
fn test_anonymous_inode_that_is_no_fault_file_is_refused_and_does_not_block() {
    let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let epoll = crate::sys::epoll_create().unwrap();

    for fd in [eventfd, epoll] {
        let error = FaultFile::new(Arc::new(fd)).err().unwrap();
        assert_eq!(error.to_string(), "it is no fault file of iommufd");
    }
}
