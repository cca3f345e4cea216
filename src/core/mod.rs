// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state machine: faults, answers, submissions, drain and replay.
//!
//! [`Core`] does no I/O, has no clock and no lock. Whoever owns it (the *shell*) feeds it what was
//! read and takes from it what is to be written:
//!
//! | From | In | Out |
//! |---|---|---|
//! | attach channel | [`Core::attach`], [`Core::detach`] | [`Core::channel_in_use`] |
//! | attach channel | [`Core::hold`], [`Core::unhold`] | [`Core::channel_of`] |
//! | portal ring | [`Core::portal`] | |
//! | event ring | room | [`Core::emit`] |
//! | fault channel | [`Core::fault`], [`Core::channel_empty`], [`Core::channel_lost`] | [`Core::wants_read`] |
//! | fault channel | [`Core::answers_written`], [`Core::answer_aborted`] | [`Core::next_answers`] |
//! | fault channel | [`Core::write_blocked`], [`Core::writable`] | |
//! | vEVENTQ | [`Core::stage_one_event`] | [`Core::event_room`] |
//! | clock | [`Core::tick`] | |
//! | state stream | [`Core::restore`] | [`Core::snapshot`] |
//! | connection | [`Core::rings_reset`], [`Core::reset`] | |
//!
//! After every input the shell takes [`Core::wants`] and does what it says: a channel is written or
//! read, [`Core::emit`] fills the buffers that the event ring has, a timer is armed. Nothing is
//! allocated after [`Core::new`] but in [`Core::snapshot`].

#![forbid(unsafe_code)]

mod answers;
mod attach;
#[cfg(feature = "model")]
mod canonical;
mod channel;
mod channel_table;
mod device_table;
mod drain;
mod error;
mod fault_intake;
mod fault_table;
mod group;
mod group_table;
mod hold;
mod index;
mod limits;
mod observe;
mod output;
mod persist;
mod portal;
mod recover;
mod reset;
mod saved;
mod stage_one;
mod status;
mod submissions;
mod table;
#[cfg(test)]
mod tests;
mod work;

pub use device_table::Attachment;
pub use error::{
    AttachError, DetachError, FaultError, HoldError, PortalError, RestoreError, SnapshotError,
};
pub use limits::{Limits, LimitsError};
pub use observe::{GuestCommand, Observation, Observer, RefusedReason};
pub use recover::Recovered;
pub use saved::{SavedFault, SavedGroup, Saver};
pub use status::DeviceFigures;
pub use work::{Job, Wants};

use channel_table::Channels;
use device_table::Devices;
use drain::{Drain, Release};
use fault_table::FaultTable;
use recover::Recovery;
use saved::Numbers;
use stage_one::StageOneEvents;
use submissions::PendingQueue;

/// Phase of the portal.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    zerocopy::TryFromBytes,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub enum Phase {
    /// Submissions are replayed at once.
    Running = 0,
    /// Submissions are queued, the devices drain.
    Draining = 1,
    /// Submissions are queued, nothing is outstanding.
    Drained = 2,
    /// Submissions are queued, the drain failed.
    Failed = 3,
    /// Submissions are queued, the state came from another back-end.
    Loaded = 4,
    /// Queued submissions are replayed, new ones queue behind them.
    Releasing = 5,
}

impl Phase {
    /// The phase with this number.
    pub fn from_raw(raw: u32) -> Option<Self> {
        zerocopy::try_transmute!(raw).ok()
    }
}

/// Counters of the config space, in its order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counters {
    /// Faults read.
    pub faults_read: u64,
    /// Faults answered.
    pub faults_answered: u64,
    /// Answers that came after the kernel had aborted the faults itself.
    pub answers_aborted: u64,
    /// Answers of the guest that matched nothing.
    pub unknown_answers: u64,
    /// Submissions received.
    pub submissions: u64,
    /// Submissions replayed.
    pub replays: u64,
    /// Drains begun.
    pub drains: u64,
    /// Drains failed.
    pub drains_failed: u64,
}

/// The state machine; see the [module](self).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Core<O: Observer = ()> {
    limits: Limits,
    observer: O,
    devices: Devices,
    channels: Channels,
    faults: FaultTable,
    pending: PendingQueue,
    stage_one: StageOneEvents,
    drain: Drain,
    release: Release,
    counters: Counters,
    /// Fault records whose group's answer has not been written.
    outstanding: u32,
    portal_seq: u64,
    event_seq: u64,
    /// No submission with a new ticket has come on this connection yet.
    resync: bool,
    /// The last message was an event, so that a replay is due.
    prefer_replay: bool,
    /// Of messages, over all connections. Only counted if the state is saved.
    numbers: Numbers,
    /// What has been recovered and not been claimed; no channel is read.
    recovery: Option<Box<Recovery>>,
    /// Devices are held, or not any more, since it was saved.
    held_changed: bool,
}

impl<O: Observer> Core<O> {
    /// A core without devices, in phase RUNNING.
    pub fn new(limits: Limits, observer: O) -> Result<Self, LimitsError> {
        limits.check()?;
        Ok(Self {
            limits,
            observer,
            devices: Devices::new(limits.max_devices),
            channels: Channels::new(limits.max_devices, limits.max_faults),
            faults: FaultTable::new(limits.max_faults),
            pending: PendingQueue::new(limits.max_pending, limits.max_devices),
            stage_one: StageOneEvents::new(),
            drain: Drain::default(),
            release: Release::default(),
            counters: Counters::default(),
            outstanding: 0,
            portal_seq: 0,
            event_seq: 0,
            resync: true,
            prefer_replay: false,
            numbers: Numbers::default(),
            recovery: None,
            held_changed: false,
        })
    }

    /// Makes it unknown to a guest what costs the core more work than usual. `seed` is a random
    /// number; without page requests outstanding only.
    pub fn set_seed(&mut self, seed: u64) {
        self.faults.set_seed(seed);
    }

    /// The sizes of the tables.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The observer.
    pub fn observer(&mut self) -> &mut O {
        &mut self.observer
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        self.drain.phase
    }

    /// Generation of the last drain, 0 before the first.
    pub fn generation(&self) -> u64 {
        self.drain.generation
    }

    /// Ticket that the next submission must have.
    pub fn next_ticket(&self) -> u64 {
        self.pending.next_ticket()
    }

    /// Submissions queued.
    pub fn pending(&self) -> u32 {
        self.pending.len()
    }

    /// Faults read whose answer has not been written.
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// The counters.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// A new connection: both rings count from 1 again. Everything else stays.
    ///
    /// The front end may not know which of its last submissions arrived. It may send those again,
    /// with their tickets, before the first new one. Nor is it known whether it has seen the last
    /// messages, so that devices that are lost are reported again.
    pub fn rings_reset(&mut self) {
        self.fold_numbers();
        self.portal_seq = 0;
        self.event_seq = 0;
        self.resync = true;
        for number in 0..self.limits.max_devices {
            let lost = self
                .devices
                .get(number)
                .is_some_and(|device| device.lost.is_some());
            self.devices.set_lost_due(number, lost);
        }
    }

    fn observe(&mut self, now_ns: u64, observation: Observation) {
        self.observer.observe(now_ns, &observation);
    }
}
