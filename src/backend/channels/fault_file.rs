// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One fault channel: a fault file of the kernel's iommufd, or a socket that carries the same
//! bytes.
//!
//! The two differ in how "empty", "full" and "gone" look. That is all this file knows; what a fault
//! means is the state machine's business.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard},
};

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    fs::{fcntl_getfl, fcntl_setfl, fstat, FileType, OFlags},
    io::Errno,
    net::{recv, send, sockopt, RecvFlags, SendFlags, SocketType},
};
use vm_memory::VolatileSlice;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

#[cfg(feature = "failpoints")]
use super::model_file::ModelFile;
use crate::{
    backend::wait::guard,
    lock::lock,
    recovery::{image::SavedChannel, inbox::Inbox, owner::Owner, point},
    sys,
    wire::{PageResponse, PgFault, PAGE_RESPONSE_SIZE, PGFAULT_SIZE},
};

/// Faults read by one system call.
const READ_BATCH: usize = 128;
/// The largest group that the kernel may make us take in one read.
const MAX_GROUP: usize = 4096;
/// How often a read that brings nothing is made again while poll says that there is something.
const EMPTY_READS: usize = 8;
/// Answers written by one system call.
const WRITE_BATCH: usize = 256;

/// What the descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// A fault file of the kernel.
    Kernel,
    /// A `SOCK_STREAM` socket of an emulated device.
    Socket,
}

impl ChannelKind {
    /// Tells the two kinds apart, and refuses everything else.
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let invalid = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        match FileType::from_raw_mode(fstat(fd)?.st_mode) {
            FileType::Socket if sockopt::socket_type(fd)? == SocketType::STREAM => Ok(Self::Socket),
            #[cfg(feature = "failpoints")]
            FileType::Socket if ModelFile::is_one(fd) => Ok(Self::Kernel),
            FileType::Socket => invalid("a socket, but not SOCK_STREAM"),
            // Anonymous inodes, and a fault file is one, have no type.
            FileType::Unknown => Ok(Self::Kernel),
            _ => invalid("neither fault file nor socket"),
        }
    }
}

/// Takes the faults that are read.
pub trait FaultSink {
    /// Why a fault was not taken.
    type Error;

    /// Takes faults in order and says how many; with an error, the one after those is offered
    /// again.
    fn take(&mut self, faults: &[PgFault]) -> (usize, Result<(), Self::Error>);

    /// The same; the first of them is the record of that number in the inbox.
    fn take_at(&mut self, _at: usize, faults: &[PgFault]) -> (usize, Result<(), Self::Error>) {
        self.take(faults)
    }

    /// Everything that there was has been read.
    fn empty(&mut self);

    /// Whether faults are wanted at all now.
    fn wanted(&mut self) -> bool {
        true
    }
}

/// Where the answers come from.
pub trait AnswerSource {
    /// Copies the next answers, without removing them, and says how many there are.
    fn peek(&mut self, answers: &mut [PageResponse]) -> usize;

    /// The first `count` were taken by the peer: they must not come again. Then as [`Self::peek`].
    fn written(&mut self, count: usize, answers: &mut [PageResponse]) -> usize;

    /// The first was refused by the kernel, which had aborted the fault itself: it must not come
    /// again. Then as [`Self::peek`].
    fn aborted(&mut self, answers: &mut [PageResponse]) -> usize;
}

/// Why reading stopped.
#[derive(Debug)]
pub enum ReadEnd<E> {
    /// There is nothing more to read for now.
    Empty,
    /// There may be more.
    More,
    /// The sink does not take the next fault.
    Refused(E),
    /// The sink wants no fault now; nothing was read.
    Unwanted,
    /// Nothing could be read for a passing reason.
    Again(io::Error),
    /// The other end has gone.
    Closed,
    /// The channel cannot be used any more.
    Broken(io::Error),
}

/// Why writing stopped.
#[derive(Debug)]
pub enum WriteEnd {
    /// Every answer has been written.
    Done,
    /// A socket takes no more for now.
    Blocked,
    /// The channel cannot be used any more.
    Broken(io::Error),
}

