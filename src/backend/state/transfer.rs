// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Moving the bytes of the state stream through the front end's descriptor.
//!
//! The front end reads or writes its end only after it has our reply to SET_DEVICE_STATE_FD, so the
//! bytes move on a thread of their own, and CHECK_DEVICE_STATE collects the result.

use std::{
    fs::File,
    os::fd::OwnedFd,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::{sync_channel, Receiver, RecvTimeoutError},
        Arc, Mutex,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    error::{StateError, TransferError},
    stream::Stream,
};
use crate::{
    backend::wait::wake::Wake,
    lock::lock,
    state::{Encoded, StateData},
};

/// By the time of CHECK_DEVICE_STATE the front end has closed its end, so little is left to wait
/// for.
const CHECK_LIMIT: Duration = Duration::from_secs(5);
/// A thread that the front end's descriptor does not block ends at once when it is told to.
const CANCEL_LIMIT: Duration = Duration::from_secs(1);
/// As much as a state that comes in may be; how much it is is known later.
const STATE_ROOM: usize = 1 << 20;
/// Threads of transfers, at most, with those that did not end when they were told to.
const THREADS_MAX: usize = 16;

/// What a transfer has brought.
#[derive(Debug)]
pub enum Transferred {
    /// The state has been handed over; its length.
    Saved(usize),
    /// The state that came in.
    Received(Loaded),
}

/// A state that came in.
#[derive(Debug)]
pub struct Loaded {
    /// What it says.
    pub data: StateData,
    /// Length of the stream.
    pub bytes: usize,
}

type Outcome = Result<Transferred, StateError>;

/// A transfer under way. Nobody waits for the end of its thread without a bound: whatever is behind
/// the front end's descriptor may block it.
struct Running {
    cancel: Arc<Wake>,
    /// Taken by who waits for it.
    outcome: Option<Receiver<Outcome>>,
    direction: Direction,
    thread: JoinHandle<()>,
}

/// What a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Out of this process.
    Save,
    /// Into it.
    Load,
}

/// The one transfer that there may be at a time.
#[derive(Default)]
pub struct Transfer(Mutex<Option<Running>>);

impl Transfer {
    /// Starts to write `state`.
    pub fn save(&self, file: File, state: Encoded) -> Result<(), TransferError> {
        self.start("vsva-save", Direction::Save, file, move |stream| {
            stream.make_room(state.length());
            state
                .parts()
                .iter()
                .try_for_each(|part| stream.write_all(part))?;
            Ok(Transferred::Saved(state.length()))
        })
    }

    /// Starts to read a state up to the end of the file; `decode` looks at it as it comes.
    pub fn load(
        &self,
        file: File,
        decode: impl FnOnce(&mut Stream) -> Result<Loaded, StateError> + Send + 'static,
    ) -> Result<(), TransferError> {
        self.start("vsva-load", Direction::Load, file, move |stream| {
            stream.make_room(STATE_ROOM);
            let decoded = decode(stream);
            if decoded.is_err() {
                // Read on, so that the front end learns of it by its check, not by a broken pipe.
                stream.skip_rest();
            }
            decoded.map(Transferred::Received)
        })
    }

    /// The result of the transfer that has been started before.
    pub fn check(&self) -> (Option<Direction>, Outcome) {
        let (outcome, direction) = {
            let mut slot = lock(&self.0);
            let Some(running) = slot.as_mut() else {
                return (None, Err(TransferError::NoTransfer.into()));
            };
            (running.outcome.take(), running.direction)
        };
        let result = match outcome.map(|outcome| outcome.recv_timeout(CHECK_LIMIT)) {
            Some(Ok(result)) => result,
            Some(Err(RecvTimeoutError::Timeout)) => Err(TransferError::Unfinished.into()),
            Some(Err(RecvTimeoutError::Disconnected)) | None => {
                Err(TransferError::Cancelled.into())
            }
        };
        self.cancel();
        (Some(direction), result)
    }

    /// Lets the transfer end soon; who waits for its result gets an error.
    pub fn stop(&self) {
        if let Some(running) = lock(&self.0).as_ref() {
            running.stop();
        }
    }

    /// Ends the transfer that is under way, if there is one, and gives it some time to do so.
    pub fn cancel(&self) {
        let Some(running) = lock(&self.0).take() else {
            return;
        };
        running.stop();
        let deadline = Instant::now() + CANCEL_LIMIT;
        while !running.thread.is_finished() {
            if Instant::now() > deadline {
                log::error!("the front end's state channel blocks: its thread is left to itself");
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn start(
        &self,
        name: &str,
        direction: Direction,
        file: File,
        work: impl FnOnce(&mut Stream) -> Outcome + Send + 'static,
    ) -> Result<(), TransferError> {
        let mut slot = lock(&self.0);
        if slot
            .as_ref()
            .is_some_and(|running| !running.thread.is_finished())
        {
            return Err(TransferError::Busy);
        }
        let left = LeftBehind::enter()?;
        let cancel = Arc::new(Wake::new()?);
        let mut stream = Stream::new(OwnedFd::from(file), cancel.clone())?;
        let (sender, outcome) = sync_channel(1);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _left = left;
                let result = work(&mut stream);
                // The end of the stream, before anybody learns that it is complete.
                drop(stream);
                // Nobody listens any more only if the transfer was cancelled.
                let _ = sender.send(result);
            })?;
        *slot = Some(Running {
            cancel,
            outcome: Some(outcome),
            direction,
            thread,
        });
        Ok(())
    }
}

impl Running {
    fn stop(&self) {
        self.cancel.set();
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// Counts the threads of all transfers, so that those that are left to themselves stay few.
struct LeftBehind;

static THREADS: AtomicUsize = AtomicUsize::new(0);

impl LeftBehind {
    fn enter() -> Result<Self, TransferError> {
        if THREADS.fetch_add(1, Ordering::AcqRel) >= THREADS_MAX {
            THREADS.fetch_sub(1, Ordering::AcqRel);
            return Err(TransferError::LeftBehind(THREADS_MAX));
        }
        Ok(LeftBehind)
    }
}

impl Drop for LeftBehind {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
