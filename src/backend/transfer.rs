// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Moving the bytes of the state stream through the front end's descriptor.
//!
//! The front end reads or writes its end only after it has our reply to SET_DEVICE_STATE_FD, so the
//! bytes move on a thread of their own, and CHECK_DEVICE_STATE collects the result.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        mpsc::{channel, Receiver, RecvTimeoutError},
        Mutex, PoisonError,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    event::{eventfd, poll, PollFd, PollFlags, Timespec},
    fs::{fcntl_getfl, fcntl_setfl, OFlags},
    io::{fcntl_setfd, FdFlags},
};
use thiserror::Error;

/// A transfer that moves nothing for this long has failed.
const IDLE_LIMIT: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};
/// By the time of CHECK_DEVICE_STATE the front end has closed its end, so little is left to wait for.
const CHECK_LIMIT: Duration = Duration::from_secs(5);
const CHUNK: usize = 64 * 1024;

/// Why a transfer failed.
#[derive(Debug, Error)]
pub enum TransferError {
    /// Another transfer is under way.
    #[error("a state transfer is under way already")]
    Busy,
    /// CHECK_DEVICE_STATE without a transfer before it.
    #[error("there was no state transfer to check")]
    NoTransfer,
    /// The front end keeps its end open.
    #[error("the front end checks the state before it has closed its end of the channel")]
    Unfinished,
    /// The stream is too long.
    #[error("the state is longer than {0} bytes")]
    TooLong(usize),
    /// The descriptor failed.
    #[error("cannot transfer the state: {0}")]
    Io(#[from] io::Error),
    /// Nothing moved.
    #[error("the front end has not moved any state for {0} s")]
    Idle(i64),
    /// The transfer was stopped.
    #[error("the state transfer was cancelled")]
    Cancelled,
}

/// What a transfer has brought.
#[derive(Debug)]
pub enum Transferred {
    /// The state has been handed over; its length.
    Saved(usize),
    /// The state that came in.
    Received(Vec<u8>),
}

type Outcome = Result<Transferred, TransferError>;

struct Running {
    cancel: OwnedFd,
    outcome: Receiver<Outcome>,
    thread: JoinHandle<()>,
}

impl Running {
    fn cancel(self) {
        // The counter of an eventfd has room for the one write it gets.
        let _ = rustix::io::write(&self.cancel, &1u64.to_ne_bytes());
        if self.thread.join().is_err() {
            log::error!("the state transfer thread has panicked");
        }
    }
}

/// The one transfer that there may be at a time.
#[derive(Default)]
pub struct Transfer(Mutex<Option<Running>>);

impl Transfer {
    /// Starts to write `state`.
    pub fn save(&self, file: File, state: Vec<u8>) -> Result<(), TransferError> {
        self.start("vsva-save", file, move |file, cancel| {
            write_all(file, cancel, &state)?;
            Ok(Transferred::Saved(state.len()))
        })
    }

    /// Starts to read at most `limit` bytes up to the end of the file.
    pub fn load(&self, file: File, limit: usize) -> Result<(), TransferError> {
        self.start("vsva-load", file, move |file, cancel| {
            read_all(file, cancel, limit).map(Transferred::Received)
        })
    }

    /// The result of the transfer that has been started before.
    pub fn check(&self) -> Outcome {
        let running = self.slot().take().ok_or(TransferError::NoTransfer)?;
        match running.outcome.recv_timeout(CHECK_LIMIT) {
            Ok(outcome) => {
                running.cancel();
                outcome
            }
            Err(RecvTimeoutError::Timeout) => {
                running.cancel();
                Err(TransferError::Unfinished)
            }
            Err(RecvTimeoutError::Disconnected) => {
                running.cancel();
                Err(TransferError::Cancelled)
            }
        }
    }

