// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the front end has said about one ring.

use std::sync::{Arc, Mutex, MutexGuard};

use virtio_queue::{Error, Queue, QueueT};

use super::call::{Call, Kick};
use crate::backend::device::lock;

/// A ring, shared by the threads of a connection.
pub struct Ring(Mutex<RingState>);

/// What there is to know of it.
pub struct RingState {
    /// Where it is and how far it has been worked on.
    pub queue: Queue,
    /// SET_VRING_ENABLE.
    pub enabled: bool,
    /// SET_VRING_KICK.
    pub kick: Option<Arc<Kick>>,
    /// SET_VRING_CALL.
    pub call: Option<Arc<Call>>,
}

impl Ring {
    /// A ring that does not run, of at most `max_size` chains.
    pub fn new(max_size: u16) -> Result<Self, Error> {
        Ok(Ring(Mutex::new(RingState {
            queue: Queue::new(max_size)?,
            enabled: false,
            kick: None,
            call: None,
        })))
    }

    /// Nothing that waits is done with it locked.
    pub fn lock(&self) -> MutexGuard<'_, RingState> {
        lock(&self.0)
    }
}

impl RingState {
    /// Whether chains may be looked at.
    pub fn runs(&self) -> bool {
        self.enabled && self.queue.ready()
    }
}
