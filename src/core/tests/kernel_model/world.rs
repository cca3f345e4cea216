// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! All sides of the core, and what it must have in mind.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::rig::{desc, sid, submission, MS};
use super::kernel::{Fault, Group, Kernel};
use super::Op;
use crate::core::{Attachment, Core, Counters, FaultError, Limits, Phase};
use crate::wire::{
    DrainRequest, GenerationPayload, Message, MessageType, PageResponse, Payload, ResponseCode,
    SmmuCommand, DEVICE_NONE, EVENT_RECORD_SIZE, SSID_MAX, U32, U64,
};

pub const LIMITS: Limits = Limits {
    max_devices: 3,
    max_pending: 3,
    max_faults: 5,
    max_device_faults: 0,
};
pub const DEVICES: u32 = LIMITS.max_devices;
/// Limits of the devices. Devices 0 and 1 share channel 0; device 2 has page request groups.
const MOST: [usize; 3] = [4, 2, 2];
const PRI: u32 = 2;

pub fn channel_of(device: u32) -> usize {
    (device / 2) as usize
}

/// The core's number of a channel.
pub fn channel_number(channel: usize) -> u32 {
    u32::try_from(channel).unwrap()
}

/// An event that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Fault {
        group: u64,
        index: usize,
    },
    Record {
        device: u32,
        record: [u8; EVENT_RECORD_SIZE],
    },
    Lost {
        device: u32,
        count: u32,
    },
}

pub struct World {
    pub core: Core,
    pub now: u64,
    pub portal_seq: u64,
    pub event_seq: u64,
    pub channels: [Kernel; 2],
    pub groups: BTreeMap<u64, Group>,
    pub next_group: u64,
    /// In the order in which they were read.
    pub due: VecDeque<Due>,
    /// Waiting faults, oldest first, and when they were read.
    pub waiting: Vec<(u64, u64, usize)>,
    /// Events that the guest has, by STAG.
    pub guest: BTreeMap<u16, (u64, usize)>,
    /// Devices that are held, and whether their page table has been replaced.
    pub held: BTreeMap<u32, bool>,
    pub next_ticket: u64,
    pub pending: VecDeque<(u64, u32)>,
    pub generation: u64,
    pub begun: u64,
    pub quiesced: BTreeSet<u32>,
    /// Faults answered since the drain began.
    pub answered: u32,
    pub released: Option<u64>,
    /// Submissions replayed since the release.
    pub replayed: u64,
    pub counters: Counters,
    /// What was sent last while both an event and a replay were due.
    pub last: Option<MessageType>,
}

impl World {
    pub fn new() -> Self {
        let mut core = Core::new(LIMITS, ()).unwrap();
        for device in 0..DEVICES {
            let desc = Attachment {
                max_outstanding: u32::try_from(MOST[device as usize]).unwrap(),
                pri: device == PRI,
                ..desc(device, device / 2)
            };
            core.attach(&desc, MS).unwrap();
            core.set_kernel_channel(device / 2);
        }
        // Both wrap soon.
        core.portal_seq = u64::MAX - 10;
        core.event_seq = u64::MAX - 5;
        Self {
            core,
            now: MS,
            portal_seq: u64::MAX - 10,
            event_seq: u64::MAX - 5,
            channels: Default::default(),
            groups: BTreeMap::new(),
            next_group: 0,
            due: VecDeque::new(),
            waiting: Vec::new(),
            guest: BTreeMap::new(),
            held: BTreeMap::new(),
            next_ticket: 0,
            pending: VecDeque::new(),
            generation: 0,
            begun: 0,
            quiesced: BTreeSet::new(),
            answered: 0,
            released: None,
            replayed: 0,
            counters: Counters::default(),
            last: None,
        }
    }

    fn held_channel(&self, channel: usize) -> bool {
        self.held
            .keys()
            .any(|device| channel_of(*device) == channel)
    }

    pub fn portal<P: Payload>(&mut self, kind: MessageType, device: u32, payload: &P) {
        self.portal_seq = self.portal_seq.wrapping_add(1);
        let mut message = Message::new(kind, device, payload);
        message.seq = U64::new(self.portal_seq);
        self.core.portal(&message, self.now).unwrap();
    }

