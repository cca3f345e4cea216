// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The front end's descriptor that a state goes through.
//!
//! It may be a pipe, a socket or a file. O_NONBLOCK is a flag of the open file, which the front end
//! can clear at any time, so no call relies on it: sockets and newer kernels' pipes can be told for
//! each call not to wait; else readiness is asked for first, and no more is written than a pipe
//! that is ready has room for. What may wait nevertheless (a file, or a pipe that a third party
//! empties) only holds this thread, whose end nobody waits for.

use std::{
    io::{self, IoSlice, IoSliceMut, Read},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    fs::{fcntl_getfl, fcntl_setfl, fstat, FileType, OFlags},
    io::{fcntl_setfd, preadv2, pwritev2, Errno, FdFlags, ReadWriteFlags},
    net::{recv, send, RecvFlags, SendFlags},
    pipe::{fcntl_setpipe_size, PIPE_BUF},
};

use super::error::TransferError;
use crate::{backend::wait::wake::Wake, state::STATE_MAX};

/// A transfer that moves nothing for this long has failed.
const IDLE_LIMIT: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};
/// Of a pipe, unless somebody has changed it.
const PIPE_SIZE: usize = 1 << 16;
/// What a user may have without privileges.
const PIPE_SIZE_MAX: usize = 1 << 20;
/// Bytes that one call moves at most.
const CHUNK: usize = 1 << 20;
/// Where a file without positions is read and written.
const NO_OFFSET: u64 = u64::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Socket,
    /// A pipe that can be told for each call not to wait.
    Pipe,
    /// Anything else.
    Other,
}

/// One end of a state stream.
pub struct Stream {
    fd: OwnedFd,
    kind: Kind,
    cancel: Arc<Wake>,
    received: usize,
    /// How long it may wait for the front end to move something.
    idle_limit: Timespec,
}