/// The system calls of a channel; tests put a model of the kernel in their place.
pub trait FaultIo: Send + Sync {
    /// Reads without blocking; `WouldBlock` only from a socket.
    fn read(&self, buf: &mut [u8]) -> io::Result<usize>;
    /// The same, into memory that is shared.
    fn read_shared(&self, memory: &VolatileSlice<'_>) -> io::Result<usize> {
        let mut buf = vec![0; memory.len()];
        let count = self.read(&mut buf)?;
        memory.copy_from(&buf[..count]);
        Ok(count)
    }
    /// Writes without blocking.
    fn write(&self, buf: &[u8]) -> io::Result<usize>;
    /// Whether poll says that there is something to read; only asked of the kernel's files.
    fn readable(&self) -> io::Result<bool>;
}

struct KernelFile(Arc<OwnedFd>);

impl FaultIo for KernelFile {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, buf)?)
    }

    fn read_shared(&self, memory: &VolatileSlice<'_>) -> io::Result<usize> {
        sys::read_shared(&self.0, memory)
    }

    fn write(&self, buf: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.0, buf)?)
    }

    fn readable(&self) -> io::Result<bool> {
        poll_readable(&self.0)
    }
}

struct StreamSocket(Arc<OwnedFd>);

impl FaultIo for StreamSocket {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(recv(&self.0, buf, RecvFlags::DONTWAIT)?.0)
    }

    fn read_shared(&self, memory: &VolatileSlice<'_>) -> io::Result<usize> {
        sys::recv_shared(&self.0, memory)
    }

    fn write(&self, buf: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(send(&self.0, buf, flags)?)
    }

    fn readable(&self) -> io::Result<bool> {
        poll_readable(&self.0)
    }
}

fn poll_readable(fd: impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&Timespec::default())))?;
    Ok(fds[0].revents().contains(PollFlags::IN))
}

/// Bytes read and not taken yet: `buf[start..end]`.
struct Reader {
    buf: Vec<u8>,
    start: usize,
    end: usize,
    /// Where the records come to first, as they do in `buf`.
    inbox: Option<Inbox>,
}

/// How much of the first answer a socket has taken already.
struct Writer {
    sent: usize,
    /// Whoever writes has the right to the recovery area, if there is one.
    owner: Option<Owner>,
}

/// A fault channel. One thread can read while another writes.
pub struct FaultFile {
    kind: ChannelKind,
    io: Box<dyn FaultIo>,
    reader: Mutex<Reader>,
    writer: Mutex<Writer>,
}

impl FaultFile {
    /// A channel over `fd`.
    pub fn new(fd: Arc<OwnedFd>) -> io::Result<Self> {
        let kind = ChannelKind::of(fd.as_fd())?;
        let io: Box<dyn FaultIo> = match kind {
            #[cfg(feature = "failpoints")]
            ChannelKind::Kernel if ModelFile::is_one(fd.as_fd()) => Box::new(ModelFile::new(fd)?),
            ChannelKind::Kernel => {
                // A fault file never blocks; whatever else this may be must not either.
                fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
                check_fault_file(fd.as_fd())?;
                Box::new(KernelFile(fd))
            }
            ChannelKind::Socket => Box::new(StreamSocket(fd)),
        };
        Ok(Self::with_io(kind, io))
    }

    /// A channel over other system calls.
    pub fn with_io(kind: ChannelKind, io: Box<dyn FaultIo>) -> Self {
        FaultFile {
            kind,
            io,
            reader: Mutex::new(Reader {
                buf: vec![0; READ_BATCH * PGFAULT_SIZE],
                start: 0,
                end: 0,
                inbox: None,
            }),
            writer: Mutex::new(Writer {
                sent: 0,
                owner: None,
            }),
        }
    }

    /// Offers what was left over, then makes one `read` and offers what it brought.
    pub fn read<S: FaultSink>(&self, sink: &mut S) -> ReadEnd<S::Error> {
        let mut reader = self.lock_reader();
        if !sink.wanted() {
            return ReadEnd::Unwanted;
        }
        if let Err(e) = reader.offer(sink) {
            return ReadEnd::Refused(e);
        }
        match reader.fill(&*self.io, self.kind) {
            Ok(()) => match reader.offer(sink) {
                Err(e) => ReadEnd::Refused(e),
                // Only an empty read proves that there is nothing more.
                Ok(()) => ReadEnd::More,
            },
            Err(ReadEnd::Empty) => {
                sink.empty();
                ReadEnd::Empty
            }
            Err(end) => end,
        }
    }