    fn command(&mut self, command: SmmuCommand) {
        self.portal(MessageType::SmmuCmd, DEVICE_NONE, &command.encode());
    }

    fn raise(&mut self, device: u32, records: u32, pasid: Option<u32>) {
        let kernel = &mut self.channels[channel_of(device)];
        if kernel.queue.len() > 6 {
            return;
        }
        let number = self.next_group;
        self.next_group += 1;
        let group = Group {
            device,
            pasid,
            grpid: u32::try_from(number % 512).unwrap(),
            addr: (number + 1) * 0x10_0000,
            faults: vec![Fault::Unread; records as usize],
            cookie: 0,
            refused: false,
            aborted: false,
        };
        kernel.queue.push_back(number);
        self.groups.insert(number, group);
    }

    /// What a shell does when a channel is to be read.
    fn read(&mut self, channel: usize, groups: u32) {
        for _ in 0..groups {
            self.offer(channel);
            if !self.core.wants_read(channel_number(channel)) {
                return;
            }
            if !self.channels[channel].read(&mut self.groups) {
                self.core.channel_empty(channel_number(channel), self.now);
                return;
            }
            self.offer(channel);
        }
    }

    /// Gives the core what was read, as far as it takes it.
    fn offer(&mut self, channel: usize) {
        while let Some((number, index)) = self.channels[channel].buffer.front().copied() {
            if !self.core.wants_read(channel_number(channel)) {
                return;
            }
            self.now += 1;
            let record = self.groups[&number].record(index);
            match self.core.fault(channel_number(channel), &record, self.now) {
                Ok(()) => {}
                Err(FaultError::Stale { cookie, .. }) => {
                    self.forget_stale(channel, cookie);
                    continue;
                }
                Err(FaultError::NoRoom { .. }) => return self.check_no_room(number),
                Err(error) => panic!("{error}"),
            }
            self.channels[channel].buffer.pop_front();
            self.counters.faults_read += 1;
            self.taken(number, index);
        }
    }

    fn device_waiting(&self, device: u32) -> usize {
        let of_device = self.groups.values().filter(|group| group.device == device);
        of_device.map(Group::waiting).sum()
    }

    fn check_no_room(&self, number: u64) {
        let device = self.groups[&number].device;
        let limit = self.device_waiting(device) >= MOST[device as usize];
        let table = self.waiting.len() >= LIMITS.max_faults as usize;
        let unwritten = |group: &Group| group.taken() > 0 && group.waiting() == 0;
        assert!(
            limit || table || self.groups.values().any(unwritten),
            "there was room"
        );
    }

    fn taken(&mut self, number: u64, index: usize) {
        let device = self.groups[&number].device;
        let full = self.device_waiting(device) >= MOST[device as usize];
        let group = self.groups.get_mut(&number).unwrap();
        let too_large = group.pasid.is_some_and(|pasid| pasid > SSID_MAX);
        if too_large || group.refused {
            group.refused = true;
            group.faults[index] = Fault::Answered(ResponseCode::Invalid);
            return;
        }
        if full {
            // It has no room only because of itself, and nobody would ever answer it.
            assert!(device == PRI && group.waiting() == MOST[PRI as usize]);
            group.refused = true;
            group.faults[index] = Fault::Answered(ResponseCode::Invalid);
            self.abort_device(device);
            return;
        }
        assert!(self.waiting.len() < LIMITS.max_faults as usize);
        group.faults[index] = Fault::Waiting;
        self.waiting.push((self.now, number, index));
        self.due.push_back(Due::Fault {
            group: number,
            index,
        });
    }

    /// One fault is answered, or forgotten.
    fn answer(&mut self, number: u64, index: usize, code: ResponseCode) {
        let group = self.groups.get_mut(&number).unwrap();
        assert_eq!(group.faults[index], Fault::Waiting);
        group.faults[index] = Fault::Answered(code);
        self.waiting
            .retain(|(_, of, at)| (*of, *at) != (number, index));
        self.guest.retain(|_, of| *of != (number, index));
        let due = Due::Fault {
            group: number,
            index,
        };
        self.due.retain(|other| *other != due);
    }

