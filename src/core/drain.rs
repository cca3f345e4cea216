// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The phases: drain, its end, and release.

use super::{Core, Observation, Observer, Phase, PortalError};
use crate::wire::{DrainFailed, DrainFailedReason, DEVICE_NONE, U32, U64};

/// What became of a drain, until it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    Drained { duration_ns: u64 },
    Failed(DrainFailed),
}

/// The drain under way, or the last one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Drain {
    pub(super) phase: Phase,
    pub(super) generation: u64,
    begun_ns: u64,
    deadline_ns: u64,
    /// Faults answered since it began.
    pub(super) answered: u32,
    pub(super) outcome: Option<Outcome>,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            phase: Phase::Running,
            generation: 0,
            begun_ns: 0,
            deadline_ns: 0,
            answered: 0,
            outcome: None,
        }
    }
}

/// The last release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Release {
    pub(super) generation: u64,
    /// Submissions replayed since.
    pub(super) replayed: u64,
    /// RELEASED is to be sent when the queue is empty, unless a drain comes first.
    pub(super) due: bool,
}

impl<O: Observer> Core<O> {
    pub(super) fn begin_drain(
        &mut self,
        generation: u64,
        timeout_ms: u32,
        now_ns: u64,
    ) -> Result<(), PortalError> {
        if generation == 0 {
            return Err(PortalError::ZeroGeneration);
        }
        let timeout_ns = u64::from(timeout_ms) * 1_000_000;
        self.drain = Drain {
            phase: Phase::Draining,
            generation,
            begun_ns: now_ns,
            deadline_ns: now_ns.saturating_add(timeout_ns),
            answered: 0,
            outcome: None,
        };
        self.counters.drains = self.counters.drains.wrapping_add(1);
        for (_, device) in self.devices.iter_mut() {
            device.quiesced = false;
        }
        for channel in self.channels.iter_mut() {
            channel.may_have_more();
        }
        self.observe(
            now_ns,
            Observation::DrainBegun {
                generation,
                timeout_ms,
            },
        );
        Ok(())
    }

    pub(super) fn quiesced(&mut self, number: u32, generation: u64, now_ns: u64) {
        let current = self.drain.phase == Phase::Draining && self.drain.generation == generation;
        let Some(device) = self.devices.get_mut(number) else {
            return;
        };
        if current {
            device.quiesced = true;
            // Its last faults may have come since the channel was read.
            if let Some(channel) = self.channels.get_mut(device.channel) {
                channel.may_have_more();
            }
        }
        self.observe(
            now_ns,
            Observation::DeviceQuiesced {
                device: number,
                generation,
                current,
            },
        );
    }

    pub(super) fn begin_release(
        &mut self,
        generation: u64,
        now_ns: u64,
    ) -> Result<(), PortalError> {
        let drains = matches!(
            self.drain.phase,
            Phase::Draining | Phase::Drained | Phase::Failed
        );
        if drains && generation != 0 && generation != self.drain.generation {
            return Err(PortalError::ReleaseGeneration {
                current: self.drain.generation,
                found: generation,
            });
        }
        self.drain.phase = Phase::Releasing;
        self.drain.outcome = None;
        self.release.generation = generation;
        self.release.replayed = 0;
        self.release.due = true;
        self.observe(
            now_ns,
            Observation::ReleaseBegun {
                generation,
                pending: self.pending.len(),
            },
        );
        Ok(())
    }

    /// Whether nothing can raise a fault any more and every fault that was read has been answered.
    pub(super) fn is_quiet(&self) -> bool {
        self.drain.phase == Phase::Draining
            && self.channels.all_answered()
            && self.devices.iter().all(|(_, device)| device.quiesced)
    }

    /// A channel that must be read until empty, even if poll does not report it, before the drain
    /// can end.
    pub fn next_probe(&self) -> Option<u32> {
        if !self.is_quiet() {
            return None;
        }
        self.channels
            .iter()
            .find(|(_, channel)| channel.is_unread())
            .map(|(_, channel)| channel.number)
    }

    /// Ends the drain if nothing is left of what it waits for.
    pub(super) fn end_drain_if_drained(&mut self, now_ns: u64) {
        let nothing_unread = self.channels.iter().all(|(_, channel)| channel.empty);
        if self.is_quiet() && nothing_unread && self.stage_one.is_empty() {
            let duration_ns = now_ns.saturating_sub(self.drain.begun_ns);
            self.drain.phase = Phase::Drained;
            self.drain.outcome = Some(Outcome::Drained { duration_ns });
            self.observe(
                now_ns,
                Observation::DrainComplete {
                    generation: self.drain.generation,
                    duration_ns,
                    answered: self.drain.answered,
                    pending: self.pending.len(),
                },
            );
        }
    }

    /// Something came up that a drained back-end does not have.
    pub(super) fn disturb_drained(&mut self, now_ns: u64) {
        if self.drain.phase == Phase::Drained {
            let generation = self.drain.generation;
            if self.drain.outcome.take().is_some() {
                self.drain.phase = Phase::Draining;
                self.observe(now_ns, Observation::DrainResumed { generation });
            } else {
                self.observe(now_ns, Observation::DisturbedAfterDrained { generation });
            }
        }
        self.end_drain_if_drained(now_ns);
    }

    /// Ends the drain under way, if there is one.
    pub(super) fn fail_drain(&mut self, reason: DrainFailedReason, now_ns: u64) {
        if self.drain.phase != Phase::Draining {
            return;
        }
        let oldest = self.faults.oldest(now_ns);
        let generation = self.drain.generation;
        let outstanding = self.outstanding;
        let (untaken, untaken_device) = self.untaken();
        self.drain.phase = Phase::Failed;
        self.drain.outcome = Some(Outcome::Failed(DrainFailed {
            generation: U64::new(generation),
            reason: U32::new(reason as u32),
            outstanding: U32::new(outstanding),
            sid: U32::new(oldest.sid),
            ssid: U32::new(oldest.ssid),
            addr: U64::new(oldest.addr),
            age_ms: U32::new(oldest.age_ms),
            flags: U32::new(oldest.flags),
            untaken: U32::new(untaken),
            untaken_device: U32::new(untaken_device.unwrap_or(0)),
        }));
        self.counters.drains_failed = self.counters.drains_failed.wrapping_add(1);
        self.observe(
            now_ns,
            Observation::DrainFailed {
                generation,
                reason,
                outstanding,
                untaken,
                untaken_device,
            },
        );
    }

    /// How many answers wait for their devices to take them, and one such device, [`DEVICE_NONE`]
    /// if it is detached. On a channel that is held they wait for something else.
    pub fn untaken(&self) -> (u32, Option<u32>) {
        let mut untaken = 0;
        let mut first = None;
        for (index, slot) in self.channels.iter().filter(|(_, slot)| slot.held == 0) {
            let Some(group) = self.channels.answers(index).next() else {
                continue;
            };
            untaken += slot.answers_len();
            let device = || self.devices.by_dev_id(index, group.dev_id);
            first = first.or_else(|| Some(device().unwrap_or(DEVICE_NONE)));
        }
        (untaken, first)
    }

    /// When [`Core::tick`] must be called at the latest.
    pub fn deadline(&self) -> Option<u64> {
        (self.drain.phase == Phase::Draining).then_some(self.drain.deadline_ns)
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ns: u64) {
        if self.deadline().is_some_and(|deadline| now_ns >= deadline) {
            self.fail_drain(
                if self.channels.blocked_len() > 0 {
                    DrainFailedReason::FaultTableFull
                } else {
                    DrainFailedReason::Deadline
                },
                now_ns,
            );
        }
    }
}
