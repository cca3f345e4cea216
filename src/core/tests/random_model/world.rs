// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! All sides of the core as one, and one step of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::rig::{desc, MS};
use super::hardware::Hardware;
use super::kill::Saved;
use super::Op;
use crate::core::{Attachment, Core, Limits, Phase};
use crate::wire::{GenerationPayload, Message, MessageType, Payload, ResponseCode, U64};

pub const LIMITS: Limits = Limits {
    max_devices: 3,
    max_pending: 5,
    max_faults: 6,
    max_device_faults: 0,
};
pub const DEVICES: u32 = LIMITS.max_devices;

/// An event that the guest has not answered.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub device: u32,
    pub channel: u32,
    pub cookie: u32,
    pub index: usize,
}

pub struct World {
    pub core: Core,
    pub now: u64,
    pub portal_seq: u64,
    pub event_seq: u64,
    pub channels: BTreeMap<u32, Hardware>,
    /// Channel of each attached device, `None` if it was lost.
    pub attached: BTreeMap<u32, Option<u32>>,
    /// Lost devices that this connection has not heard of.
    pub lost_due: BTreeSet<u32>,
    /// Why each device was lost last.
    pub lost_reasons: [u32; DEVICES as usize],
    pub next_channel: u32,
    pub next_addr: u64,
    /// By address, to find out which fault an event tells of.
    pub faults: BTreeMap<u64, Event>,
    pub guest: BTreeMap<u16, Event>,
    pub next_ticket: u64,
    pub pending: VecDeque<(u64, u32)>,
    pub draining: bool,
    pub outcome_seen: bool,
    pub generation: u64,
    pub release_generation: u64,
    pub deadline: u64,
    pub quiesced: BTreeSet<u32>,
    pub unknown_answers: u64,
    pub aborted_answers: u64,
    pub replays: u64,
    pub saved: Saved,
    /// Groups that were taken over from a process that has ended: channel and cookie.
    pub recovered: BTreeSet<(u32, u32)>,
}

impl World {
    pub fn new() -> Self {
        let mut world = Self::blank();
        world.attach_all();
        world
    }

    pub fn blank() -> Self {
        let mut core = Core::new(LIMITS, ()).unwrap();
        core.start_saving(0, 0);
        Self {
            core,
            now: MS,
            portal_seq: 0,
            event_seq: 0,
            channels: BTreeMap::new(),
            attached: BTreeMap::new(),
            lost_due: BTreeSet::new(),
            lost_reasons: [0; DEVICES as usize],
            next_channel: 10,
            next_addr: 0,
            faults: BTreeMap::new(),
            guest: BTreeMap::new(),
            next_ticket: 0,
            pending: VecDeque::new(),
            draining: false,
            outcome_seen: false,
            generation: 0,
            release_generation: 0,
            deadline: 0,
            quiesced: BTreeSet::new(),
            unknown_answers: 0,
            aborted_answers: 0,
            replays: 0,
            saved: Saved::new(),
            recovered: BTreeSet::new(),
        }
    }

    pub fn attach_all(&mut self) {
        for device in 0..DEVICES {
            self.attach(device);
        }
    }

    /// Devices 0 and 1 share a channel as long as it lasts; device 0 has its share of the table,
    /// device 1 a limit of 2 faults, device 2 none but the table's.
    pub fn desc(&self, device: u32, channel: u32) -> Attachment {
        Attachment {
            max_outstanding: [0, 2, LIMITS.max_faults][device as usize],
            ..desc(device, channel)
        }
    }

    /// The most faults that the device may have outstanding.
    pub fn limit(&self, device: u32) -> usize {
        let attached = u32::try_from(self.attached.len()).unwrap();
        let share = (LIMITS.max_faults / (attached + 1)).max(1);
        [share, 2, LIMITS.max_faults][device as usize] as usize
    }

    pub fn attach(&mut self, device: u32) {
        if self.attached.get(&device).is_some_and(Option::is_some) {
            return;
        }
        let sibling = self.attached.get(&(1 - device.min(1))).copied().flatten();
        let channel = match sibling {
            Some(channel) if device < 2 => channel,
            _ => {
                self.next_channel += 1;
                self.next_channel
            }
        };
        self.core
            .attach(&self.desc(device, channel), self.now)
            .unwrap();
        self.channels.entry(channel).or_default();
        self.attached.insert(device, Some(channel));
        self.lost_due.remove(&device);
        self.quiesced.remove(&device);
    }

    pub fn channel_of(&self, device: u32) -> Option<u32> {
        self.attached.get(&device).copied().flatten()
    }

    pub fn portal<P: Payload>(&mut self, kind: MessageType, device: u32, payload: &P) {
        self.portal_seq += 1;
        let mut message = Message::new(kind, device, payload);
        message.seq = U64::new(self.portal_seq);
        self.core.portal(&message, self.now).unwrap();
    }