    fn abort_device(&mut self, device: u32) -> usize {
        let groups = &self.groups;
        let of_device = |(_, number, _): &&(u64, u64, usize)| groups[number].device == device;
        let waiting: Vec<_> = self.waiting.iter().filter(of_device).copied().collect();
        for (_, number, index) in &waiting {
            self.answer(*number, *index, ResponseCode::Invalid);
        }
        waiting.len()
    }

    /// The core forgets a group that the kernel has aborted.
    fn forget(&mut self, number: u64) {
        for index in 0..self.groups[&number].faults.len() {
            if self.groups[&number].faults[index] == Fault::Waiting {
                self.answer(number, index, ResponseCode::Invalid);
            }
        }
        if self.groups[&number].taken() > 0 {
            self.counters.answers_aborted += 1;
        }
        self.groups.remove(&number);
    }

    fn forget_stale(&mut self, channel: usize, cookie: u32) {
        let stale = |(_, group): &(&u64, &Group)| {
            group.aborted && group.cookie == cookie && channel_of(group.device) == channel
        };
        let number = *self
            .groups
            .iter()
            .find(stale)
            .expect("its cookie came again")
            .0;
        self.forget(number);
        self.core
            .forget_stale(channel_number(channel), cookie, self.now);
    }

    fn resume(&mut self, pick: usize, success: bool) {
        let count = self.guest.len().max(1);
        let Some((stag, of)) = self.guest.iter().nth(pick % count) else {
            return;
        };
        let (stag, (number, index)) = (*stag, *of);
        let code = code(success);
        let sid = sid(self.groups[&number].device);
        self.answer(number, index, code);
        self.command(SmmuCommand::Resume { sid, stag, code });
    }

    /// The guest answers a page request group when it has all of it.
    fn page_response(&mut self, pick: usize, success: bool) {
        let delivered =
            |number: &u64, index: usize| self.guest.values().any(|of| *of == (*number, index));
        let whole = |(number, group): &(&u64, &Group)| {
            let all = group.faults.iter().enumerate();
            group.device == PRI
                && group.waiting() > 0
                && all.clone().all(|(_, fault)| *fault != Fault::Unread)
                && all
                    .clone()
                    .all(|(at, fault)| *fault != Fault::Waiting || delivered(number, at))
        };
        let all: Vec<u64> = self
            .groups
            .iter()
            .filter(whole)
            .map(|(number, _)| *number)
            .collect();
        let Some(number) = all.get(pick % all.len().max(1)).copied() else {
            return;
        };
        let code = code(success);
        let group = self.groups[&number].clone();
        for (index, fault) in group.faults.iter().enumerate() {
            if *fault == Fault::Waiting {
                self.answer(number, index, code);
            }
        }
        self.command(SmmuCommand::PriResp {
            sid: sid(PRI),
            ssid: group.pasid,
            group: group.grpid,
            code,
        });
    }

    fn page_response_guess(&mut self, device: u32, group: u32) {
        self.counters.unknown_answers += 1;
        self.command(SmmuCommand::PriResp {
            sid: sid(device),
            // No group has this one.
            ssid: Some(9),
            group,
            code: ResponseCode::Success,
        });
    }

    fn stall_term(&mut self, device: u32) {
        if self.abort_device(device) == 0 {
            self.counters.unknown_answers += 1;
        }
        self.command(SmmuCommand::StallTerm { sid: sid(device) });
    }

    fn write_answers(&mut self, channel: usize, count: usize) {
        let mut answers = [PageResponse {
            cookie: U32::ZERO,
            code: U32::ZERO,
        }; 4];
        let count = self
            .core
            .answers(channel_number(channel), &mut answers[..count.min(4)]);
        assert!(
            count == 0 || !self.held_channel(channel),
            "a held channel is not written"
        );
        for answer in &answers[..count] {
            let cookie = answer.cookie.get();
            let of_core = |(_, group): &(&u64, &Group)| {
                let same = group.cookie == cookie && channel_of(group.device) == channel;
                same && group.taken() > 0
            };
            let number = *self
                .groups
                .iter()
                .find(of_core)
                .expect("known to the core")
                .0;
            let group = self.groups.remove(&number).unwrap();
            let expected = group.answer().expect("all of it was answered");
            assert_eq!(answer.code.get(), expected as u32);
            if group.aborted {
                assert_ne!(self.channels[channel].given.get(&cookie), Some(&number));
                self.counters.answers_aborted += 1;
                self.core.answer_aborted(channel_number(channel), self.now);
            } else {
                assert_eq!(self.channels[channel].given.remove(&cookie), Some(number));
                let faults = u32::try_from(group.faults.len()).unwrap();
                self.counters.faults_answered += u64::from(faults);
                self.answered += faults;
                self.core
                    .answers_written(channel_number(channel), 1, self.now);
            }
        }
    }

