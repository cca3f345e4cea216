// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Makes figures of what the state machine is observed to do.
//!
//! It is called with the core's lock held: each event costs a few words, and nothing is allocated
//! after the start.

use std::{
    collections::{hash_map::Entry, HashMap},
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, Release},
        },
        Arc,
    },
};

use zerocopy::FromZeros;

use super::{
    board::{Board, DeviceRow, Drain, DrainState, Step},
    cell::add,
    estimate::Estimator,
};
use crate::core::{Observation, Observer};

/// Moments in the life of the fault that has a STAG.
#[derive(Clone, Copy, Default, FromZeros)]
struct Fault {
    read_ns: u64,
    /// 0: the guest does not know it yet.
    event_ns: u64,
}

/// Moments in the life of a group of faults, by its channel and cookie.
#[derive(Clone, Copy)]
struct Group {
    read_ns: u64,
    /// 0: the guest has not answered.
    answered_ns: u64,
}

/// Hashes a channel and a cookie by one multiplication. The seed is random, as a fault channel's
/// other end chooses the cookies.
#[derive(Clone, Copy)]
struct Seeded {
    seed: u64,
    key: u64,
}

impl Seeded {
    fn new() -> Self {
        Seeded {
            seed: RandomState::new().hash_one(0),
            key: 0,
        }
    }
}

impl BuildHasher for Seeded {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for Seeded {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }

    fn write_u32(&mut self, half: u32) {
        self.key = self.key.rotate_left(u32::BITS) ^ u64::from(half);
    }

    #[allow(clippy::cast_possible_truncation, reason = "the halves of the product")]
    fn finish(&self) -> u64 {
        let product = u128::from(self.key ^ self.seed) * u128::from(self.seed | 1);
        (product >> u64::BITS) as u64 ^ product as u64
    }
}

/// The observer.
pub struct Meter {
    board: Arc<Board>,
    faults: Box<[Fault]>,
    /// Twice as large as it becomes, so that it is never made larger.
    groups: HashMap<(u32, u32), Group, Seeded>,
    most_groups: usize,
    estimator: Estimator,
    drain: Drain,
}

impl Meter {
    /// Writes to `board`.
    pub fn new(board: Arc<Board>) -> Self {
        let faults = board.limits.max_faults as usize;
        Meter {
            // Not touched before it is used.
            faults: <[Fault]>::new_box_zeroed_with_elems(faults).unwrap_or_default(),
            groups: HashMap::with_capacity_and_hasher(2 * faults, Seeded::new()),
            most_groups: faults,
            estimator: Estimator::new(board.last_minute.clone(), board.since_ns),
            drain: Drain::default(),
            board,
        }
    }

    fn device(&self, device: u32) -> Option<&DeviceRow> {
        self.board.devices.get(device as usize)
    }

    fn count(&self, counter: impl FnOnce(&DeviceRow) -> &AtomicU64, device: u32) {
        if let Some(row) = self.device(device) {
            add(counter(row), 1);
        }
    }

    fn fault_read(&mut self, device: u32, stag: u16, group: (u32, u32), now_ns: u64) {
        if let Some(fault) = self.faults.get_mut(usize::from(stag)) {
            *fault = Fault {
                read_ns: now_ns,
                event_ns: 0,
            };
        }
        self.count(|row| &row.faults, device);
        self.board.touch(device);
        self.estimator.fault(now_ns);
        if self.groups.len() < self.most_groups {
            if let Entry::Vacant(place) = self.groups.entry(group) {
                place.insert(Group {
                    read_ns: now_ns,
                    answered_ns: 0,
                });
                self.estimator.begun(now_ns);
            }
        }
    }

    fn guest_answered(&mut self, device: u32, stag: u16, group: (u32, u32), now_ns: u64) {
        self.board.touch(device);
        if let Some(fault) = self.faults.get(usize::from(stag)) {
            if fault.event_ns != 0 {
                let ns = now_ns.saturating_sub(fault.event_ns);
                self.board.step(Step::EventToAnswer).record(ns);
            }
        }
        if let Some(group) = self.groups.get_mut(&group) {
            group.answered_ns = now_ns;
        }
    }

    fn event_emitted(&mut self, stag: u16, now_ns: u64) {
        if let Some(fault) = self.faults.get_mut(usize::from(stag)) {
            fault.event_ns = now_ns;
            let ns = now_ns.saturating_sub(fault.read_ns);
            self.board.step(Step::ReadToEvent).record(ns);
        }
    }

    fn ended(&mut self, group: (u32, u32), written: bool, now_ns: u64) {
        let Some(group) = self.groups.remove(&group) else {
            return;
        };
        self.estimator.ended(group.read_ns, now_ns);
        // What a reset or a detach has answered says nothing of the guest.
        if written && group.answered_ns != 0 {
            let since = |ns| now_ns.saturating_sub(ns);
            let board = &self.board;
            board
                .step(Step::AnswerToWritten)
                .record(since(group.answered_ns));
            board.step(Step::Whole).record(since(group.read_ns));
        }
    }

    /// No answer is written to these channels any more.
    fn forget(&mut self, gone: impl Fn(u32) -> bool, now_ns: u64) {
        let estimator = &mut self.estimator;
        self.groups.retain(|(channel, _), group| {
            let gone = gone(*channel);
            if gone {
                estimator.ended(group.read_ns, now_ns);
            }
            !gone
        });
    }

