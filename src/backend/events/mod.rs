// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What happens in the back-end, told to all who want to know: the messages on stderr and the event
//! log.
//!
//! Every event of the core and of the shell passes through [`Events::happened`], in the thread that
//! made it. The core's do so with the core's lock held, so nothing here may wait or allocate.

mod log_file;

use std::{io, time::Instant};

use serde::Serialize;

pub use self::log_file::EventLog;
use crate::core::{Observation, Observer};

/// A step that is not the state machine's.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Step {
    /// The socket accepts connections.
    Listening,
    /// A front end has connected.
    Connected,
    /// The front end has gone.
    Disconnected,
    /// The state has been handed over.
    Save {
        /// Length of the stream.
        bytes: usize,
        /// Submissions in it.
        pending: usize,
    },
    /// The state could not be saved.
    SaveFailed {
        /// Why.
        error: String,
    },
    /// A state has been taken over.
    Load {
        /// Length of the stream.
        bytes: usize,
        /// Submissions in it.
        pending: usize,
    },
    /// A state was refused.
    LoadFailed {
        /// Why.
        error: String,
    },
    /// Records were dropped as they came faster than they could be written.
    LogOverflow {
        /// How many.
        dropped: u64,
    },
}

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Event {
    /// A step of the state machine.
    Core(Observation),
    /// A step of the shell.
    Shell(Step),
}

/// Where events go; cheap to clone.
#[derive(Clone, Default)]
pub struct Events {
    log: EventLog,
}

impl Events {
    /// Events go to `log`.
    pub fn new(log: EventLog) -> Self {
        Events { log }
    }

    /// Starts the thread that writes the log.
    pub fn start(&self) -> io::Result<()> {
        self.log.start()
    }

    /// Waits until the log is complete, or for the deadline. Returns whether it is.
    pub fn wait_written(&self, deadline: Instant) -> bool {
        self.log.wait_written(deadline)
    }

    /// Records a step of the shell.
    pub fn step(&self, step: impl FnOnce() -> Step) {
        self.happened(&Event::Shell(step()));
    }

    /// Every event passes through here.
    fn happened(&self, event: &Event) {
        log::trace!("{event:?}");
        self.log.write(event);
    }
}

impl Observer for Events {
    fn observe(&mut self, _now_ns: u64, observation: &Observation) {
        self.happened(&Event::Core(*observation));
    }
}