    fn hold(&mut self, device: u32) {
        let result = self.core.hold(device, self.now);
        assert_eq!(result.is_ok(), !self.held.contains_key(&device));
        self.held.entry(device).or_insert(false);
    }

    fn replace(&mut self, device: u32) {
        if let Some(replaced) = self.held.get_mut(&device) {
            *replaced = true;
            self.channels[channel_of(device)].abort(&mut self.groups, device);
        }
    }

    fn unhold(&mut self, device: u32) {
        let Some(replaced) = self.held.remove(&device) else {
            let result = self.core.unhold(device, true, self.now);
            return assert!(result.is_err(), "it is not held");
        };
        if replaced {
            let groups = &self.groups;
            let channel = &mut self.channels[channel_of(device)];
            channel
                .buffer
                .retain(|(number, _)| groups[number].device != device);
            let gone = |(_, group): &(&u64, &Group)| group.device == device && group.aborted;
            let gone: Vec<u64> = groups
                .iter()
                .filter(gone)
                .map(|(number, _)| *number)
                .collect();
            for number in gone {
                self.forget(number);
            }
        }
        self.core.unhold(device, replaced, self.now).unwrap();
        self.offer(channel_of(device));
    }

    /// What was read must have been taken: else its answer could meet a cookie that was given
    /// again.
    fn replace_without_hold(&mut self, device: u32) {
        let channel = channel_of(device);
        if self.channels[channel].buffer.is_empty() && !self.held.contains_key(&device) {
            self.channels[channel].abort(&mut self.groups, device);
        }
    }

    fn stage_one(&mut self, device: Option<u32>, stall: bool, lost: u32, has_record: bool) {
        let mut record = [0; EVENT_RECORD_SIZE];
        record[0] = 0x04;
        record[4..8].copy_from_slice(&device.map_or(0x999, sid).to_le_bytes());
        record[11] = if stall { 0x80 } else { 0 };
        record[16..24].copy_from_slice(&self.now.to_le_bytes());
        let given = has_record.then_some(&record);
        self.core.stage_one_event(0, given, lost, self.now).unwrap();
        if lost > 0 {
            self.due.push_back(Due::Lost {
                device: 0,
                count: lost,
            });
        }
        if let Some(device) = device.filter(|_| has_record && !stall) {
            self.due.push_back(Due::Record { device, record });
        }
    }