    fn detached(&mut self, device: u32, now_ns: u64) {
        let Some(row) = self.device(device) else {
            return;
        };
        row.attached.store(false, Release);
        let channel = row.channel.load(Relaxed);
        let in_use = self
            .board
            .devices
            .iter()
            .any(|row| row.attached.load(Relaxed) && row.channel.load(Relaxed) == channel);
        if !in_use {
            self.forget(|other| other == channel, now_ns);
        }
    }

    fn end_drain(&mut self, state: DrainState, now_ns: u64) {
        self.drain.state = state as u64;
        self.drain.ended_ns = now_ns;
        self.board.put_drain(self.drain);
    }

    fn drain_changed(&mut self, observation: &Observation, now_ns: u64) {
        match *observation {
            Observation::DrainBegun {
                generation,
                timeout_ms,
            } => {
                self.drain = Drain {
                    state: DrainState::Draining as u64,
                    generation,
                    begun_ns: now_ns,
                    timeout_ms: timeout_ms.into(),
                    ..Drain::default()
                };
                self.board.put_drain(self.drain);
            }
            Observation::DrainComplete { answered, .. } => {
                self.drain.answered = answered.into();
                self.end_drain(DrainState::Drained, now_ns);
            }
            Observation::DrainResumed { .. } => self.end_drain(DrainState::Draining, 0),
            Observation::DrainedSent { duration_ns, .. } => self.board.drains.record(duration_ns),
            Observation::DrainFailed {
                reason,
                outstanding,
                untaken,
                untaken_device,
                ..
            } => {
                self.drain.reason = reason as u64;
                self.drain.outstanding = outstanding.into();
                self.drain.untaken = untaken.into();
                self.drain.untaken_device = untaken_device.map_or(u64::MAX, u64::from);
                self.end_drain(DrainState::Failed, now_ns);
            }
            Observation::ReleaseBegun { .. } | Observation::Reset { .. }
                if self.drain.state == DrainState::Draining as u64 =>
            {
                self.end_drain(DrainState::GivenUp, now_ns);
            }
            _ => {}
        }
    }

    fn device_changed(&mut self, observation: &Observation, now_ns: u64) {
        match *observation {
            Observation::Attached {
                device,
                sid,
                channel,
            } => {
                if let Some(row) = self.device(device) {
                    row.sid.store(sid, Relaxed);
                    row.channel.store(channel, Relaxed);
                    row.lost.store(false, Relaxed);
                    row.held.store(false, Relaxed);
                    row.unanswered.store(0, Relaxed);
                    row.pending.store(0, Relaxed);
                    row.faults.store(0, Relaxed);
                    row.submissions.store(0, Relaxed);
                    row.attached.store(true, Release);
                }
                // The share of each is another one.
                self.board.touch_all();
            }
            Observation::Detached { device, .. } => {
                self.detached(device, now_ns);
                self.board.touch_all();
            }
            Observation::DeviceReset { device, .. } => self.board.touch(device),
            Observation::Restored { .. } | Observation::Recovered { .. } => self.board.touch_all(),
            Observation::ChannelLost { channel, .. } => {
                let of_it = |row: &&DeviceRow| {
                    row.channel.load(Relaxed) == channel && row.attached.load(Relaxed)
                };
                for row in self.board.devices.iter().filter(of_it) {
                    row.lost.store(true, Relaxed);
                }
                self.board.touch_all();
                self.forget(|other| other == channel, now_ns);
            }
            Observation::Held { device } | Observation::Unheld { device, .. } => {
                let held = matches!(observation, Observation::Held { .. });
                if let Some(row) = self.device(device) {
                    row.held.store(held, Relaxed);
                }
            }
            Observation::Reset { .. } => {
                for row in &self.board.devices {
                    row.attached.store(false, Release);
                }
                self.forget(|_| true, now_ns);
                add(&self.board.counts.resets, 1);
            }
            _ => {}
        }
    }
}

impl Observer for Meter {
    fn observe(&mut self, now_ns: u64, observation: &Observation) {
        match *observation {
            Observation::FaultRead {
                device,
                stag,
                channel,
                cookie,
                ..
            } => self.fault_read(device, stag, (channel, cookie), now_ns),
            Observation::EventEmitted { stag, .. } => self.event_emitted(stag, now_ns),
            Observation::GuestAnswered {
                device,
                stag,
                channel,
                cookie,
                ..
            } => self.guest_answered(device, stag, (channel, cookie), now_ns),
            Observation::AnswerWritten {
                channel, cookie, ..
            } => self.ended((channel, cookie), true, now_ns),
            Observation::AnswerAborted {
                channel, cookie, ..
            } => self.ended((channel, cookie), false, now_ns),
            Observation::FaultAborted { device, .. } => {
                self.board.touch(device);
                add(&self.board.counts.aborted, 1);
            }
            Observation::FaultRefused { .. } => {
                add(&self.board.counts.refused, 1);
            }
            Observation::Submitted { device, .. } => {
                self.count(|row| &row.submissions, device);
                self.board.touch(device);
            }
            Observation::Replayed { device, .. } => self.board.touch(device),
            _ => {
                self.device_changed(observation, now_ns);
                self.drain_changed(observation, now_ns);
            }
        }
    }
}
