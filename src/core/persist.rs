// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state that moves to another back-end.

use super::submissions::Pending;
use super::{Core, Counters, Observation, Observer, Phase, RestoreError, SnapshotError};
use crate::state::{DeviceState, General, StateData};
use crate::wire::{Message, MessageType, Submission, ATTACH_FLAG_PRI};

impl<O: Observer> Core<O> {
    /// The state that moves to another back-end. Nothing changes here.
    pub fn snapshot(&self) -> Result<StateData, SnapshotError> {
        if !self.channels.all_answered() {
            return Err(SnapshotError::FaultsOutstanding {
                outstanding: self.outstanding,
            });
        }
        let devices = self.devices.iter().map(|(device, state)| DeviceState {
            device,
            vsid: state.vsid,
            flags: guest_flags(state.pri),
        });
        let pending = self.pending.iter().map(|pending| {
            Message::new(MessageType::Submit, pending.device, &pending.submission())
        });
        Ok(StateData {
            general: General {
                generation: self.drain.generation,
                next_ticket: self.pending.next_ticket(),
                next_replay: self.pending.next_replay(),
                faults_read: self.counters.faults_read,
                faults_answered: self.counters.faults_answered,
                phase: self.drain.phase as u32,
            },
            devices: devices.collect(),
            pending: pending.collect(),
            counters: Some(self.counters.to_array()),
        })
    }

    /// Takes over a state that another back-end saved. Nothing is changed unless all of it is
    /// valid.
    pub fn restore(&mut self, state: &StateData, now_ns: u64) -> Result<(), RestoreError> {
        self.check_restore_allowed()?;
        self.check_devices(state)?;
        self.check_pending(state)?;

        let general = &state.general;
        let pending = state.pending.iter().map(|message| {
            let submission: Submission = message.payload();
            Pending::new(message.device.get(), &submission)
        });
        self.pending.restore(general.next_ticket, pending);
        self.drain.generation = general.generation;
        self.drain.phase = Phase::Loaded;
        self.counters = Counters {
            faults_read: general.faults_read,
            faults_answered: general.faults_answered,
            ..Counters::from_array(state.counters.unwrap_or_default())
        };
        self.observe(
            now_ns,
            Observation::Restored {
                generation: general.generation,
                pending: self.pending.len(),
                next_ticket: general.next_ticket,
            },
        );
        Ok(())
    }

    fn check_restore_allowed(&self) -> Result<(), RestoreError> {
        if self.drain.phase != Phase::Running {
            return Err(RestoreError::Phase {
                phase: self.drain.phase,
            });
        }
        if !self.pending.is_empty() || !self.channels.all_answered() {
            return Err(RestoreError::Busy {
                pending: self.pending.len(),
                outstanding: self.outstanding,
            });
        }
        Ok(())
    }

    fn check_devices(&self, state: &StateData) -> Result<(), RestoreError> {
        if Phase::from_raw(state.general.phase).is_none() {
            return Err(RestoreError::UnknownPhase {
                phase: state.general.phase,
            });
        }
        let mut seen = [false; super::Limits::DEVICES_MAX as usize];
        for saved in &state.devices {
            let DeviceState {
                device,
                vsid,
                flags,
            } = *saved;
            let Some(attached) = self.devices.get(device) else {
                return Err(RestoreError::DeviceMissing { device, vsid });
            };
            if attached.vsid != vsid {
                return Err(RestoreError::DeviceDiffers {
                    device,
                    saved: vsid,
                    attached: attached.vsid,
                });
            }
            let (flags, here) = (flags & ATTACH_FLAG_PRI, guest_flags(attached.pri));
            if flags != here {
                return Err(RestoreError::FlagsDiffer {
                    device,
                    saved: flags,
                    attached: here,
                });
            }
            // An attached device's number is below the limit.
            if std::mem::replace(&mut seen[device as usize], true) {
                return Err(RestoreError::DeviceTwice { device });
            }
        }
        for (index, message) in (0..).zip(&state.pending) {
            let device = message.device.get();
            if !seen.get(device as usize).is_some_and(|seen| *seen) {
                return Err(RestoreError::PendingDevice { index, device });
            }
        }
        Ok(())
    }

    fn check_pending(&self, state: &StateData) -> Result<(), RestoreError> {
        let pending = state.pending.len() as u64;
        let max_pending = self.limits.max_pending;
        if pending > u64::from(max_pending) {
            return Err(RestoreError::TooManyPending {
                pending,
                max_pending,
            });
        }
        let (next_replay, next_ticket) = (state.general.next_replay, state.general.next_ticket);
        let span = next_ticket.checked_sub(next_replay);
        if span.is_none_or(|span| span < pending) || (pending == 0 && span != Some(0)) {
            return Err(RestoreError::Tickets {
                next_ticket,
                next_replay,
                pending,
            });
        }
        let mut low = next_replay;
        for (index, message) in (0..).zip(&state.pending) {
            if message.message_type() != Some(MessageType::Submit) {
                return Err(RestoreError::PendingType {
                    index,
                    kind: message.kind.get(),
                });
            }
            let submission: Submission = message.payload();
            if !submission.size_is_valid() {
                return Err(RestoreError::PendingSize {
                    index,
                    size: submission.size.get(),
                });
            }
            let ticket = submission.ticket.get();
            let first = index == 0;
            if ticket < low || ticket >= next_ticket || (first && ticket != next_replay) {
                return Err(RestoreError::PendingTicket {
                    index,
                    ticket,
                    low,
                    high: if first { low } else { next_ticket - 1 },
                });
            }
            low = ticket + 1;
        }
        Ok(())
    }
}

/// The flags of a device that its driver in the guest goes by.
fn guest_flags(pri: bool) -> u32 {
    if pri {
        ATTACH_FLAG_PRI
    } else {
        0
    }
}

impl Counters {
    /// In the order of the config space.
    pub fn to_array(self) -> [u64; 8] {
        [
            self.faults_read,
            self.faults_answered,
            self.answers_aborted,
            self.unknown_answers,
            self.submissions,
            self.replays,
            self.drains,
            self.drains_failed,
        ]
    }

    /// From the order of the config space.
    pub fn from_array(array: [u64; 8]) -> Self {
        let [faults_read, faults_answered, answers_aborted, unknown_answers, ..] = array;
        let [.., submissions, replays, drains, drains_failed] = array;
        Self {
            faults_read,
            faults_answered,
            answers_aborted,
            unknown_answers,
            submissions,
            replays,
            drains,
            drains_failed,
        }
    }
}
