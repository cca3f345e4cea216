// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The state machine, and the memory that tells others of it.

pub mod shared_memory;

use std::ops::Deref;

use super::{events::Events, published::shared_memory::SharedMemory};
use crate::core::Core;

/// The state machine with its event log.
pub type LoggedCore = Core<Events>;

/// A state machine all of whose steps are published.
pub struct PublishedCore {
    core: LoggedCore,
    memory: Option<SharedMemory>,
}

impl PublishedCore {
    pub fn new(core: LoggedCore) -> Self {
        PublishedCore { core, memory: None }
    }

    /// Makes a step: the only way to change the state machine.
    pub fn step<R>(&mut self, now_ns: u64, step: impl FnOnce(&mut LoggedCore, u64) -> R) -> R {
        let result = step(&mut self.core, now_ns);
        self.publish(now_ns);
        result
    }

    /// Publishes in `memory` from now on, and returns what was in use, to be unmapped without a lock held.
    pub fn share(&mut self, memory: Option<SharedMemory>, now_ns: u64) -> Option<SharedMemory> {
        let before = std::mem::replace(&mut self.memory, memory);
        self.publish(now_ns);
        before
    }

    fn publish(&mut self, now_ns: u64) {
        if let Some(memory) = &mut self.memory {
            memory.publish(&self.core.status(now_ns));
        }
    }
}

impl Deref for PublishedCore {
    type Target = LoggedCore;

    fn deref(&self) -> &LoggedCore {
        &self.core
    }
}
