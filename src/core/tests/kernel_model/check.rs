// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the core says, against what it must say.

use super::super::rig::submission;
use super::kernel::{Fault, Group};
use super::world::{channel_number, channel_of, Due, World, LIMITS};
use crate::core::{Phase, PortalError};
use crate::wire::{
    DrainFailed, DrainFailedReason, DrainRequest, Drained, EventRecord, GenerationPayload, Message,
    MessageType, Released, Submission, DEVICE_NONE, EVENT_RECORD_SIZE, U16, U32, U64,
};

impl World {
    /// Lets the core send its next message; whether there was one.
    pub fn emit(&mut self) -> bool {
        let phase = self.core.phase();
        let replaying = matches!(phase, Phase::Running | Phase::Releasing);
        let both = !self.due.is_empty() && !self.pending.is_empty() && replaying;
        assert!(self.due.is_empty() || self.core.has_event());
        let mut sent = None;
        let emitted = self.core.emit::<()>(self.now, |message| {
            sent = Some(*message);
            Ok(())
        });
        assert_eq!(emitted, Ok(sent.is_some()));
        let Some(message) = sent else { return false };
        self.event_seq = self.event_seq.wrapping_add(1);
        assert_eq!(message.seq.get(), self.event_seq);
        let kind = message.message_type().unwrap();
        let kind = match kind {
            MessageType::EventsLost => MessageType::SmmuEvent,
            kind => kind,
        };
        let last = std::mem::replace(&mut self.last, both.then_some(kind));
        assert!(
            !both || last != Some(kind),
            "{kind:?} keeps the other waiting"
        );
        self.take(&message, phase);
        true
    }

    fn take(&mut self, message: &Message, phase: Phase) {
        match message.message_type().unwrap() {
            MessageType::SmmuEvent | MessageType::EventsLost => self.take_event(message),
            MessageType::Replay => {
                assert!(matches!(phase, Phase::Running | Phase::Releasing));
                let (ticket, device) = self.pending.pop_front().expect("submitted");
                assert_eq!(message.device.get(), device);
                assert_eq!(message.payload::<Submission>(), submission(ticket));
                self.counters.replays += 1;
                self.replayed += 1;
            }
            MessageType::Drained => {
                let drained: Drained = message.payload();
                assert_eq!(drained.generation.get(), self.generation);
                assert_eq!(drained.answered.get(), self.answered);
                assert_eq!(drained.pending.get() as usize, self.pending.len());
                assert!(drained.duration_ns.get() <= self.now - self.begun);
                assert!(self.at_rest());
                assert!(self.held.is_empty() && self.due.is_empty());
                assert!(self.groups.values().all(|group| group.taken() == 0));
            }
            MessageType::DrainFailed => {
                let failed: DrainFailed = message.payload();
                assert_eq!(failed.generation.get(), self.generation);
            }
            MessageType::Released => {
                let released: Released = message.payload();
                assert_eq!(self.released.unwrap_or(0), released.generation.get());
                assert_eq!(released.next_ticket.get(), self.next_ticket);
                assert_eq!(released.replayed.get(), self.replayed);
                assert!(self.pending.is_empty());
                assert_eq!(self.core.phase(), Phase::Running);
            }
            other => panic!("{other:?}"),
        }
    }

    /// Events come in the order in which they were read.
    fn take_event(&mut self, message: &Message) {
        match self.due.pop_front().expect("read") {
            Due::Fault {
                group: number,
                index,
            } => {
                let event = EventRecord::decode(&message.payload()).unwrap();
                let group = &self.groups[&number];
                assert_eq!(event.addr, group.record(index).addr.get());
                assert_eq!(event.ssid, group.pasid);
                assert_eq!(event.sid, self.vsid(group.device));
                assert_eq!(message.device.get(), group.device);
                assert_eq!(group.faults[index], Fault::Waiting);
                let old = self.guest.insert(event.stag, (number, index));
                assert_eq!(old, None, "STAG in use");
            }
            Due::Record { device, record } => {
                assert_eq!(message.device.get(), device);
                assert_eq!(message.payload::<[u8; EVENT_RECORD_SIZE]>(), record);
            }
            Due::Lost { device, count } => {
                assert_eq!(message.message_type(), Some(MessageType::EventsLost));
                assert_eq!(message.device.get(), device);
                assert_eq!(message.payload::<U32>().get(), count);
            }
        }
    }

    fn outstanding(&self) -> usize {
        self.groups.values().map(Group::taken).sum()
    }