impl Stream {
    /// Takes over the front end's descriptor; the transfer ends when `cancel` becomes readable.
    pub fn new(fd: OwnedFd, cancel: Arc<Wake>) -> io::Result<Self> {
        // Received descriptors are not close-on-exec, and a copy of this one would hide the end of
        // the stream from the front end.
        fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        let kind = match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
            FileType::Socket => Kind::Socket,
            FileType::Fifo => Kind::Pipe,
            _ => Kind::Other,
        };
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        Ok(Stream {
            fd,
            kind,
            cancel,
            received: 0,
            idle_limit: IDLE_LIMIT,
        })
    }

    /// Lets a pipe hold more at a time, as each time that it is full or empty a thread is woken. It
    /// may have reached a limit of the user's: it works as it is.
    pub fn make_room(&self, bytes: usize) {
        if self.kind == Kind::Pipe && bytes > PIPE_SIZE {
            let _ = fcntl_setpipe_size(&self.fd, bytes.min(PIPE_SIZE_MAX));
        }
    }

    /// Bytes that have come in.
    pub fn received(&self) -> usize {
        self.received
    }

    /// Writes all of `bytes`.
    pub fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), TransferError> {
        while !bytes.is_empty() {
            let part = &bytes[..bytes.len().min(CHUNK)];
            match self.write_some(part) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(Errno::INTR) => {}
                Err(e) => return Err(io::Error::from(e).into()),
            }
            self.check_cancelled()?;
        }
        Ok(())
    }

    /// Reads to the end, or until it takes too long, and keeps nothing.
    pub fn skip_rest(&mut self) {
        let mut buffer = vec![0; 1 << 16];
        let mut skipped = 0;
        while skipped < STATE_MAX {
            match self.read_some(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(count) => skipped += count as u64,
            }
        }
    }

    fn write_some(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        match self.kind {
            Kind::Socket => send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Kind::Pipe => {
                let parts = [IoSlice::new(bytes)];
                match pwritev2(&self.fd, &parts, NO_OFFSET, ReadWriteFlags::NOWAIT) {
                    Err(Errno::OPNOTSUPP) => {
                        self.kind = Kind::Other;
                        Err(Errno::INTR)
                    }
                    result => result,
                }
            }
            Kind::Other if !self.is_ready(PollFlags::OUT)? => Err(Errno::AGAIN),
            Kind::Other => rustix::io::write(&self.fd, &bytes[..bytes.len().min(PIPE_BUF)]),
        }
    }

    fn read_once(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self.kind {
            Kind::Socket => recv(&self.fd, buffer, RecvFlags::DONTWAIT).map(|(count, _)| count),
            Kind::Pipe => {
                let mut parts = [IoSliceMut::new(buffer)];
                match preadv2(&self.fd, &mut parts, NO_OFFSET, ReadWriteFlags::NOWAIT) {
                    Err(Errno::OPNOTSUPP) => {
                        self.kind = Kind::Other;
                        Err(Errno::INTR)
                    }
                    result => result,
                }
            }
            Kind::Other if !self.is_ready(PollFlags::IN)? => Err(Errno::AGAIN),
            Kind::Other => rustix::io::read(&self.fd, buffer),
        }
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, TransferError> {
        loop {
            self.check_cancelled()?;
            match self.read_once(buffer) {
                Ok(count) => return Ok(count),
                Err(Errno::AGAIN) => self.wait(PollFlags::IN)?,
                Err(Errno::INTR) => {}
                Err(e) => return Err(io::Error::from(e).into()),
            }
        }
    }

    fn is_ready(&self, what: PollFlags) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(&self.fd, what)];
        poll(&mut fds, Some(&Timespec::default())).map(|ready| ready > 0)
    }

    fn check_cancelled(&self) -> Result<(), TransferError> {
        let mut fds = [PollFd::from_borrowed_fd(self.cancel.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&Timespec::default())) {
            Ok(0) | Err(Errno::INTR) => Ok(()),
            Ok(_) => Err(TransferError::Cancelled),
            Err(e) => Err(io::Error::from(e).into()),
        }
    }

    fn wait(&self, what: PollFlags) -> Result<(), TransferError> {
        let mut fds = [
            PollFd::new(&self.fd, what),
            PollFd::from_borrowed_fd(self.cancel.as_fd(), PollFlags::IN),
        ];
        loop {
            match poll(&mut fds, Some(&self.idle_limit)) {
                Ok(0) => return Err(TransferError::Idle(self.idle_limit.tv_sec)),
                Ok(_) if !fds[1].revents().is_empty() => return Err(TransferError::Cancelled),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(io::Error::from(e).into()),
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.read_some(buffer).map_err(io::Error::other)?;
        self.received += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use rustix::pipe::{fcntl_getpipe_size, pipe};

    use super::*;

    #[test]
    fn test_large_state_makes_room_in_its_pipe_and_a_small_one_does_not() {
        let mut sizes = Vec::new();
        for bytes in [PIPE_SIZE, 10 << 20] {
            let (_reader, writer) = pipe().unwrap();
            let cancel = Arc::new(Wake::new().unwrap());
            let stream = Stream::new(writer, cancel).unwrap();
            stream.make_room(bytes);
            sizes.push(fcntl_getpipe_size(&stream.fd).unwrap());
        }

        assert_eq!(sizes, [PIPE_SIZE, PIPE_SIZE_MAX]);
    }

    #[test]
    fn test_transfer_in_which_nothing_moves_fails_after_the_idle_limit() {
        let (peer, fd) = UnixStream::pair().unwrap();
        let cancel = Arc::new(Wake::new().unwrap());
        let mut stream = Stream::new(fd.into(), cancel).unwrap();
        assert_eq!(stream.idle_limit.tv_sec, 30);
        stream.idle_limit = Timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000,
        };

        let read = stream.read_some(&mut [0]);
        let written = stream.write_all(&vec![0; 1 << 24]);

        assert!(matches!(read, Err(TransferError::Idle(_))), "{read:?}");
        assert!(
            matches!(written, Err(TransferError::Idle(_))),
            "{written:?}"
        );
        drop(peer);
    }
}
