// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The core, shared by all threads, and the memory that tells others of it.

pub mod saving;
pub mod shared_memory;

use std::sync::{Arc, Mutex, MutexGuard};

use rustix::time::{clock_gettime, ClockId};

use self::shared_memory::SharedMemory;
use super::events::CoreEvents;
use crate::{
    core::{Core, Wants},
    lock::lock,
    recovery::{image::SavedChannel, journal::Journal},
    status::board::Board,
};

/// The state machine; its events go where those of the shell go, and make the figures of the
/// status.
pub type LoggedCore = Core<CoreEvents>;

/// The core under its lock, which is held for pure steps only. Each step is published.
pub struct SharedCore(Mutex<Published>);

struct Published {
    core: LoggedCore,
    memory: Option<SharedMemory>,
    /// Where each step is saved, in the same memory.
    journal: Option<Journal>,
    /// Channels that were recovered and have not been opened.
    left: Vec<SavedChannel>,
    board: Arc<Board>,
}

impl SharedCore {
    /// Shares `core`, and publishes to `board` only as yet.
    pub fn new(core: LoggedCore, board: Arc<Board>) -> Self {
        let mut published = Published {
            core,
            memory: None,
            journal: None,
            left: Vec::new(),
            board,
        };
        published.publish(now_ns());
        SharedCore(Mutex::new(published))
    }

    /// Makes a step. What the core wants after it is done by whoever takes [`Self::wants`] next:
    /// the thread that made the step does so when it is through.
    pub fn step<R>(&self, step: impl FnOnce(&mut LoggedCore, u64) -> R) -> R {
        let now_ns = now_ns();
        let mut this = self.lock();
        let result = step(&mut this.core, now_ns);
        this.complete(now_ns);
        result
    }

    /// Makes a step and says what the core wants after it.
    pub fn step_and_wants<R>(&self, step: impl FnOnce(&mut LoggedCore, u64) -> R) -> (R, Wants) {
        self.step(|core, now| {
            let result = step(core, now);
            (result, core.wants())
        })
    }

    /// What the core wants now.
    pub fn wants(&self) -> Wants {
        self.lock().core.wants()
    }

    /// Looks at the core.
    pub fn look<R>(&self, look: impl FnOnce(&LoggedCore) -> R) -> R {
        look(&self.lock().core)
    }

    /// Publishes the status in `memory`, or nowhere, from now on. Nothing is saved.
    pub fn share(&self, memory: Option<SharedMemory>) {
        let now_ns = now_ns();
        let before = {
            let mut this = self.lock();
            let before = std::mem::replace(&mut this.memory, memory);
            let journal = this.journal.take();
            this.core.stop_saving();
            this.left = Vec::new();
            this.publish(now_ns);
            (before, journal)
        };
        // Unmapped here, with no lock held.
        drop(before);
    }

    fn lock(&self) -> MutexGuard<'_, Published> {
        let this = lock(&self.0);
        this.check_owner();
        this
    }
}

impl Published {
    /// Saves and publishes the step that has been made.
    fn complete(&mut self, now_ns: u64) {
        self.save();
        self.publish(now_ns);
    }

    fn publish(&mut self, now_ns: u64) {
        let status = self.core.status(now_ns);
        self.board
            .publish(&status, |device| self.core.device_figures(device));
        if let Some(memory) = &mut self.memory {
            memory.publish(&status);
        }
    }
}

/// Nanoseconds in a second.
pub const NS_PER_S: u64 = 1_000_000_000;

/// The core's time: CLOCK_MONOTONIC, never 0.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    (seconds * NS_PER_S + nanoseconds).max(1)
}
