// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The status document: what the status socket says as JSON, and what everything that is shown is
//! made from. docs/status.md describes its members.

#![allow(
    missing_docs,
    reason = "the fields are named as in docs/status.md and docs/protocol.md"
)]

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use serde::{Deserialize, Serialize};

use super::{
    board::{Board, DeviceRow, Drain, DrainState, Step},
    estimate::Estimate,
    histogram::Durations,
};
use crate::{
    core::Phase,
    wire::{DrainFailedReason, StatusBlock, FAULT_INFO_SSID_VALID, FAULT_INFO_VALID},
};

/// Version of the document; it changes when a member changes its meaning or goes.
pub const VERSION: u32 = 1;
const DEFAULT_PHASE: Phase = Phase::Running;

/// What one back-end says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Document {
    /// [`VERSION`].
    pub version: u32,
    /// The program's.
    pub program: String,
    /// Of the process.
    pub pid: u32,
    /// Seconds since it has started.
    pub uptime_s: f64,
    /// Whether a front end is connected.
    pub connected: bool,
    /// Front ends that have connected.
    pub connections: u64,
    /// Times that a front end has begun anew.
    pub resets: u64,
    /// Of the portal.
    pub phase: Phase,
    /// Of the last drain.
    pub generation: u64,
    /// Attached devices.
    pub devices: Vec<Device>,
    /// Most devices.
    pub max_devices: u32,
    /// Faults.
    pub faults: Faults,
    /// Submissions.
    pub submissions: Submissions,
    /// Drains.
    pub drains: Drains,
    /// State transfers.
    pub state: State,
}

/// A device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Device {
    pub device: u32,
    pub sid: u32,
    pub channel: u32,
    /// Its fault channel has ended.
    pub lost: bool,
    /// The front end is changing its page table.
    pub held: bool,
    /// Faults that the guest has not answered.
    pub unanswered: u32,
    /// The most of them that it may have: `max_outstanding`, or the share if that is 0.
    pub fault_limit: u32,
    /// As it was attached.
    pub max_outstanding: u32,
    /// Its submissions in the queue.
    pub pending: u32,
    /// The most of them: the queue is one for all devices.
    pub pending_limit: u32,
    /// Faults read, since it was attached.
    pub faults_read: u64,
    /// Submissions received, since it was attached.
    pub submissions: u64,
}

/// Faults.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Faults {
    pub outstanding: u32,
    pub max: u32,
    /// The most that a device may have outstanding which is attached with `max_outstanding` 0.
    pub share: u32,
    /// Events that wait for a buffer of the event ring.
    pub backlog: u32,
    /// Channels that are not read for want of room.
    pub blocked: u32,
    pub read: u64,
    pub answered: u64,
    /// Answers that came after the kernel had aborted the faults.
    pub answers_aborted: u64,
    pub unknown_answers: u64,
    /// Records that were answered INVALID at once.
    pub refused: u64,
    /// Answered INVALID by a reset or a detach.
    pub aborted: u64,
    /// Read in a second, of the last ten.
    pub per_second: f64,
    pub oldest: Option<Fault>,
    pub times: Times,
}

/// A fault that the guest has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub sid: u32,
    pub ssid: Option<u32>,
    pub addr: u64,
    pub age_ms: u64,
}

/// How long the steps of a fault have taken, since the process has started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Times {
    pub read_to_event: Durations,
    pub event_to_answer: Durations,
    pub answer_to_written: Durations,
    pub whole: Durations,
}

impl Times {
    /// With their names.
    pub fn all(&self) -> [(&'static str, &Durations); 4] {
        [
            ("read_to_event", &self.read_to_event),
            ("event_to_answer", &self.event_to_answer),
            ("answer_to_written", &self.answer_to_written),
            ("whole", &self.whole),
        ]
    }
}

/// Submissions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Submissions {
    pub pending: u32,
    pub max: u32,
    pub received: u64,
    pub replayed: u64,
}

/// Drains.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drains {
    pub begun: u64,
    pub failed: u64,
    pub last: Option<LastDrain>,
    /// Of those that were complete.
    pub times: Durations,
    pub estimate: Estimate,
}

/// The last drain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastDrain {
    pub generation: u64,
    pub timeout_ms: u64,
    /// How long it took; so far, if it is under way.
    pub duration_ns: u64,
    /// Since it ended.
    pub ended_s_ago: f64,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// It is under way.
    Draining,
    /// Nothing is outstanding; so many faults were answered meanwhile.
    Drained { answered: u64 },
    /// The front end has ended it.
    GivenUp,
    /// It failed.
    Failed {
        reason: DrainFailedReason,
        outstanding: u64,
        /// Answers that their devices have not taken, and one such device.
        untaken: u64,
        untaken_device: Option<u64>,
        /// The oldest fault at that time.
        oldest: Option<Fault>,
    },
}

/// State transfers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub saves: u64,
    pub saves_failed: u64,
    pub loads: u64,
    pub loads_failed: u64,
}

