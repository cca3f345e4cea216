// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Errors of the core.

use thiserror::Error;

/// The front end broke the protocol on the portal ring; the connection must be shut down.
///
/// The message that caused it had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PortalError {
    /// The type of the message is not one of the portal ring.
    #[error("portal ring: message {seq} has the unknown type {kind:#x}")]
    UnknownType {
        /// The message's sequence number.
        seq: u64,
        /// Its type.
        kind: u16,
    },
    /// Messages were lost or doubled.
    #[error("portal ring: message {found} came where {expected} was expected")]
    Sequence {
        /// Sequence number expected.
        expected: u64,
        /// Sequence number found.
        found: u64,
    },
    /// Submissions were lost or doubled.
    #[error("portal ring: submission with ticket {found} came where {expected} was expected")]
    Ticket {
        /// Ticket expected.
        expected: u64,
        /// Ticket found.
        found: u64,
    },
    /// The size of a submission is none that a write can have.
    #[error("portal ring: submission with ticket {ticket} has size {size}, not 1, 2, 4, 8 or 16")]
    SubmissionSize {
        /// The submission's ticket.
        ticket: u64,
        /// Its size.
        size: u32,
    },
    /// More submissions than `max_pending` are queued.
    #[error(
        "portal ring: submission with ticket {ticket} exceeds the credit of {max_pending} pending \
         submissions"
    )]
    Credit {
        /// The submission's ticket.
        ticket: u64,
        /// The limit.
        max_pending: u32,
    },
    /// A DRAIN with generation 0, which means "none".
    #[error("portal ring: DRAIN with generation 0")]
    ZeroGeneration,
    /// A RELEASE of another drain than the one under way.
    #[error("portal ring: RELEASE of generation {found} while generation {current} drains")]
    ReleaseGeneration {
        /// Generation of the drain under way.
        current: u64,
        /// Generation found.
        found: u64,
    },
}

/// A fault record could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FaultError {
    /// There is no room now. Nothing is wrong: keep the record, stop reading this channel, offer
    /// the same record again when [`super::Core::wants_read`] says so.
    #[error("fault channel {channel}: no room for another fault")]
    NoRoom {
        /// The channel.
        channel: u32,
    },
    /// No such channel is attached.
    #[error("fault channel {channel} is not attached")]
    UnknownChannel {
        /// The channel.
        channel: u32,
    },
    /// A group began before the one before it had ended: end the channel with
    /// [`super::Core::channel_lost`].
    #[error("fault channel {channel}: cookie {found} came within the group of cookie {open}")]
    GroupInterrupted {
        /// The channel.
        channel: u32,
        /// Cookie of the group that was not complete.
        open: u32,
        /// Cookie found.
        found: u32,
    },
    /// Records of two devices in one group: end the channel with [`super::Core::channel_lost`].
    #[error("fault channel {channel}: the group of cookie {cookie} has records of two devices")]
    GroupOfTwoDevices {
        /// The channel.
        channel: u32,
        /// Cookie of the group.
        cookie: u32,
    },
    /// The kernel used a cookie again, so it has aborted the group that had it. Nothing is wrong:
    /// with no answer of this channel being written, call [`super::Core::forget_stale`] and offer
    /// the same record again.
    #[error("fault channel {channel}: the kernel has aborted the group of cookie {cookie}")]
    Stale {
        /// The channel.
        channel: u32,
        /// The cookie.
        cookie: u32,
    },
    /// A cookie was used again before its group was answered: end the channel with
    /// [`super::Core::channel_lost`].
    #[error("fault channel {channel}: cookie {cookie} came again before it was answered")]
    DuplicateCookie {
        /// The channel.
        channel: u32,
        /// The cookie.
        cookie: u32,
    },
}

impl FaultError {
    /// Whether the channel broke its rules and must be ended.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::NoRoom { .. } | Self::Stale { .. })
    }
}

/// A device could not be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AttachError {
    /// The device's number is too large.
    #[error("device {device} is not below {max_devices}")]
    DeviceNumber {
        /// The device.
        device: u32,
        /// The limit.
        max_devices: u32,
    },
    /// The device's number is taken.
    #[error("device {device} is attached already")]
    AlreadyAttached {
        /// The device.
        device: u32,
    },
    /// Another device has the SID.
    #[error("SID {vsid:#x} is device {device}")]
    SidTaken {
        /// The SID.
        vsid: u32,
        /// The device that has it.
        device: u32,
    },
    /// Channels of devices that are gone still have answers to be written.
    #[error("no room for channel {channel}")]
    TooManyChannels {
        /// The channel.
        channel: u32,
    },
    /// Another device has the `dev_id` on this channel.
    #[error("dev_id {dev_id} is device {device}")]
    DevIdTaken {
        /// The `dev_id`.
        dev_id: u32,
        /// The device that has it.
        device: u32,
    },
}