    /// Stops the transfer that is under way, if there is one.
    pub fn cancel(&self) {
        if let Some(running) = self.slot().take() {
            running.cancel();
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(
        &self,
        name: &str,
        file: File,
        work: impl FnOnce(&File, &OwnedFd) -> Outcome + Send + 'static,
    ) -> Result<(), TransferError> {
        let mut slot = self.slot();
        if slot
            .as_ref()
            .is_some_and(|running| !running.thread.is_finished())
        {
            return Err(TransferError::Busy);
        }
        // Received descriptors are not close-on-exec, and a copy of this one would hide the end of
        // the stream from the front end.
        fcntl_setfd(&file, FdFlags::CLOEXEC).map_err(io::Error::from)?;
        let flags = fcntl_getfl(&file).map_err(io::Error::from)?;
        fcntl_setfl(&file, flags | OFlags::NONBLOCK).map_err(io::Error::from)?;
        let cancel = eventfd(0, rustix::event::EventfdFlags::CLOEXEC).map_err(io::Error::from)?;
        let cancelled = cancel.try_clone()?;
        let (sender, outcome) = channel();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let result = work(&file, &cancelled);
                // The end of the stream, before anybody learns that it is complete.
                drop(file);
                // Nobody listens any more only if the transfer was cancelled.
                let _ = sender.send(result);
            })?;
        *slot = Some(Running {
            cancel,
            outcome,
            thread,
        });
        Ok(())
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.cancel();
    }
}

fn wait(file: &File, cancel: &OwnedFd, what: PollFlags) -> Result<(), TransferError> {
    let mut fds = [
        PollFd::new(file, what),
        PollFd::from_borrowed_fd(cancel.as_fd(), PollFlags::IN),
    ];
    loop {
        match poll(&mut fds, Some(&IDLE_LIMIT)) {
            Ok(0) => return Err(TransferError::Idle(IDLE_LIMIT.tv_sec)),
            Ok(_) if !fds[1].revents().is_empty() => return Err(TransferError::Cancelled),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(io::Error::from(e).into()),
        }
    }
}

fn write_all(file: &File, cancel: &OwnedFd, mut state: &[u8]) -> Result<(), TransferError> {
    while !state.is_empty() {
        match rustix::io::write(file, state) {
            Ok(count) => state = &state[count..],
            Err(rustix::io::Errno::AGAIN) => wait(file, cancel, PollFlags::OUT)?,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(io::Error::from(e).into()),
        }
    }
    Ok(())
}

fn read_all(file: &File, cancel: &OwnedFd, limit: usize) -> Result<Vec<u8>, TransferError> {
    let mut state = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match rustix::io::read(file, &mut chunk[..]) {
            Ok(0) => return Ok(state),
            Ok(count) if state.len() + count > limit => return Err(TransferError::TooLong(limit)),
            Ok(count) => state.extend_from_slice(&chunk[..count]),
            Err(rustix::io::Errno::AGAIN) => wait(file, cancel, PollFlags::IN)?,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(io::Error::from(e).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    use super::*;

    fn pair() -> (UnixStream, File) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours, File::from(OwnedFd::from(theirs)))
    }

    #[test]
    fn test_save_larger_than_the_channel_arrives_whole() {
        let (mut peer, file) = pair();
        let state: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[0]).collect();
        let transfer = Transfer::default();
        transfer.save(file, state.clone()).unwrap();
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        assert_eq!(received, state);
        assert!(matches!(transfer.check(), Ok(Transferred::Saved(n)) if n == state.len()));
    }

    #[test]
    fn test_load_beyond_the_limit_is_refused() {
        let (mut peer, file) = pair();
        let transfer = Transfer::default();
        transfer.load(file, 10).unwrap();
        peer.write_all(&[0; 11]).unwrap();
        drop(peer);
        assert!(matches!(transfer.check(), Err(TransferError::TooLong(10))));
    }

    #[test]
    fn test_second_transfer_while_one_is_under_way_is_refused() {
        let (peer, file) = pair();
        let (_other_peer, other) = pair();
        let transfer = Transfer::default();
        transfer.load(file, 10).unwrap();
        assert!(matches!(transfer.load(other, 10), Err(TransferError::Busy)));
        drop(peer);
        assert!(matches!(transfer.check(), Ok(Transferred::Received(s)) if s.is_empty()));
    }

    #[test]
    fn test_check_without_transfer_is_an_error() {
        assert!(matches!(
            Transfer::default().check(),
            Err(TransferError::NoTransfer)
        ));
    }

    #[test]
    fn test_save_to_a_closed_channel_is_reported_by_check() {
        let (peer, file) = pair();
        drop(peer);
        let transfer = Transfer::default();
        transfer.save(file, vec![0; 100]).unwrap();
        assert!(matches!(transfer.check(), Err(TransferError::Io(_))));
    }

    #[test]
    fn test_drop_with_a_transfer_under_way_ends_it() {
        let (_peer, file) = pair();
        let transfer = Transfer::default();
        transfer.load(file, 10).unwrap();
        drop(transfer);
    }
}
