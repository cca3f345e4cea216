// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state machine: faults, answers, submissions, drain and replay.
//!
//! [`Core`] does no I/O, has no clock and no lock. Whoever owns it (the *shell*) feeds it what was read and takes from
//! it what is to be written:
//!
//! | From | In | Out |
//! |---|---|---|
//! | attach channel | [`Core::attach`], [`Core::detach`] | [`Core::channel_in_use`] |
//! | portal ring | [`Core::portal`] | |
//! | event ring | room | [`Core::emit`] |
//! | fault channel | [`Core::fault`], [`Core::channel_empty`], [`Core::channel_lost`] | [`Core::wants_read`], [`Core::next_probe`] |
//! | fault channel | [`Core::answers_written`], [`Core::answer_aborted`] | [`Core::answers`] |
//! | clock | [`Core::tick`] | [`Core::deadline`] |
//! | state stream | [`Core::restore`] | [`Core::snapshot`] |
//!
//! After every input the shell lets [`Core::emit`] fill the buffers that the event ring has, writes the
//! [`Core::answers`] of each channel, reads the channels that [`Core::next_probe`] names, and arms a timer for
//! [`Core::deadline`]. Nothing is allocated after [`Core::new`] but in [`Core::snapshot`].

#![forbid(unsafe_code)]

mod device;
mod error;
mod limits;
mod observe;

pub use device::DeviceDesc;
pub use error::{AttachError, DetachError, FaultError, PortalError, RestoreError, SnapshotError};
pub use limits::{Limits, LimitsError};
pub use observe::{Observation, Observer, RefusedReason};

use crate::state::StateData;
use crate::wire::{ConfigSpace, LostReason, Message, PageResponse, PgFault};

/// Phase of the portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
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

/// The state machine; see the [module](self).
pub struct Core<O: Observer = ()> {
    limits: Limits,
    observer: O,
}

#[allow(unused_variables)]
impl<O: Observer> Core<O> {
    /// A core without devices, in phase RUNNING.
    pub fn new(limits: Limits, observer: O) -> Result<Self, LimitsError> {
        limits.check()?;
        Ok(Self { limits, observer })
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
        todo!()
    }
    /// What GET_CONFIG answers.
    pub fn config_space(&self, now_ns: u64) -> ConfigSpace {
        todo!()
    }
    /// A new connection: both rings count from 1 again. Everything else stays.
    pub fn rings_reset(&mut self) {
        todo!()
    }
    /// Attaches a device. The channel is new if [`Core::channel_in_use`] said no.
    pub fn attach(&mut self, desc: &DeviceDesc, now_ns: u64) -> Result<(), AttachError> {
        todo!()
    }
    /// Detaches a device: its outstanding faults are answered INVALID, its submissions dropped.
    pub fn detach(&mut self, device: u32, now_ns: u64) -> Result<(), DetachError> {
        todo!()
    }
    /// Whether the channel has devices, or answers to be written. When it is no longer, the shell closes it.
    pub fn channel_in_use(&self, channel: u32) -> bool {
        todo!()
    }
    /// The channel ended or broke: its faults are dropped, its devices lost. The shell closes it.
    pub fn channel_lost(&mut self, channel: u32, reason: LostReason, now_ns: u64) {
        todo!()
    }
    /// Takes a message of the portal ring.
    pub fn portal(&mut self, message: &Message, now_ns: u64) -> Result<(), PortalError> {
        todo!()
    }
    /// Takes a record of a fault channel.
    pub fn fault(&mut self, channel: u32, record: &PgFault, now_ns: u64) -> Result<(), FaultError> {
        todo!()
    }
    /// The channel was read until it was empty.
    pub fn channel_empty(&mut self, channel: u32, now_ns: u64) {
        todo!()
    }
    /// Whether the channel should be read: false after [`FaultError::NoRoom`] until there is room.
    pub fn wants_read(&self, channel: u32) -> bool {
        todo!()
    }
    /// A channel that must be read until empty (even if poll does not report it) before the drain can end.
    pub fn next_probe(&self) -> Option<u32> {
        todo!()
    }
    /// Copies the next answers for `channel` to `out`, without removing them, and returns how many.
    pub fn answers(&self, channel: u32, out: &mut [PageResponse]) -> usize {
        todo!()
    }
    /// The next `count` answers of `channel` were written; they are never offered again.
    pub fn answers_written(&mut self, channel: u32, count: usize, now_ns: u64) {
        todo!()
    }
    /// The kernel refused the next answer of `channel` with EINVAL: it had aborted the fault itself.
    pub fn answer_aborted(&mut self, channel: u32, now_ns: u64) {
        todo!()
    }
    /// Whether [`Core::emit`] has something to write.
    pub fn has_event(&self) -> bool {
        todo!()
    }
    /// Lets `write` put the next message on the event ring. Returns whether there was one. If `write` fails the message is kept.
    pub fn emit<E>(
        &mut self,
        now_ns: u64,
        write: impl FnOnce(&Message) -> Result<(), E>,
    ) -> Result<bool, E> {
        todo!()
    }
    /// Time has passed.
    pub fn tick(&mut self, now_ns: u64) {
        todo!()
    }
    /// When [`Core::tick`] must be called at the latest.
    pub fn deadline(&self) -> Option<u64> {
        todo!()
    }
    /// The state that moves to another back-end. Nothing changes here.
    pub fn snapshot(&self) -> Result<StateData, SnapshotError> {
        todo!()
    }
    /// Takes over a state. Nothing is changed unless all of it is valid.
    pub fn restore(&mut self, state: &StateData, now_ns: u64) -> Result<(), RestoreError> {
        todo!()
    }
}
