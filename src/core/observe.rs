// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the core tells its observer.

use serde::{Deserialize, Serialize};

use crate::wire::{DrainFailedReason, LostReason, ResponseCode};

/// Is told of every step of the core, for logs, traces and tests.
///
/// It is called from within the core's operations: it must be quick, and it need not allocate.
pub trait Observer {
    /// `observation` happened at `now_ns`.
    fn observe(&mut self, now_ns: u64, observation: &Observation);
}

/// Observes nothing.
impl Observer for () {
    fn observe(&mut self, _now_ns: u64, _observation: &Observation) {}
}

impl<F: FnMut(u64, &Observation)> Observer for F {
    fn observe(&mut self, now_ns: u64, observation: &Observation) {
        self(now_ns, observation);
    }
}

/// Why a fault record was answered INVALID without telling the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedReason {
    /// No attached device of this channel has its `dev_id`.
    UnknownDevice,
    /// Its PASID does not fit in an SSID.
    PasidTooLarge,
    /// Its group is larger than the device's limit, or was ended by a reset.
    GroupRefused,
}

/// The guest's command that answered a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestCommand {
    /// CMD_RESUME.
    Resume,
    /// CMD_STALL_TERM.
    StallTerm,
    /// CMD_PRI_RESP.
    PriResp,
}

/// One step of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are named as in the protocol")]
pub enum Observation {
    /// A device was attached.
    #[serde(rename = "attach")]
    Attached { device: u32, sid: u32, channel: u32 },
    /// A device was detached; so many faults were answered INVALID, so many submissions dropped.
    #[serde(rename = "detach")]
    Detached {
        device: u32,
        answered: u32,
        dropped: u32,
    },
    /// A device was reset; so many faults were answered INVALID, so many submissions dropped.
    DeviceReset {
        device: u32,
        answered: u32,
        dropped: u32,
    },
    /// A fault channel ended or broke; so many faults were dropped.
    ChannelLost {
        channel: u32,
        reason: LostReason,
        dropped: u32,
    },
    /// A fault was read and has a STAG now.
    FaultRead {
        device: u32,
        sid: u32,
        ssid: Option<u32>,
        stag: u16,
        addr: u64,
        write: bool,
        grpid: u32,
        channel: u32,
        cookie: u32,
    },
    /// A fault record was answered INVALID at once.
    FaultRefused {
        channel: u32,
        dev_id: u32,
        cookie: u32,
        reason: RefusedReason,
    },
    /// There is no room for the next record of a channel.
    ChannelBlocked { channel: u32 },
    /// The event of a fault was put on the event ring.
    EventEmitted { device: u32, stag: u16, seq: u64 },
    /// The guest answered a fault, so long after it was read.
    #[serde(rename = "resume_received")]
    GuestAnswered {
        device: u32,
        sid: u32,
        stag: u16,
        channel: u32,
        cookie: u32,
        code: ResponseCode,
        command: GuestCommand,
        age_ns: u64,
    },
    /// A fault was answered INVALID without the guest: its device was reset or detached, or its
    /// group was too large.
    FaultAborted {
        device: u32,
        sid: u32,
        stag: u16,
        channel: u32,
        cookie: u32,
    },
    /// The guest's answer matched nothing.
    UnknownAnswer { sid: u32, stag: Option<u16> },
    /// The answer to a group of so many faults was written to its channel.
    AnswerWritten {
        channel: u32,
        cookie: u32,
        code: ResponseCode,
        faults: u32,
    },
    /// The kernel had aborted the faults of a group itself.
    AnswerAborted {
        channel: u32,
        cookie: u32,
        faults: u32,
    },
    /// The front end is changing the page table of a device.
    #[serde(rename = "hold")]
    Held { device: u32 },
    /// It has done so; so many groups had been aborted by the kernel.
    #[serde(rename = "unhold")]
    Unheld { device: u32, aborted: u32 },
    /// A record of a vEVENTQ was read; dropped if it is of no attached device, or a stall.
    StageOneEvent { sid: u32, kind: u8, dropped: bool },
    /// The kernel had no room for so many events of a vEVENTQ.
    EventsLost { device: u32, count: u32 },
    /// A record of a vEVENTQ, or the number of those lost, was put on the event ring.
    StageOneEventSent { device: u32, seq: u64 },
    /// A submission was queued.
    #[serde(rename = "submission_queued")]
    Submitted {
        device: u32,
        ticket: u64,
        pending: u32,
    },
    /// A submission came again after a new connection was made.
    SubmissionKnown { device: u32, ticket: u64 },
    /// A submission came for a device that is not attached.
    SubmissionDropped { device: u32, ticket: u64 },
    /// A submission was replayed.
    #[serde(rename = "replay")]
    Replayed { device: u32, ticket: u64, seq: u64 },
    /// A drain began.
    #[serde(rename = "drain_begin")]
    DrainBegun { generation: u64, timeout_ms: u32 },
    /// A device has no DMA in flight; `current` tells whether for the generation that drains.
    #[serde(rename = "quiesced")]
    DeviceQuiesced {
        device: u32,
        generation: u64,
        current: bool,
    },
    /// Everything is drained; nothing has been sent yet.
    DrainComplete {
        generation: u64,
        duration_ns: u64,
        answered: u32,
        pending: u32,
    },
    /// Something came up before DRAINED was sent; the drain goes on.
    DrainResumed { generation: u64 },
    /// Something came up after DRAINED was sent.
    DisturbedAfterDrained { generation: u64 },
    /// The drain failed.
    DrainFailed {
        generation: u64,
        reason: DrainFailedReason,
        outstanding: u32,
        untaken: u32,
        untaken_device: Option<u32>,
    },
    /// RELEASE was taken, so many submissions are to be replayed.
    #[serde(rename = "release")]
    ReleaseBegun { generation: u64, pending: u32 },
    /// RELEASED was put on the event ring.
    Released {
        generation: u64,
        next_ticket: u64,
        replayed: u64,
        seq: u64,
    },
    /// DRAINED was put on the event ring.
    #[serde(rename = "drained")]
    DrainedSent {
        generation: u64,
        duration_ns: u64,
        answered: u32,
        pending: u32,
        seq: u64,
    },
    /// DRAIN_FAILED was put on the event ring.
    DrainFailedSent { generation: u64, seq: u64 },
    /// DEVICE_LOST was put on the event ring.
    #[serde(rename = "device_lost")]
    DeviceLostSent { device: u32, seq: u64 },
    /// The front end has begun anew; so many devices were detached.
    Reset { devices: u32 },
    /// What a process that has ended had known was taken over: so many faults, of which so many
    /// wait for their event to be sent, and groups whose answer is to be written again. So many
    /// groups were dropped with devices that have gone.
    Recovered {
        faults: u32,
        unsent: u32,
        answers: u32,
        dropped: u32,
    },
    /// A state was loaded.
    Restored {
        generation: u64,
        pending: u32,
        next_ticket: u64,
    },
}