/// A device could not be detached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("device {device} is not attached")]
pub struct DetachError {
    /// The device.
    pub device: u32,
}

/// A device could not be held, or released from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HoldError {
    /// The device is not attached, or has lost its channel.
    #[error("device {device} is not attached")]
    NotAttached {
        /// The device.
        device: u32,
    },
    /// Its channel is not a fault file of the kernel.
    #[error("device {device} is emulated: no HOLD")]
    NotKernel {
        /// The device.
        device: u32,
    },
    /// It is held already.
    #[error("device {device} is held already")]
    AlreadyHeld {
        /// The device.
        device: u32,
    },
    /// It is not held.
    #[error("device {device} is not held")]
    NotHeld {
        /// The device.
        device: u32,
    },
}

/// The state cannot be saved now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// Faults belong to hardware that stays behind.
    #[error("{outstanding} faults are outstanding, they cannot move to another host; drain first")]
    FaultsOutstanding {
        /// How many.
        outstanding: u32,
    },
}

/// A state cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// Only a fresh back-end can load.
    #[error("cannot load a state in phase {phase:?}, only in Running")]
    Phase {
        /// The phase.
        phase: super::Phase,
    },
    /// The back-end has work of its own.
    #[error(
        "cannot load a state over {pending} pending submissions and {outstanding} outstanding \
         faults"
    )]
    Busy {
        /// Pending submissions.
        pending: u32,
        /// Outstanding faults.
        outstanding: u32,
    },
    /// A saved device is not attached here.
    #[error("saved device {device} (SID {vsid:#x}) is not attached")]
    DeviceMissing {
        /// The device.
        device: u32,
        /// Its SID.
        vsid: u32,
    },
    /// A saved device is another one here.
    #[error(
        "saved device {device} has SID {saved:#x}, here it is attached with SID {attached:#x}"
    )]
    DeviceDiffers {
        /// The device.
        device: u32,
        /// SID in the state.
        saved: u32,
        /// SID here.
        attached: u32,
    },
    /// A saved device is answered by other commands here.
    #[error("saved device {device} has flags {saved:#x}, here it is attached with {attached:#x}")]
    FlagsDiffer {
        /// The device.
        device: u32,
        /// Flags in the state.
        saved: u32,
        /// Flags here.
        attached: u32,
    },
    /// A device is listed twice.
    #[error("saved device {device} is listed twice")]
    DeviceTwice {
        /// The device.
        device: u32,
    },
    /// More submissions than fit.
    #[error("{pending} saved submissions exceed the limit of {max_pending}")]
    TooManyPending {
        /// Submissions in the state.
        pending: u64,
        /// The limit.
        max_pending: u32,
    },
    /// A saved submission's type is not SUBMIT.
    #[error("saved submission {index} has message type {kind:#x}")]
    PendingType {
        /// Its place in the section.
        index: u64,
        /// Its type.
        kind: u16,
    },
    /// A saved submission's size is none that a write can have.
    #[error("saved submission {index} has size {size}, not 1, 2, 4, 8 or 16")]
    PendingSize {
        /// Its place in the section.
        index: u64,
        /// Its size.
        size: u32,
    },
    /// A saved submission belongs to no saved device.
    #[error("saved submission {index} belongs to device {device}, which is not in the state")]
    PendingDevice {
        /// Its place in the section.
        index: u64,
        /// Its device.
        device: u32,
    },
    /// The tickets are out of order or out of range.
    #[error("saved submission {index} has ticket {ticket}, not one of {low} to {high}")]
    PendingTicket {
        /// Its place in the section.
        index: u64,
        /// Its ticket.
        ticket: u64,
        /// Smallest ticket allowed.
        low: u64,
        /// Largest ticket allowed.
        high: u64,
    },
    /// The tickets of the general section contradict each other or the queue.
    #[error(
        "saved tickets are inconsistent: next_ticket {next_ticket}, next_replay {next_replay}, \
         {pending} pending"
    )]
    Tickets {
        /// Next ticket to be queued.
        next_ticket: u64,
        /// Oldest ticket not replayed.
        next_replay: u64,
        /// Submissions in the state.
        pending: u64,
    },
    /// The phase is no known one.
    #[error("saved phase {phase} is unknown")]
    UnknownPhase {
        /// The phase's number.
        phase: u32,
    },
}
