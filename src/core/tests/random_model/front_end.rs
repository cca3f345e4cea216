// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What guest and front end do.

use super::super::oracle::Fault;
use super::super::rig::{sid, submission, MS};
use super::kill::Saved;
use super::world::{World, LIMITS};
use crate::core::{Core, Counters};
use crate::wire::{
    DrainRequest, LostReason, MessageType, ResponseCode, SmmuCommand, DEVICE_NONE, U32, U64,
};

impl World {
    /// The guest resumes a transaction, or something that it takes for one.
    pub fn resume(&mut self, device: u32, stag: u16, code: ResponseCode) {
        let known = self.guest.get(&stag).filter(|event| event.device == device);
        match known.copied() {
            Some(event) => {
                self.guest.remove(&stag);
                self.fault_of(&event, |fault| *fault = Fault::Answered(code));
            }
            None => self.unknown_answers += 1,
        }
        let sid = sid(device);
        let command = SmmuCommand::Resume { sid, stag, code };
        self.portal(MessageType::SmmuCmd, DEVICE_NONE, &command.encode());
    }

    pub fn stall_term(&mut self, device: u32) {
        let mut matched = false;
        for hardware in self.channels.values_mut() {
            let groups = hardware.groups.values_mut();
            for group in groups.filter(|group| group.device == device) {
                for fault in &mut group.faults {
                    if *fault == Fault::Waiting {
                        *fault = Fault::Answered(ResponseCode::Invalid);
                        matched = true;
                    }
                }
            }
        }
        self.guest.retain(|_, event| event.device != device);
        self.unknown_answers += u64::from(!matched);
        let command = SmmuCommand::StallTerm { sid: sid(device) };
        self.portal(MessageType::SmmuCmd, DEVICE_NONE, &command.encode());
    }