    pub fn check(&self) {
        let config = self.core.config_space(self.now);
        assert_eq!(self.core.counters(), self.counters);
        assert_eq!(
            config.figures.outstanding.get() as usize,
            self.outstanding()
        );
        assert_eq!(config.figures.pending.get() as usize, self.pending.len());
        assert_eq!(config.figures.backlog.get() as usize, self.due.len());
        let (now, waiting) = (self.now, self.waiting.first());
        let oldest = waiting.map_or((0, 0, 0, 0, 0), |(read, number, index)| {
            let group = &self.groups[number];
            let flags = 1 | (u32::from(group.pasid.is_some()) << 1);
            let age = u32::try_from((now - read) / 1_000_000).unwrap();
            let addr = group.record(*index).addr.get();
            (
                self.vsid(group.device),
                group.pasid.unwrap_or(0),
                addr,
                age,
                flags,
            )
        });
        let found = (
            config.figures.oldest_sid.get(),
            config.figures.oldest_ssid.get(),
            config.figures.oldest_addr.get(),
            config.oldest_age_ms.get(),
            config.oldest_flags.get(),
        );
        assert_eq!(found, oldest);
        let known = self.groups.values().any(|group| group.taken() > 0);
        assert_eq!(self.core.snapshot().is_err(), known);
        self.check_drain_ends(known);
        for channel in 0..2 {
            let held = self
                .held
                .keys()
                .any(|device| channel_of(*device) == channel);
            assert!(!held || !self.core.wants_read(channel_number(channel)));
        }
    }

    /// A drain does not go on when nothing is left to wait for; and what found no room is wanted
    /// when there is some.
    fn check_drain_ends(&self, known: bool) {
        let refused = |channel: &usize| !self.channels[*channel].buffer.is_empty();
        let refused = (0..2).find(refused);
        if let Some(channel) = refused.filter(|_| !known && self.held.is_empty()) {
            assert!(
                self.core.wants_read(channel_number(channel)),
                "there is room"
            );
        }
        let rested = self.at_rest();
        let waits = known || refused.is_some() || !rested || !self.held.is_empty();
        let ends = waits || !self.due.is_empty() || self.core.phase() != Phase::Draining;
        assert!(ends, "nothing is left");
    }

    /// The drain has just failed: for want of room if a channel waits for some, else by its
    /// deadline.
    pub fn check_failed(&mut self) {
        let mut failed = None;
        let mut core = self.core.clone();
        core.emit::<()>(self.now, |message| {
            failed = Some(message.payload::<DrainFailed>());
            Ok(())
        })
        .unwrap();
        let failed = failed.expect("it is told first");
        let blocked = self.channels.iter().any(|kernel| !kernel.buffer.is_empty());
        let reason = match blocked {
            true => DrainFailedReason::FaultTableFull,
            false => DrainFailedReason::Deadline,
        };
        assert_eq!(
            DrainFailedReason::from_raw(failed.reason.get()),
            Some(reason)
        );
        assert_eq!(failed.outstanding.get() as usize, self.outstanding());
        let unwritten = |(_, group): &(&u64, &Group)| {
            let channel = channel_of(group.device);
            let held = self
                .held
                .keys()
                .any(|device| channel_of(*device) == channel);
            group.answer().is_some() && !held
        };
        assert_eq!(
            failed.untaken.get() as usize,
            self.groups.iter().filter(unwritten).count()
        );
        let config = self.core.config_space(self.now);
        assert_eq!(failed.addr.get(), config.figures.oldest_addr.get());
        assert_eq!(failed.flags.get(), config.oldest_flags.get());
    }

    /// A front end that breaks a rule is told so, and nothing else happens.
    pub fn break_a_rule(&mut self, how: u8) {
        let generation = |generation| GenerationPayload {
            generation: U64::new(generation),
        };
        let ticket = self.next_ticket;
        let draining = matches!(
            self.core.phase(),
            Phase::Draining | Phase::Drained | Phase::Failed
        );
        let room = self.pending.len() < LIMITS.max_pending as usize;
        let mut message = match how {
            0 => Message::new(MessageType::Reset, 0, &[0u8; 0]),
            1 => Message::new(MessageType::Submit, 0, &submission(ticket + 1)),
            2 if room => {
                let size = U32::new(3);
                Message::new(
                    MessageType::Submit,
                    0,
                    &Submission {
                        size,
                        ..submission(ticket)
                    },
                )
            }
            3 => {
                let request = DrainRequest {
                    generation: U64::ZERO,
                    timeout_ms: U32::new(1),
                    reserved: U32::ZERO,
                };
                Message::new(MessageType::Drain, DEVICE_NONE, &request)
            }
            4 if draining => {
                let other = generation(self.generation + 1);
                Message::new(MessageType::Release, DEVICE_NONE, &other)
            }
            5 => Message::new(MessageType::Replay, 0, &submission(ticket)),
            6 => Message::new(MessageType::Reset, 0, &[0u8; 0]),
            7 if !room && self.attached.contains(&0) => {
                Message::new(MessageType::Submit, 0, &submission(ticket))
            }
            _ => return,
        };
        message.seq = U64::new(self.portal_seq.wrapping_add(if how == 0 { 2 } else { 1 }));
        if how == 6 {
            message.kind = U16::new(99);
        }
        let before = self.core.clone();
        let error = self.core.portal(&message, self.now).unwrap_err();
        let expected = match how {
            0 => matches!(error, PortalError::Sequence { .. }),
            1 => matches!(error, PortalError::Ticket { .. }),
            2 => matches!(error, PortalError::SubmissionSize { .. }),
            3 => matches!(error, PortalError::ZeroGeneration),
            4 => matches!(error, PortalError::ReleaseGeneration { .. }),
            5 | 6 => matches!(error, PortalError::UnknownType { .. }),
            _ => matches!(error, PortalError::Credit { .. }),
        };
        assert!(expected, "{error}");
        assert!(self.core == before, "{error}");
    }
}