    pub fn generation(&mut self, kind: MessageType, device: u32, generation: u64) {
        let payload = GenerationPayload {
            generation: U64::new(generation),
        };
        self.portal(kind, device, &payload);
    }

    pub fn pass(&mut self, ms: u64) {
        self.now += ms * MS;
        let due = self.core.deadline().is_some_and(|at| at <= self.now);
        self.core.tick(self.now);
        if due {
            assert_ne!(self.core.phase(), Phase::Draining, "a drain ends");
        }
    }

    pub fn step(&mut self, op: &Op) {
        self.now += 1;
        match *op {
            Op::Raise { device, records } => self.raise(device, records),
            Op::Read { device, records } => {
                if let Some(channel) = self.channel_of(device) {
                    self.read(channel, records);
                }
            }
            Op::Emit { buffers } => {
                for _ in 0..buffers {
                    self.emit();
                }
            }
            Op::EmitFails => {
                let had = self.core.has_event();
                let result = self.core.emit(self.now, |_| Err(()));
                assert_eq!(result, if had { Err(()) } else { Ok(false) });
            }
            Op::Answer { pick, success } => {
                let count = self.guest.len().max(1);
                let picked = self.guest.iter().nth(pick % count);
                if let Some((stag, event)) = picked.map(|(s, e)| (*s, *e)) {
                    let code = if success {
                        ResponseCode::Success
                    } else {
                        ResponseCode::Invalid
                    };
                    self.resume(event.device, stag, code);
                }
            }
            Op::Guess { device, stag } => self.resume(device, stag, ResponseCode::Success),
            Op::StallTerm { device } => self.stall_term(device),
            Op::WriteAnswers { device, count } => {
                let channels: Vec<u32> = self.channels.keys().copied().collect();
                if let Some(channel) = channels.get(device as usize) {
                    self.write_answers(*channel, count);
                }
            }
            Op::AbortAnswer { device } => {
                if let Some(channel) = self.channel_of(device) {
                    self.abort_answer(channel);
                }
            }
            Op::Submit { device } => self.submit(device),
            Op::Drain { timeout_ms } => self.drain(timeout_ms),
            Op::Quiesce { device } => self.quiesce(device),
            Op::Release => self.release(),
            Op::Reset { device } => self.reset(device),
            Op::Detach { device } => self.detach(device),
            Op::Attach { device } => self.attach(device),
            Op::ChannelLost { device, reason } => self.channel_lost(device, reason),
            Op::Pass { ms } => self.pass(ms),
            Op::SaveAndStay => {
                self.save();
            }
            Op::Migrate => self.migrate(),
            Op::Reconnect { resend } => self.reconnect(resend),
            Op::BeginAnew { writable } => self.begin_anew(writable),
            Op::Kill => self.kill(),
        }
        self.save_step();
        self.probe();
        self.check_bounds();
    }

    /// Serves everybody until nothing is left to do, as a drain with a guest that answers does.
    pub fn serve(&mut self) {
        loop {
            let mut busy = false;
            let channels: Vec<u32> = self.channels.keys().copied().collect();
            for channel in &channels {
                let unread = self.channels[channel].unread.len();
                self.read(*channel, u32::try_from(unread).unwrap());
                busy |= self.channels[channel].unread.len() < unread;
            }
            while self.emit() {
                busy = true;
            }
            while let Some((stag, event)) = self.guest.first_key_value().map(|(s, e)| (*s, *e)) {
                self.resume(event.device, stag, ResponseCode::Success);
                busy = true;
            }
            for channel in channels {
                let groups = self.channels[&channel].groups.len();
                for _ in 0..=groups / 4 {
                    if self.channels.contains_key(&channel) {
                        self.write_answers(channel, 4);
                    }
                }
                let left = self.channels.get(&channel).map_or(0, |h| h.groups.len());
                busy |= left < groups;
            }
            self.probe();
            if !busy {
                break;
            }
        }
        let all_answered = self.channels.values().all(|h| h.groups.is_empty());
        assert!(all_answered, "each fault is answered");
    }

    /// A last drain succeeds, and everything that was submitted is replayed.
    pub fn finish(&mut self) {
        self.serve();
        self.drain(1000);
        let devices: Vec<u32> = self.attached.keys().copied().collect();
        for device in devices {
            self.quiesce(device);
        }
        self.probe();
        self.serve();
        assert_eq!(self.core.phase(), Phase::Drained);
        self.migrate();
        self.release();
        self.serve();
        assert_eq!(self.core.phase(), Phase::Running);
        assert!(self.pending.is_empty(), "each submission is replayed");
        assert!(self.lost_due.is_empty(), "each loss is reported");
        assert_eq!(self.core.outstanding(), 0);
        assert_eq!(self.core.next_ticket(), self.next_ticket);
    }
}
