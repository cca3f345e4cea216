// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A front end as a pure state machine.
//!
//! [`steps`](self) are what a front end may do, and refuse what the rules forbid; they are also
//! what a trace consists of. The policy is what it does of its own accord: when somebody wants a
//! drain, when a timer fires, when the VM starts.

mod copies;
mod policy;
mod reconnect;
mod rules;
mod saved;
mod steps;

use std::fmt;

use thiserror::Error;

pub use copies::{Copies, Execution};
pub use policy::{Ready, Submitted, Timer, User};
pub use rules::Rules;
pub use saved::{LoadError, Saved};

/// Phase of the portal, as the front end knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Phase {
    /// The fast path.
    Running = 0,
    /// Trapped, the devices drain.
    Draining = 1,
    /// Trapped, nothing is outstanding.
    Drained = 2,
    /// Trapped, the drain failed.
    Failed = 3,
    /// Trapped, the state came from another front end.
    Loaded = 4,
    /// Trapped, what was queued is replayed.
    Releasing = 5,
}

/// What the VM does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vm {
    /// vCPUs run.
    Running,
    /// vCPUs have been told to stop; one can be in the middle of a write.
    Stopping,
    /// No vCPU runs.
    Stopped,
    /// The last pass over its memory has begun.
    Saving,
    /// It is being replaced by one that is loaded.
    Loading,
}

/// What a front end posts on the portal ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Post {
    /// SMMU_CMD: the guest answers a fault.
    Resume {
        /// Whose fault it is.
        device: u32,
        /// Its STAG.
        stag: u16,
    },
    /// SUBMIT.
    Submit {
        /// To this device.
        device: u32,
        /// Its ticket.
        ticket: u64,
    },
    /// SUBMIT for no device: it was dropped.
    SubmitNone {
        /// Its ticket.
        ticket: u64,
    },
    /// DEVICE_QUIESCED.
    Quiesced {
        /// This one.
        device: u32,
        /// Of this drain.
        generation: u64,
    },
    /// DRAIN.
    Drain {
        /// Of this drain.
        generation: u64,
    },
    /// RELEASE.
    Release {
        /// Of the drain that it ends, 0 after a load.
        generation: u64,
    },
    /// RESET.
    Reset {
        /// This one; all without.
        device: Option<u32>,
    },
}

/// A rule of docs/protocol.md, section 10, that a step breaks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Error)]
#[error("{rule}: {what}")]
pub struct Violation {
    /// Its name there, or the section.
    pub rule: &'static str,
    /// What is wrong.
    pub what: String,
}

pub(crate) fn violation<T>(rule: &'static str, what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation {
        rule,
        what: what.into(),
    })
}

/// Devices by number, as bits.
pub type Devices = u32;

/// The front end; see the [module](self).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FrontEnd {
    rules: Rules,
    max_pending: u64,
    reserve: u64,
    phase: Phase,
    vm: Vm,
    connected: bool,
    devices: Devices,
    generation: u64,
    release_generation: u64,
    /// Devices that have come to rest for this generation.
    quiesced: Devices,
    /// REPLAYs can come: RELEASE was sent, and no end of a drain has come since.
    may_replay: bool,
    copies: Copies,
    /// What is to be posted.
    posts: Vec<Post>,
    /// What the back-end that was lost has not taken.
    untaken: Vec<Post>,
    /// Copies were executed without a back-end.
    executed_alone: bool,
    /// Who wants a drain.
    wanted: u8,
    /// It has failed; whoever wants it is told.
    failed: bool,
    /// DRAINED has ended by itself and what it held has not been released yet.
    expired: bool,
    /// `update` is to be called: who wants a drain has changed.
    update_due: bool,
}

impl fmt::Display for FrontEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (replayed, next) = (self.copies.replayed(), self.copies.next_ticket());
        let connected = if self.connected { "" } else { ", no back-end" };
        let Self {
            phase,
            vm,
            generation,
            devices,
            quiesced,
            ..
        } = self;
        write!(
            f,
            "phase {phase:?}, generation {generation}, VM {vm:?}{connected}, tickets {replayed} \
             to {next}, \
             devices {devices:#b}, at rest {quiesced:#b}"
        )
    }
}

impl FrontEnd {
    /// A front end in phase RUNNING whose back-end takes `max_pending` submissions. `reserve` of
    /// them are for a VM that is being stopped.
    pub fn new(rules: Rules, max_pending: u64, reserve: u64, devices: Devices) -> Self {
        Self {
            rules,
            max_pending,
            reserve,
            phase: Phase::Running,
            vm: Vm::Running,
            connected: true,
            devices,
            generation: 0,
            release_generation: 0,
            quiesced: 0,
            may_replay: false,
            copies: Copies::default(),
            posts: Vec::new(),
            untaken: Vec::new(),
            executed_alone: false,
            wanted: 0,
            failed: false,
            expired: false,
            update_due: false,
        }
    }

    /// The rules that it keeps.
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What the VM does.
    pub fn vm(&self) -> Vm {
        self.vm
    }

    /// Whether there is a back-end.
    pub fn connected(&self) -> bool {
        self.connected
    }

    /// Whether guest writes to the portals are submissions.
    pub fn trapped(&self) -> bool {
        self.phase != Phase::Running
    }

    /// Generation of the last drain.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether this device has come to rest for the last drain.
    pub fn has_rested(&self, device: u32) -> bool {
        self.quiesced & (1 << device) != 0
    }

    /// The submissions that have not been executed.
    pub fn copies(&self) -> &Copies {
        &self.copies
    }

    /// What is to be posted, in order.
    pub fn take_posts(&mut self) -> Vec<Post> {
        std::mem::take(&mut self.posts)
    }

    fn post(&mut self, post: Post) {
        if self.connected {
            self.posts.push(post);
        } else if self.rules.commands_again {
            self.keep([post]);
        }
    }
}
