// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the core says, against what it must say.

use super::super::oracle::Fault;
use super::super::rig::{sid, submission};
use super::hardware::Hardware;
use super::world::{World, LIMITS};
use crate::core::Phase;
use crate::state;
use crate::wire::{
    DrainFailed, DrainFailedReason, Drained, EventRecord, Message, MessageType, Released,
    Submission, U32,
};

impl World {
    pub fn emit(&mut self) -> bool {
        let mut sent = None;
        let write = |message: &Message| {
            sent = Some(*message);
            Ok::<(), ()>(())
        };
        let phase = self.core.phase();
        let emitted = self.core.emit(self.now, write).unwrap();
        if let Some(message) = sent {
            self.event_seq += 1;
            assert_eq!(message.seq.get(), self.event_seq);
            self.take(&message, phase);
        }
        emitted
    }

    pub fn take(&mut self, message: &Message, phase: Phase) {
        match message.message_type().unwrap() {
            MessageType::SmmuEvent => {
                let event = EventRecord::decode(&message.payload()).unwrap();
                let fault = self.faults[&event.addr];
                assert_eq!(message.device.get(), fault.device);
                assert_eq!(event.sid, sid(fault.device));
                assert!(u32::from(event.stag) < LIMITS.max_faults);
                let group = &self.channels[&fault.channel].groups[&fault.cookie];
                assert_eq!(group.faults[fault.index], Fault::Waiting);
                let old = self.guest.insert(event.stag, fault);
                assert!(old.is_none(), "STAG in use");
            }
            MessageType::Replay => {
                assert!(!self.draining && matches!(phase, Phase::Running | Phase::Releasing));
                let (ticket, device) = self.pending.pop_front().expect("submitted");
                assert_eq!(message.device.get(), device);
                assert_eq!(message.payload::<Submission>(), submission(ticket));
                self.replays += 1;
            }
            MessageType::Drained => {
                let drained: Drained = message.payload();
                self.outcome(drained.generation.get());
                assert_eq!(drained.pending.get() as usize, self.pending.len());
                for (device, channel) in &self.attached {
                    assert!(self.quiesced.contains(device));
                    let Some(channel) = channel else { continue };
                    assert!(self.channels[channel].groups.is_empty());
                }
                assert!(self.guest.is_empty());
            }
            MessageType::DrainFailed => {
                let failed: DrainFailed = message.payload();
                self.outcome(failed.generation.get());
                let reason = DrainFailedReason::from_raw(failed.reason.get()).unwrap();
                if reason != DrainFailedReason::FaultChannel {
                    assert!(self.now >= self.deadline);
                }
            }
            MessageType::Released => {
                let released: Released = message.payload();
                assert!(!self.draining);
                assert!(self.pending.is_empty());
                assert_eq!(released.generation.get(), self.release_generation);
                assert_eq!(released.next_ticket.get(), self.next_ticket);
                assert_eq!(self.core.phase(), Phase::Running);
            }
            MessageType::DeviceLost => {
                let device = message.device.get();
                assert_eq!(self.attached[&device], None);
                let reason = message.payload::<U32>().get();
                assert_eq!(reason, self.lost_reasons[device as usize]);
                assert!(self.lost_due.remove(&device), "reported twice");
            }
            kind => panic!("{kind:?} on the event ring"),
        }
    }

    /// A drain ends once, and only the one that was asked for last.
    pub fn outcome(&mut self, generation: u64) {
        assert!(self.draining);
        assert_eq!(generation, self.generation);
        assert!(!std::mem::replace(&mut self.outcome_seen, true));
    }

    /// Saves, and checks that it works exactly when nothing that was read is outstanding.
    pub fn save(&self) -> Option<state::StateData> {
        let outstanding = self.channels.values().any(Hardware::has_read_group);
        let saved = self.core.snapshot();
        assert_eq!(saved.is_err(), outstanding);
        let saved = saved.ok()?;
        let loaded = state::decode(&state::encode(&saved)[..]).unwrap();
        assert_eq!(saved, loaded);
        Some(loaded)
    }

    pub fn check_bounds(&self) {
        let config = self.core.config_space(self.now);
        assert_eq!(config.pending.get() as usize, self.pending.len());
        assert!(config.pending.get() <= LIMITS.max_pending);
        assert!(config.backlog.get() <= LIMITS.max_faults);
        assert_eq!(config.unknown_answers.get(), self.unknown_answers);
        assert_eq!(config.answers_aborted.get(), self.aborted_answers);
        assert_eq!(config.replays.get(), self.replays);
        let read: usize = self
            .channels
            .values()
            .flat_map(|hardware| hardware.groups.values())
            .map(|group| group.faults.iter().filter(|f| **f != Fault::Unread).count())
            .sum();
        let closed = self.channels.values().any(|hardware| hardware.closing);
        assert!(closed || config.outstanding.get() as usize == read);
    }
}