    fn submit(&mut self, device: u32) {
        if self.pending.len() >= LIMITS.max_pending as usize {
            return;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.pending.push_back((ticket, device));
        self.counters.submissions += 1;
        self.portal(MessageType::Submit, device, &submission(ticket));
    }

    pub fn drain(&mut self, timeout_ms: u32) {
        self.generation += 1;
        self.begun = self.now;
        self.quiesced.clear();
        self.answered = 0;
        self.released = None;
        self.counters.drains += 1;
        let request = DrainRequest {
            generation: U64::new(self.generation),
            timeout_ms: U32::new(timeout_ms),
            reserved: U32::ZERO,
        };
        self.portal(MessageType::Drain, DEVICE_NONE, &request);
    }

    pub fn quiesce(&mut self, device: Option<u32>) {
        if self.core.phase() == Phase::Draining {
            self.quiesced.extend(device);
            if device.is_none() {
                self.quiesced.extend(0..DEVICES);
            }
        }
        let generation = U64::new(self.generation);
        let payload = GenerationPayload { generation };
        self.portal(
            MessageType::DeviceQuiesced,
            device.unwrap_or(DEVICE_NONE),
            &payload,
        );
    }

    pub fn release(&mut self, zero: bool) {
        let generation = if zero { 0 } else { self.generation };
        self.released = Some(generation);
        self.replayed = 0;
        let generation = U64::new(generation);
        let payload = GenerationPayload { generation };
        self.portal(MessageType::Release, DEVICE_NONE, &payload);
    }

    fn reset(&mut self, device: Option<u32>) {
        let all = 0..DEVICES;
        for of in all.filter(|of| device.is_none_or(|device| device == *of)) {
            self.abort_device(of);
            self.pending.retain(|(_, owner)| *owner != of);
            self.due.retain(|due| match due {
                Due::Record { device, .. } | Due::Lost { device, .. } => *device != of,
                Due::Fault { .. } => true,
            });
            for group in self.groups.values_mut().filter(|group| group.device == of) {
                let open = group.taken() > 0 && group.taken() < group.faults.len();
                group.refused |= open;
            }
        }
        self.portal(MessageType::Reset, device.unwrap_or(DEVICE_NONE), &[0u8; 0]);
    }

    /// A drain goes on until its deadline, and not longer.
    fn deadline(&mut self) {
        let Some(deadline) = self.core.deadline().filter(|at| *at > self.now) else {
            return;
        };
        self.now = deadline - 1;
        self.core.tick(self.now);
        assert_eq!(self.core.phase(), Phase::Draining);
        self.now = deadline;
        self.tick();
    }

    fn tick(&mut self) {
        let due = self.core.deadline().is_some_and(|at| at <= self.now);
        self.core.tick(self.now);
        if due {
            assert_eq!(self.core.phase(), Phase::Failed);
            self.counters.drains_failed += 1;
            self.check_failed();
        }
    }

    pub fn probe(&mut self) {
        while let Some(channel) = self.core.next_probe() {
            self.read(channel as usize, 100);
        }
    }

    pub fn step(&mut self, op: &Op) {
        self.now += 1;
        match *op {
            Op::Raise {
                device,
                records,
                pasid,
            } => self.raise(device, records, pasid),
            Op::Read { channel, groups } => self.read(channel, groups),
            Op::Emit { buffers } => {
                for _ in 0..buffers {
                    self.emit();
                }
            }
            Op::Resume { pick, success } => self.resume(pick, success),
            Op::PriResp { pick, success } => self.page_response(pick, success),
            Op::PriGuess { device, group } => self.page_response_guess(device, group),
            Op::StallTerm { device } => self.stall_term(device),
            Op::WriteAnswers { channel, count } => self.write_answers(channel, count),
            Op::Hold { device } => self.hold(device),
            Op::Replace { device } => self.replace(device),
            Op::Unhold { device } => self.unhold(device),
            Op::ReplaceWithoutHold { device } => self.replace_without_hold(device),
            Op::StageOne {
                device,
                stall,
                lost,
                record,
            } => {
                self.stage_one(device, stall, lost, record);
            }
            Op::Submit { device } => self.submit(device),
            Op::Drain { timeout_ms } => self.drain(timeout_ms),
            Op::Quiesce { device } => self.quiesce(device),
            Op::Release { zero } => self.release(zero),
            Op::Reset { device } => self.reset(device),
            Op::Deadline => self.deadline(),
            Op::Pass { ms } => {
                self.now += ms * MS;
                self.tick();
            }
            Op::Break { how } => self.break_a_rule(how),
        }
        self.probe();
        self.check();
    }

    /// Serves everybody until nothing is left to do; then a drain ends at once, and everything is
    /// replayed.
    pub fn finish(&mut self) {
        let held: Vec<u32> = self.held.keys().copied().collect();
        for device in held {
            self.unhold(device);
        }
        self.drain(1000);
        self.quiesce(None);
        for _ in 0..200 {
            self.now += 1;
            for channel in 0..2 {
                self.read(channel, 2);
                self.write_answers(channel, 4);
            }
            while self.emit() {}
            while !self.guest.is_empty() {
                self.resume(0, true);
            }
            self.probe();
            self.check();
        }
        assert_eq!(self.core.phase(), Phase::Drained);
        assert!(self.groups.is_empty(), "each fault is answered");
        self.release(false);
        while self.emit() {}
        assert!(self.pending.is_empty(), "each submission is replayed");
        assert_eq!(self.core.phase(), Phase::Running);
        self.check();
    }
}

fn code(success: bool) -> ResponseCode {
    match success {
        true => ResponseCode::Success,
        false => ResponseCode::Invalid,
    }
}
