// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! All sides of the core, and what it must have in mind.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::rig::{dev_id, sid, MS};
use super::kernel::{Group, Kernel};
use super::Op;
use crate::core::{AttachError, Attachment, Core, Counters, Limits, Phase};
use crate::wire::{
    Message, MessageType, Payload, SmmuCommand, DEVICE_NONE, EVENT_RECORD_SIZE, U64,
};

pub const LIMITS: Limits = Limits {
    max_devices: 3,
    max_pending: 3,
    max_faults: 5,
    max_device_faults: 0,
};
pub const DEVICES: u32 = LIMITS.max_devices;
/// SIDs and `dev_id`s that devices can be given.
pub const IDS: u32 = DEVICES + 1;
/// Limits of the devices. Devices 0 and 1 share channel 0; device 2 has page request groups.
pub const MOST: [usize; 3] = [4, 2, 2];
pub const PRI: u32 = 2;

pub fn channel_of(device: u32) -> usize {
    (device / 2) as usize
}

/// The core's number of a channel.
pub fn channel_number(channel: usize) -> u32 {
    u32::try_from(channel).unwrap()
}

/// What a device is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    pub vsid: u32,
    pub dev_id: u32,
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
    /// Of each device; the last ones of a device that is detached.
    pub ids: [Ids; DEVICES as usize],
    pub attached: BTreeSet<u32>,
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

/// Attaches a device, with a limit of its own.
pub fn attach(core: &mut Core, device: u32, ids: Ids, now: u64) -> Result<(), AttachError> {
    let channel = channel_number(channel_of(device));
    core.attach(
        &Attachment {
            device,
            vsid: ids.vsid,
            dev_id: ids.dev_id,
            channel,
            max_outstanding: u32::try_from(MOST[device as usize]).unwrap(),
            pri: device == PRI,
        },
        now,
    )?;
    core.set_kernel_channel(channel);
    Ok(())
}

impl World {
    pub fn new() -> Self {
        let mut core = Core::new(LIMITS, ()).unwrap();
        let ids = std::array::from_fn(|device| {
            let device = u32::try_from(device).unwrap();
            let (vsid, dev_id) = (sid(device), dev_id(device));
            let ids = Ids { vsid, dev_id };
            attach(&mut core, device, ids, MS).unwrap();
            ids
        });
        // Both wrap soon.
        core.portal_seq = u64::MAX - 10;
        core.event_seq = u64::MAX - 5;
        Self {
            core,
            now: MS,
            portal_seq: u64::MAX - 10,
            event_seq: u64::MAX - 5,
            ids,
            attached: (0..DEVICES).collect(),
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

    pub fn vsid(&self, device: u32) -> u32 {
        self.ids[device as usize].vsid
    }

    /// The attached device with this SID.
    pub fn by_sid(&self, vsid: u32) -> Option<u32> {
        let mut attached = self.attached.iter().copied();
        attached.find(|device| self.vsid(*device) == vsid)
    }

    /// Whether every attached device has said that it rests.
    pub fn at_rest(&self) -> bool {
        self.attached.is_subset(&self.quiesced)
    }

    pub fn held_channel(&self, channel: usize) -> bool {
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

    pub fn command(&mut self, command: SmmuCommand) {
        self.portal(MessageType::SmmuCmd, DEVICE_NONE, &command.encode());
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
            Op::Attach {
                device,
                vsid,
                dev_id,
            } => self.attach(device, vsid, dev_id),
            Op::Detach { device } => self.detach(device),
            Op::Load { moved } => self.load(moved),
            Op::Reconnect { resend } => self.reconnect(resend),
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
        for device in 0..DEVICES {
            for pick in 0..IDS {
                self.attach(device, pick, pick);
            }
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