    pub fn submit(&mut self, device: u32) {
        if self.pending.len() >= LIMITS.max_pending as usize {
            return;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if self.attached.contains_key(&device) {
            self.pending.push_back((ticket, device));
        }
        self.portal(MessageType::Submit, device, &submission(ticket));
    }

    pub fn drain(&mut self, timeout_ms: u32) {
        self.generation += 1;
        self.draining = true;
        self.outcome_seen = false;
        self.quiesced.clear();
        self.deadline = self.now + u64::from(timeout_ms) * MS;
        let request = DrainRequest {
            generation: U64::new(self.generation),
            timeout_ms: U32::new(timeout_ms),
            reserved: U32::ZERO,
        };
        self.portal(MessageType::Drain, DEVICE_NONE, &request);
    }

    /// A device says that it is quiet only when it is; before that it may say so for an older
    /// drain.
    pub fn quiesce(&mut self, device: u32) {
        let Some(channel) = self.attached.get(&device) else {
            return;
        };
        let busy = channel.is_some_and(|channel| self.channels[&channel].is_busy(device));
        if self.draining && !busy {
            self.quiesced.insert(device);
            self.generation(MessageType::DeviceQuiesced, device, self.generation);
        } else if self.generation > 0 {
            self.generation(MessageType::DeviceQuiesced, device, self.generation - 1);
        }
    }

    pub fn release(&mut self) {
        self.draining = false;
        self.quiesced.clear();
        self.release_generation = self.generation;
        self.generation(MessageType::Release, DEVICE_NONE, self.generation);
    }

    pub fn forget_device_work(&mut self, device: u32) {
        self.pending.retain(|(_, of)| *of != device);
        self.guest.retain(|_, event| event.device != device);
        for hardware in self.channels.values_mut() {
            let groups = hardware.groups.values_mut();
            for group in groups.filter(|group| group.device == device) {
                let begun = group.faults.iter().any(|f| *f != Fault::Unread);
                if begun && group.answer().is_none() {
                    group.abort();
                }
            }
        }
    }

    pub fn reset(&mut self, device: u32) {
        if self.attached.contains_key(&device) {
            self.forget_device_work(device);
        }
        self.portal(MessageType::Reset, device, &[0u8; 0]);
    }

    pub fn detach(&mut self, device: u32) {
        let Some(channel) = self.attached.remove(&device) else {
            return;
        };
        self.lost_due.remove(&device);
        self.forget_device_work(device);
        self.core.detach(device, self.now).unwrap();
        let Some(channel) = channel else { return };
        let others = self.attached.values().any(|c| *c == Some(channel));
        if !others {
            self.close(channel);
        }
    }

    /// Another front end resets the back-end and attaches its devices. As the shell does: no
    /// channel outlasts the reset, whether it takes its last answers or not.
    pub fn begin_anew(&mut self, writable: bool) {
        let attached = std::mem::take(&mut self.attached);
        for device in attached.keys() {
            self.forget_device_work(*device);
        }
        self.core.reset(self.now);
        let channels: Vec<u32> = self.channels.keys().copied().collect();
        for channel in channels {
            self.close(channel);
            while writable && self.channels.contains_key(&channel) {
                self.write_answers(channel, 4);
            }
            if self.channels.remove(&channel).is_some() {
                self.core.channel_lost(channel, LostReason::Io, self.now);
            }
        }
        *self = Self {
            next_channel: self.next_channel,
            next_addr: self.next_addr,
            now: self.now,
            core: std::mem::replace(&mut self.core, Core::new(LIMITS, ()).unwrap()),
            ..Self::blank()
        };
        self.core.stop_saving();
        self.core.start_saving(0, 0);
        let new = Core::new(LIMITS, ()).unwrap();
        assert_eq!(self.core.config_space(self.now), new.config_space(self.now));
        assert_eq!(self.core.counters(), Counters::default());
        assert_eq!(self.core.generation(), 0);
        assert_eq!(self.core.next_ticket(), 0);
        assert!(!self.core.has_event());
        self.attach_all();
    }

    pub fn channel_lost(&mut self, device: u32, reason: u32) {
        let Some(channel) = self.channel_of(device) else {
            return;
        };
        self.channels.remove(&channel);
        self.guest.retain(|_, event| event.channel != channel);
        for (device, of) in &mut self.attached {
            if *of == Some(channel) {
                *of = None;
                self.lost_due.insert(*device);
                self.lost_reasons[*device as usize] = reason;
            }
        }
        let reason = LostReason::from_raw(reason).unwrap();
        self.core.channel_lost(channel, reason, self.now);
        assert!(!self.core.channel_in_use(channel));
    }

    /// Goes on with another core on other hardware.
    pub fn migrate(&mut self) {
        let busy = self.channels.values().any(|h| !h.groups.is_empty());
        let lost = self.attached.values().any(Option::is_none);
        let Some(saved) = self.save().filter(|_| !busy && !lost) else {
            return;
        };
        let mut core = Core::new(LIMITS, ()).unwrap();
        core.start_saving(0, 0);
        self.saved = Saved::new();
        for (device, channel) in &self.attached {
            let desc = self.desc(*device, channel.unwrap());
            core.attach(&desc, self.now).unwrap();
        }
        core.restore(&saved, self.now).unwrap();
        assert_eq!(core.pending() as usize, self.pending.len());
        assert_eq!(core.next_ticket(), self.next_ticket);
        assert_eq!(core.counters(), self.core.counters());
        self.core = core;
        self.portal_seq = 0;
        self.event_seq = 0;
        self.draining = true;
        self.outcome_seen = true;
        self.quiesced.clear();
    }

    pub fn reconnect(&mut self, resend: usize) {
        self.core.rings_reset();
        self.portal_seq = 0;
        self.event_seq = 0;
        let lost = self
            .attached
            .iter()
            .filter(|(_, channel)| channel.is_none());
        self.lost_due = lost.map(|(device, _)| *device).collect();
        let again: Vec<_> = self.pending.iter().rev().take(resend).copied().collect();
        for (ticket, device) in again.into_iter().rev() {
            self.portal(MessageType::Submit, device, &submission(ticket));
        }
    }
}
