// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random interleavings of everything that can happen, against simple models of the other sides:
//! hardware that raises faults and wants each group answered once, a guest that answers events, and
//! a front end that keeps to the protocol and wants each submission replayed once and in order,
//! over drains, resets, migrations and reconnections. Another front end may take its place and
//! begin anew.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::oracle::{answer_of, Fault};
use super::rig::{desc, dev_id, sid, submission, MS};
use crate::core::{Attachment, Core, Counters, FaultError, Limits, Phase};
use crate::state;
use crate::wire::{
    DrainFailed, DrainFailedReason, DrainRequest, Drained, EventRecord, GenerationPayload,
    LostReason, Message, MessageType, PageResponse, Payload, PgFault, Released, ResponseCode,
    SmmuCommand, Submission, DEVICE_NONE, PERM_READ, PGFAULT_LAST_PAGE, PGFAULT_PASID_VALID, U32,
    U64,
};

const LIMITS: Limits = Limits {
    max_devices: 3,
    max_pending: 5,
    max_faults: 6,
    max_device_faults: 0,
};
const DEVICES: u32 = LIMITS.max_devices;

#[derive(Clone, Debug)]
enum Op {
    Raise { device: u32, records: u32 },
    Read { device: u32, records: u32 },
    Emit { buffers: u32 },
    EmitFails,
    Answer { pick: usize, success: bool },
    Guess { device: u32, stag: u16 },
    StallTerm { device: u32 },
    WriteAnswers { device: u32, count: usize },
    AbortAnswer { device: u32 },
    Submit { device: u32 },
    Drain { timeout_ms: u32 },
    Quiesce { device: u32 },
    Release,
    Reset { device: u32 },
    Detach { device: u32 },
    Attach { device: u32 },
    ChannelLost { device: u32 },
    Pass { ms: u64 },
    SaveAndStay,
    Migrate,
    Reconnect { resend: usize },
    BeginAnew { writable: bool },
}

fn op() -> impl Strategy<Value = Op> {
    let device = 0..DEVICES;
    prop_oneof![
        12 => (device.clone(), 1..4u32).prop_map(|(device, records)| Op::Raise { device, records }),
        16 => (device.clone(), 1..5u32).prop_map(|(device, records)| Op::Read { device, records }),
        14 => (1..6u32).prop_map(|buffers| Op::Emit { buffers }),
        1 => Just(Op::EmitFails),
        16 => (any::<usize>(), any::<bool>())
            .prop_map(|(pick, success)| Op::Answer { pick, success }),
        2 => (device.clone(), 0..6u16).prop_map(|(device, stag)| Op::Guess { device, stag }),
        1 => device.clone().prop_map(|device| Op::StallTerm { device }),
        14 => (device.clone(), 1..4usize)
            .prop_map(|(device, count)| Op::WriteAnswers { device, count }),
        1 => device.clone().prop_map(|device| Op::AbortAnswer { device }),
        10 => device.clone().prop_map(|device| Op::Submit { device }),
        4 => (1..60u32).prop_map(|timeout_ms| Op::Drain { timeout_ms }),
        12 => device.clone().prop_map(|device| Op::Quiesce { device }),
        4 => Just(Op::Release),
        1 => device.clone().prop_map(|device| Op::Reset { device }),
        1 => device.clone().prop_map(|device| Op::Detach { device }),
        2 => device.clone().prop_map(|device| Op::Attach { device }),
        1 => device.prop_map(|device| Op::ChannelLost { device }),
        3 => (1..30u64).prop_map(|ms| Op::Pass { ms }),
        2 => Just(Op::SaveAndStay),
        3 => Just(Op::Migrate),
        1 => (0..4usize).prop_map(|resend| Op::Reconnect { resend }),
        1 => any::<bool>().prop_map(|writable| Op::BeginAnew { writable }),
    ]
}

#[derive(Debug)]
struct Group {
    device: u32,
    faults: Vec<Fault>,
    /// Aborted as a whole: what is still to be read does not reach the guest.
    refused: bool,
}

impl Group {
    /// The answer it must get, once it can get one.
    fn answer(&self) -> Option<ResponseCode> {
        answer_of(&self.faults, false)
    }

    /// Answers what was read INVALID; nothing more of the group reaches the guest.
    fn abort(&mut self) {
        self.refused = true;
        for fault in &mut self.faults {
            if *fault == Fault::Waiting {
                *fault = Fault::Answered(ResponseCode::Invalid);
            }
        }
    }
}

/// The hardware's side of a fault channel.
#[derive(Debug, Default)]
struct Hardware {
    unread: VecDeque<PgFault>,
    groups: BTreeMap<u32, Group>,
    /// No device is left; the core only writes its answers.
    closing: bool,
}