    /// Writes the answers of `source` until there are none or the peer takes no more.
    ///
    /// Only one thread is in here at a time, so what is offered, written and struck out stays in
    /// step: an answer is never written twice. When this returns `Done`, no answer that existed
    /// before the call is still on its way.
    pub fn write(&self, source: &mut impl AnswerSource) -> WriteEnd {
        let mut writer = lock(&self.writer);
        let mut answers = [PageResponse::new_zeroed(); WRITE_BATCH];
        let mut count = source.peek(&mut answers);
        while count > 0 {
            let bytes = answers[..count].as_bytes();
            point("write");
            if let Some(owner) = &writer.owner {
                owner.check();
            }
            match self.io.write(&bytes[writer.sent..]) {
                Ok(0) => return WriteEnd::Broken(io::ErrorKind::WriteZero.into()),
                Ok(more) => {
                    point("has written");
                    let sent = writer.sent + more;
                    writer.sent = sent % PAGE_RESPONSE_SIZE;
                    count = source.written(sent / PAGE_RESPONSE_SIZE, &mut answers);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return WriteEnd::Blocked,
                // The kernel stops before the first answer that it does not take, and says so in
                // the next call: this is about the first one only.
                Err(e) if self.kind == ChannelKind::Kernel && is_einval(&e) => {
                    count = source.aborted(&mut answers);
                }
                Err(e) => return WriteEnd::Broken(e),
            }
        }
        WriteEnd::Done
    }

    /// Records come into `inbox` from now on. It has what `saved` says, or nothing.
    pub fn use_inbox(&self, inbox: Inbox, saved: Option<&SavedChannel>) {
        let mut reader = self.lock_reader();
        if let Some(saved) = saved {
            let end = saved.inbox.len();
            inbox.erase(end, saved.end);
            if saved.taken < end {
                let room = reader.buf.len().max(end);
                reader.buf.resize(room, 0);
                reader.buf[..end].copy_from_slice(&saved.inbox);
                (reader.start, reader.end) = (saved.taken, end);
            } else {
                inbox.begin_anew(end, &[]);
            }
        }
        lock(&self.writer).owner = Some(inbox.owner.clone());
        reader.inbox = Some(inbox);
    }

    /// Gives up the inbox, and what is in it if it is to be forgotten.
    pub fn leave_inbox(&self, forget: bool) {
        let mut reader = self.lock_reader();
        let end = reader.end;
        if let Some(inbox) = reader.inbox.take().filter(|_| forget) {
            inbox.begin_anew(end, &[]);
        }
        (reader.start, reader.end) = (0, 0);
    }

    /// Runs `f` while no other thread writes. The calling thread may be reading.
    pub fn writer_at_rest<R>(&self, f: impl FnOnce() -> R) -> R {
        let _writer = lock(&self.writer);
        f()
    }

    /// Drops the faults of a device that were read but not taken, if that is to be done, and runs
    /// `f`, all while no other thread reads or writes.
    pub fn discard_if<R>(
        &self,
        wanted: impl FnOnce() -> bool,
        dev_id: u32,
        f: impl FnOnce() -> R,
    ) -> R {
        let mut reader = self.lock_reader();
        if wanted() {
            reader.discard(dev_id);
        }
        self.writer_at_rest(f)
    }

    /// What the channel is.
    pub fn kind(&self) -> ChannelKind {
        self.kind
    }

    /// Runs `f` while no other thread reads or writes.
    pub fn at_rest<R>(&self, f: impl FnOnce() -> R) -> R {
        let _reader = self.lock_reader();
        let _writer = lock(&self.writer);
        f()
    }

    fn lock_reader(&self) -> MutexGuard<'_, Reader> {
        lock(&self.reader)
    }
}

/// Refuses an anonymous inode that is no fault file: only the kernel's iommufd_fault_fops_read()
/// answers a size that is no multiple of a record's with ESPIPE. Nothing is taken from the file.
fn check_fault_file(fd: BorrowedFd<'_>) -> io::Result<()> {
    // What is none may block: O_NONBLOCK is the front end's to clear.
    match guard::bounded(|| rustix::io::read(fd, &mut [0; 1])) {
        Err(Errno::SPIPE) => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no fault file of iommufd",
        )),
    }
}