impl Document {
    /// What the board says at `now_ns`; `None` if the service stands still in the middle of a step.
    pub fn new(board: &Board, now_ns: u64) -> Option<Self> {
        let block = board.block()?;
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
        let counts = &board.counts;
        Some(Document {
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: seconds(now_ns.saturating_sub(board.since_ns)),
            connected: board.connected.load(Relaxed),
            connections: count(&counts.connections),
            resets: count(&counts.resets),
            phase: Phase::from_raw(block.phase.get()).unwrap_or(DEFAULT_PHASE),
            generation: block.generation.get(),
            devices: devices(board),
            max_devices: board.limits.max_devices,
            faults: faults(board, &block, now_ns),
            submissions: Submissions {
                pending: block.pending.get(),
                max: board.limits.max_pending,
                received: block.submissions.get(),
                replayed: block.replays.get(),
            },
            drains: Drains {
                begun: block.drains.get(),
                failed: block.drains_failed.get(),
                last: last_drain(board, now_ns),
                times: board.drains.durations(),
                estimate: board.last_minute.estimate(board.since_ns, now_ns),
            },
            state: State {
                saves: count(&counts.saves),
                saves_failed: count(&counts.saves_failed),
                loads: count(&counts.loads),
                loads_failed: count(&counts.loads_failed),
            },
        })
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn devices(board: &Board) -> Vec<Device> {
    let attached = |(_, row): &(u32, &DeviceRow)| row.attached.load(Acquire);
    let device = |(device, row): (u32, &DeviceRow)| Device {
        device,
        sid: row.sid.load(Relaxed),
        channel: row.channel.load(Relaxed),
        lost: row.lost.load(Relaxed),
        held: row.held.load(Relaxed),
        unanswered: row.unanswered.load(Relaxed),
        fault_limit: row.fault_limit.load(Relaxed),
        max_outstanding: row.max_outstanding.load(Relaxed),
        pending: row.pending.load(Relaxed),
        pending_limit: board.limits.max_pending,
        faults_read: row.faults.load(Relaxed),
        submissions: row.submissions.load(Relaxed),
    };
    let rows = (0..).zip(&board.devices);
    rows.filter(attached).map(device).collect()
}

fn faults(board: &Board, block: &StatusBlock, now_ns: u64) -> Faults {
    let age_ns = now_ns.saturating_sub(block.oldest_read_ns.get());
    let times = |step| board.step(step).durations();
    Faults {
        outstanding: block.outstanding.get(),
        max: board.limits.max_faults,
        share: block.fault_share.get(),
        backlog: block.backlog.get(),
        blocked: block.blocked.get(),
        read: block.faults_read.get(),
        answered: block.faults_answered.get(),
        answers_aborted: block.answers_aborted.get(),
        unknown_answers: block.unknown_answers.get(),
        refused: board.counts.refused.load(Relaxed),
        aborted: board.counts.aborted.load(Relaxed),
        per_second: board.last_minute.faults_per_second(board.since_ns, now_ns),
        oldest: fault(&[
            block.oldest_sid.get().into(),
            block.oldest_ssid.get().into(),
            block.oldest_addr.get(),
            age_ns,
            block.oldest_flags.get().into(),
        ]),
        times: Times {
            read_to_event: times(Step::ReadToEvent),
            event_to_answer: times(Step::EventToAnswer),
            answer_to_written: times(Step::AnswerToWritten),
            whole: times(Step::Whole),
        },
    }
}

/// A fault of SID, SSID, address, age and flags.
fn fault(&[sid, ssid, addr, age_ns, flags]: &[u64; 5]) -> Option<Fault> {
    let flag = |flag: u32| flags & u64::from(flag) != 0;
    let narrow = |word| u32::try_from(word).unwrap_or(u32::MAX);
    flag(FAULT_INFO_VALID).then(|| Fault {
        sid: narrow(sid),
        ssid: flag(FAULT_INFO_SSID_VALID).then(|| narrow(ssid)),
        addr,
        age_ms: age_ns / 1_000_000,
    })
}

fn last_drain(board: &Board, now_ns: u64) -> Option<LastDrain> {
    let drain = board.drain()?;
    let outcome = outcome(board, &drain)?;
    let ended_ns = if outcome == Outcome::Draining {
        now_ns
    } else {
        drain.ended_ns
    };
    Some(LastDrain {
        generation: drain.generation,
        timeout_ms: drain.timeout_ms,
        duration_ns: ended_ns.saturating_sub(drain.begun_ns),
        ended_s_ago: seconds(now_ns.saturating_sub(ended_ns)),
        outcome,
    })
}

fn outcome(board: &Board, drain: &Drain) -> Option<Outcome> {
    const DRAINING: u64 = DrainState::Draining as u64;
    const DRAINED: u64 = DrainState::Drained as u64;
    const FAILED: u64 = DrainState::Failed as u64;
    const GIVEN_UP: u64 = DrainState::GivenUp as u64;
    match drain.state {
        DRAINING => Some(Outcome::Draining),
        DRAINED => Some(Outcome::Drained {
            answered: drain.answered,
        }),
        GIVEN_UP => Some(Outcome::GivenUp),
        FAILED => Some(Outcome::Failed {
            reason: u32::try_from(drain.reason)
                .ok()
                .and_then(DrainFailedReason::from_raw)?,
            outstanding: drain.outstanding,
            untaken: drain.untaken,
            untaken_device: (drain.untaken_device != u64::MAX).then_some(drain.untaken_device),
            oldest: board.failed_oldest().as_ref().and_then(fault),
        }),
        _ => None,
    }
}