impl Hardware {
    fn lowest_free_cookie(&self) -> u32 {
        (1..).find(|c| !self.groups.contains_key(c)).unwrap()
    }

    fn is_busy(&self, device: u32) -> bool {
        self.groups.values().any(|group| group.device == device)
    }

    fn has_read_group(&self) -> bool {
        self.groups
            .values()
            .any(|group| group.faults.iter().any(|f| *f != Fault::Unread))
    }
}

/// An event that the guest has not answered.
#[derive(Clone, Copy, Debug)]
struct Event {
    device: u32,
    channel: u32,
    cookie: u32,
    index: usize,
}

struct World {
    core: Core,
    now: u64,
    portal_seq: u64,
    event_seq: u64,
    channels: BTreeMap<u32, Hardware>,
    /// Channel of each attached device, `None` if it was lost.
    attached: BTreeMap<u32, Option<u32>>,
    /// Lost devices that this connection has not heard of.
    lost_due: BTreeSet<u32>,
    next_channel: u32,
    next_addr: u64,
    /// By address, to find out which fault an event tells of.
    faults: BTreeMap<u64, Event>,
    guest: BTreeMap<u16, Event>,
    next_ticket: u64,
    pending: VecDeque<(u64, u32)>,
    draining: bool,
    outcome_seen: bool,
    generation: u64,
    release_generation: u64,
    deadline: u64,
    quiesced: BTreeSet<u32>,
    unknown_answers: u64,
    aborted_answers: u64,
    replays: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self::blank();
        world.attach_all();
        world
    }

    fn blank() -> Self {
        Self {
            core: Core::new(LIMITS, ()).unwrap(),
            now: MS,
            portal_seq: 0,
            event_seq: 0,
            channels: BTreeMap::new(),
            attached: BTreeMap::new(),
            lost_due: BTreeSet::new(),
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
        }
    }

    fn attach_all(&mut self) {
        for device in 0..DEVICES {
            self.attach(device);
        }
    }

    /// Devices 0 and 1 share a channel as long as it lasts; device 0 has its share of the table,
    /// device 1 a limit of 2 faults, device 2 none but the table's.
    fn desc(&self, device: u32, channel: u32) -> Attachment {
        Attachment {
            max_outstanding: [0, 2, LIMITS.max_faults][device as usize],
            ..desc(device, channel)
        }
    }

    /// The most faults that the device may have outstanding.
    fn limit(&self, device: u32) -> usize {
        let attached = u32::try_from(self.attached.len()).unwrap();
        let share = (LIMITS.max_faults / (attached + 1)).max(1);
        [share, 2, LIMITS.max_faults][device as usize] as usize
    }

    fn waiting(&self, of: impl Fn(&Group) -> bool) -> usize {
        let groups = self.channels.values().flat_map(|h| h.groups.values());
        let faults = groups.filter(|group| of(group)).flat_map(|g| &g.faults);
        faults.filter(|fault| **fault == Fault::Waiting).count()
    }

    /// Whether there is room for a record, by the rules of the protocol.
    fn has_room(&self, channel: u32, record: &PgFault) -> bool {
        let begun = |group: &&Group| group.faults.iter().any(|f| *f != Fault::Unread);
        let groups = |hardware: &Hardware| hardware.groups.values().filter(begun).count();
        let event = self.faults[&record.addr.get()];
        let group = &self.channels[&channel].groups[&event.cookie];
        let on_channel = self.attached.iter().filter(|(_, of)| **of == Some(channel));
        let of_channel: usize = on_channel.map(|(device, _)| self.limit(*device)).sum();
        let all_groups: usize = self.channels.values().map(groups).sum();
        let most_groups = (LIMITS.max_faults + 2 * LIMITS.max_devices) as usize;
        let opens = !begun(&group);
        if opens && (groups(&self.channels[&channel]) > of_channel || all_groups >= most_groups) {
            return false;
        }
        let gone = self.attached.get(&event.device) != Some(&Some(channel));
        gone || group.refused
            || self.waiting(|_| true) < LIMITS.max_faults as usize
                && self.waiting(|group| group.device == event.device) < self.limit(event.device)
    }

    fn attach(&mut self, device: u32) {
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

    fn channel_of(&self, device: u32) -> Option<u32> {
        self.attached.get(&device).copied().flatten()
    }

    fn portal<P: Payload>(&mut self, kind: MessageType, device: u32, payload: &P) {
        self.portal_seq += 1;
        let mut message = Message::new(kind, device, payload);
        message.seq = U64::new(self.portal_seq);
        self.core.portal(&message, self.now).unwrap();
    }

    fn generation(&mut self, kind: MessageType, device: u32, generation: u64) {
        let payload = GenerationPayload {
            generation: U64::new(generation),
        };
        self.portal(kind, device, &payload);
    }

    fn raise(&mut self, device: u32, records: u32) {
        let Some(channel) = self.channel_of(device) else {
            return;
        };
        if self.draining && self.quiesced.contains(&device) {
            return;
        }
        let hardware = self.channels.get_mut(&channel).unwrap();
        if hardware.unread.len() > 20 {
            return;
        }
        let cookie = hardware.lowest_free_cookie();
        for index in 0..records {
            self.next_addr += 0x1000;
            let last = if index + 1 == records {
                PGFAULT_LAST_PAGE
            } else {
                0
            };
            hardware.unread.push_back(PgFault {
                flags: U32::new(PGFAULT_PASID_VALID | last),
                dev_id: U32::new(dev_id(device)),
                pasid: U32::new(7),
                grpid: U32::new(cookie),
                perm: U32::new(PERM_READ),
                reserved: U32::ZERO,
                addr: U64::new(self.next_addr),
                length: U32::ZERO,
                cookie: U32::new(cookie),
            });
            let event = Event {
                device,
                channel,
                cookie,
                index: index as usize,
            };
            self.faults.insert(self.next_addr, event);
        }
        let group = Group {
            device,
            faults: vec![Fault::Unread; records as usize],
            refused: false,
        };
        hardware.groups.insert(cookie, group);
    }

    /// What a shell does when a channel has something to read.
    fn read(&mut self, channel: u32, records: u32) {
        for _ in 0..records {
            if !self.core.wants_read(channel) {
                return;
            }
            let Some(record) = self.channels[&channel].unread.front().copied() else {
                self.core.channel_empty(channel, self.now);
                return;
            };
            let has_room = self.has_room(channel, &record);
            match self.core.fault(channel, &record, self.now) {
                Ok(()) => assert!(has_room, "taken without room"),
                Err(FaultError::NoRoom { .. }) => return assert!(!has_room, "refused with room"),
                Err(error) => panic!("{error}"),
            }
            let hardware = self.channels.get_mut(&channel).unwrap();
            let event = self.faults[&record.addr.get()];
            let group = hardware.groups.get_mut(&event.cookie).unwrap();
            let device_gone = self.attached.get(&event.device) != Some(&Some(channel));
            group.refused |= device_gone;
            group.faults[event.index] = if group.refused {
                Fault::Answered(ResponseCode::Invalid)
            } else {
                Fault::Waiting
            };
            hardware.unread.pop_front();
        }
    }

    fn write_answers(&mut self, channel: u32, count: usize) {
        let mut answers = [PageResponse {
            cookie: U32::ZERO,
            code: U32::ZERO,
        }; 4];
        let count = self.core.answers(channel, &mut answers[..count.min(4)]);
        for answer in &answers[..count] {
            self.answered(channel, answer.cookie.get(), answer.code.get());
        }
        self.core.answers_written(channel, count, self.now);
        self.reap(channel);
    }

    /// The hardware gets an answer: it must be one that it waits for, with the right code.
    fn answered(&mut self, channel: u32, cookie: u32, code: u32) {
        let hardware = self.channels.get_mut(&channel).unwrap();
        let group = hardware.groups.remove(&cookie).expect("answered once");
        let expected = group.answer().expect("all of it was answered");
        assert_eq!(code, expected as u32);
    }

    fn abort_answer(&mut self, channel: u32) {
        let mut answer = [PageResponse {
            cookie: U32::ZERO,
            code: U32::ZERO,
        }];
        if self.core.answers(channel, &mut answer) == 1 {
            let cookie = answer[0].cookie.get();
            let hardware = self.channels.get_mut(&channel).unwrap();
            hardware.groups.remove(&cookie).expect("answered once");
            self.aborted_answers += 1;
            self.core.answer_aborted(channel, self.now);
            self.reap(channel);
        }
    }

    /// The core has done with a channel that has no devices: everything of it must have been
    /// answered.
    fn reap(&mut self, channel: u32) {
        if !self.core.channel_in_use(channel) {
            let hardware = self.channels.remove(&channel).unwrap();
            assert!(hardware.closing && hardware.groups.is_empty());
        }
    }

    fn emit(&mut self) -> bool {
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

    fn take(&mut self, message: &Message, phase: Phase) {
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
                assert!(self.lost_due.remove(&device), "reported twice");
            }
            kind => panic!("{kind:?} on the event ring"),
        }
    }

    /// A drain ends once, and only the one that was asked for last.
    fn outcome(&mut self, generation: u64) {
        assert!(self.draining);
        assert_eq!(generation, self.generation);
        assert!(!std::mem::replace(&mut self.outcome_seen, true));
    }

    /// The guest resumes a transaction, or something that it takes for one.
    fn resume(&mut self, device: u32, stag: u16, code: ResponseCode) {
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

    fn fault_of(&mut self, event: &Event, change: impl FnOnce(&mut Fault)) {
        let hardware = self.channels.get_mut(&event.channel).unwrap();
        let group = hardware.groups.get_mut(&event.cookie).unwrap();
        change(&mut group.faults[event.index]);
    }

    fn stall_term(&mut self, device: u32) {
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

    fn submit(&mut self, device: u32) {
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

    fn drain(&mut self, timeout_ms: u32) {
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
    fn quiesce(&mut self, device: u32) {
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

    fn release(&mut self) {
        self.draining = false;
        self.quiesced.clear();
        self.release_generation = self.generation;
        self.generation(MessageType::Release, DEVICE_NONE, self.generation);
    }

    fn forget_device_work(&mut self, device: u32) {
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

    fn reset(&mut self, device: u32) {
        if self.attached.contains_key(&device) {
            self.forget_device_work(device);
        }
        self.portal(MessageType::Reset, device, &[0u8; 0]);
    }

    fn detach(&mut self, device: u32) {
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

    /// No device is left on a channel. As the kernel does: there is nothing to translate for, so
    /// what was not read is aborted.
    fn close(&mut self, channel: u32) {
        let hardware = self.channels.get_mut(&channel).unwrap();
        hardware.closing = true;
        hardware.unread.clear();
        hardware
            .groups
            .retain(|_, group| group.faults.iter().any(|f| *f != Fault::Unread));
        for group in hardware.groups.values_mut() {
            for fault in &mut group.faults {
                if *fault == Fault::Unread {
                    *fault = Fault::Answered(ResponseCode::Invalid);
                }
            }
        }
        self.reap(channel);
    }

    /// Another front end resets the back-end and attaches its devices. As the shell does: no
    /// channel outlasts the reset, whether it takes its last answers or not.
    fn begin_anew(&mut self, writable: bool) {
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
        let new = Core::new(LIMITS, ()).unwrap();
        assert_eq!(self.core.config_space(self.now), new.config_space(self.now));
        assert_eq!(self.core.counters(), Counters::default());
        assert_eq!(self.core.generation(), 0);
        assert_eq!(self.core.next_ticket(), 0);
        assert!(!self.core.has_event());
        self.attach_all();
    }

    fn channel_lost(&mut self, device: u32) {
        let Some(channel) = self.channel_of(device) else {
            return;
        };
        self.channels.remove(&channel);
        self.guest.retain(|_, event| event.channel != channel);
        for (device, of) in &mut self.attached {
            if *of == Some(channel) {
                *of = None;
                self.lost_due.insert(*device);
            }
        }
        self.core.channel_lost(channel, LostReason::Io, self.now);
        assert!(!self.core.channel_in_use(channel));
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms * MS;
        let due = self.core.deadline().is_some_and(|at| at <= self.now);
        self.core.tick(self.now);
        if due {
            assert_ne!(self.core.phase(), Phase::Draining, "a drain ends");
        }
    }

    /// Saves, and checks that it works exactly when nothing that was read is outstanding.
    fn save(&self) -> Option<state::StateData> {
        let outstanding = self.channels.values().any(Hardware::has_read_group);
        let saved = self.core.snapshot();
        assert_eq!(saved.is_err(), outstanding);
        let saved = saved.ok()?;
        let loaded = state::decode(&state::encode(&saved)[..]).unwrap();
        assert_eq!(saved, loaded);
        Some(loaded)
    }

    /// Goes on with another core on other hardware.
    fn migrate(&mut self) {
        let busy = self.channels.values().any(|h| !h.groups.is_empty());
        let lost = self.attached.values().any(Option::is_none);
        let Some(saved) = self.save().filter(|_| !busy && !lost) else {
            return;
        };
        let mut core = Core::new(LIMITS, ()).unwrap();
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

    fn reconnect(&mut self, resend: usize) {
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

    fn probe(&mut self) {
        while let Some(channel) = self.core.next_probe() {
            let unread = self.channels[&channel].unread.len();
            self.read(channel, u32::try_from(unread + 1).unwrap());
        }
    }

    fn step(&mut self, op: &Op) {
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
            Op::ChannelLost { device } => self.channel_lost(device),
            Op::Pass { ms } => self.pass(ms),
            Op::SaveAndStay => {
                self.save();
            }
            Op::Migrate => self.migrate(),
            Op::Reconnect { resend } => self.reconnect(resend),
            Op::BeginAnew { writable } => self.begin_anew(writable),
        }
        self.probe();
        self.check_bounds();
    }

    fn check_bounds(&self) {
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

    /// Serves everybody until nothing is left to do, as a drain with a guest that answers does.
    fn serve(&mut self) {
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
    fn finish(&mut self) {
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

proptest! {
    #[test]
    fn test_model_random_interleavings_keep_the_invariants(ops in prop::collection::vec(op(), 1..250)) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
        }
        world.finish();
    }
}