fn too_large() -> io::Error {
    let text = format!("a group of more than {MAX_GROUP} faults");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn is_einval(e: &io::Error) -> bool {
    e.raw_os_error() == Some(Errno::INVAL.raw_os_error())
}

fn is_none(fault: &PgFault) -> bool {
    fault.as_bytes().iter().all(|byte| *byte == 0)
}

impl Reader {
    /// Hands whole records to the sink and keeps what it does not take.
    fn offer<S: FaultSink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        loop {
            let held = &self.buf[self.start..self.end];
            let whole = held.len() - held.len() % PGFAULT_SIZE;
            let Ok(faults) = <[PgFault]>::ref_from_bytes(&held[..whole]) else {
                // A multiple of the record's size without alignment is always a slice of records.
                return Ok(());
            };
            // Some may have been discarded.
            let gone = |fault: &PgFault| self.inbox.is_some() && is_none(fault);
            let skipped = faults.iter().take_while(|fault| gone(fault)).count();
            let faults = &faults[skipped..];
            let count = faults.iter().take_while(|fault| !gone(fault)).count();
            if count == 0 {
                self.start += skipped * PGFAULT_SIZE;
                return Ok(());
            }
            let at = self.start / PGFAULT_SIZE + skipped;
            let (taken, result) = sink.take_at(at, &faults[..count]);
            self.start += (skipped + taken) * PGFAULT_SIZE;
            result?;
            if taken < count {
                return Ok(());
            }
        }
    }

    /// Drops the whole records of `dev_id`.
    fn discard(&mut self, dev_id: u32) {
        if let Some(inbox) = &self.inbox {
            let (start, end) = (self.start, self.end);
            let records = (start..).step_by(PGFAULT_SIZE);
            for (at, record) in records.zip(self.buf[start..end].chunks_exact_mut(PGFAULT_SIZE)) {
                let of_device = |fault: PgFault| fault.dev_id.get() == dev_id;
                if PgFault::read_from_bytes(record).is_ok_and(of_device) {
                    inbox.erase(at, at + PGFAULT_SIZE);
                    record.fill(0);
                }
            }
            return;
        }
        let mut kept = Vec::with_capacity(self.end - self.start);
        for record in self.buf[self.start..self.end].chunks(PGFAULT_SIZE) {
            let of_device = |fault: PgFault| fault.dev_id.get() == dev_id;
            if !PgFault::read_from_bytes(record).is_ok_and(of_device) {
                kept.extend_from_slice(record);
            }
        }
        self.start = 0;
        self.end = kept.len();
        self.buf[..kept.len()].copy_from_slice(&kept);
    }

    /// Makes room for the largest group, if there is not.
    fn make_room(&mut self) -> bool {
        let small = self.buf.len() < MAX_GROUP * PGFAULT_SIZE;
        if small {
            self.buf.resize(MAX_GROUP * PGFAULT_SIZE, 0);
        }
        small
    }

    /// Reads once. All records have been taken, at most a piece of one is left (sockets only).
    fn fill<E>(&mut self, io: &dyn FaultIo, kind: ChannelKind) -> Result<(), ReadEnd<E>> {
        if let Some(inbox) = self.inbox.as_ref().filter(|_| self.end > 0) {
            inbox.begin_anew(self.end, &self.buf[self.start..self.end]);
        }
        self.buf.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let mut empty_reads = 0;
        loop {
            let come = match &self.inbox {
                Some(inbox) => inbox.fill(self.end, &mut self.buf, |to| io.read_shared(to)),
                None => io.read(&mut self.buf[self.end..]),
            };
            match come {
                // Nothing, or whole groups of which the first did not fit, or came a moment ago.
                Ok(0) if kind == ChannelKind::Kernel => match io.readable() {
                    Ok(false) => return Err(ReadEnd::Empty),
                    Ok(true) if empty_reads < EMPTY_READS => {
                        empty_reads += 1;
                        self.make_room();
                    }
                    Ok(true) => return Err(ReadEnd::Broken(too_large())),
                    Err(e) => return Err(ReadEnd::Broken(e)),
                },
                Ok(0) => return Err(ReadEnd::Closed),
                Ok(count) => {
                    self.end += count;
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(ReadEnd::Empty),
                // The same, as other kernels say it.
                Err(e) if kind == ChannelKind::Kernel && is_einval(&e) => {
                    if !self.make_room() {
                        return Err(ReadEnd::Broken(too_large()));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::OutOfMemory => return Err(ReadEnd::Again(e)),
                Err(e) => return Err(ReadEnd::Broken(e)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
