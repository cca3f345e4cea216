// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest, device, front end, both rings, back-end, and who stops and saves the VM: one state.

use std::collections::VecDeque;

use vhost_user_vsva::core::{Attachment, Core, Job, Limits};
use vhost_user_vsva::wire::{
    DrainFailed, DrainRequest, Drained, EventRecord, GenerationPayload, LostReason, Message,
    MessageType, PageResponse, Payload, PgFault, Released, ResponseCode, SmmuCommand, Submission,
    DEVICE_NONE, PERM_READ, PGFAULT_LAST_PAGE, PGFAULT_PASID_VALID, U32, U64,
};
use vsva_model::front_end::{Execution, FrontEnd, Phase, Post, Rules, Saved, Violation, Vm};

use crate::checker::Notes;

/// The most devices that there can be. Each has a channel of its own, with its number.
pub const DEVICES: usize = 2;
pub const MAX_PENDING: u64 = 3;
pub const RESERVE: u64 = 1;

/// What the front end finds in its event ring.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    Fault(u32, u16),
    Replay(u64),
    Drained(u64),
    Failed(u64),
    Released(u64, u64),
    Lost,
}

/// How often things may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// How many functions there are.
    pub functions: u8,
    pub submissions: u8,
    pub faults: u8,
    /// A migration begins.
    pub migrations: u8,
    /// Somebody who wants a drain says so, again after one has expired.
    pub asks: u8,
    /// QMP `stop` begins.
    pub waits: u8,
    /// Something stops the VM without asking.
    pub stops: u8,
    /// A stopped VM is saved.
    pub saves: u8,
    pub resets: u8,
    pub detaches: u8,
    pub losses: u8,
    /// The connection ends, and the back-end goes on.
    pub disconnects: u8,
    /// The front end connects again.
    pub connects: u8,
}

/// The emulated or passed-through function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Function {
    /// Work that has been executed (written into the portal) and not begun.
    pub work: bool,
    /// A DMA that runs.
    pub dma: bool,
    /// A DMA that waits for the answer to its fault.
    pub stalled: bool,
    /// The fault is not in the back-end yet.
    pub unread: bool,
    pub quiescing: Option<u64>,
}

/// Who wants to stop the VM and save it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Migration {
    None,
    /// The thread iterates; `ready`: it was told so, without the lock.
    Iterating {
        ready: bool,
    },
    /// It is blocked in a write, for good.
    Blocked,
    /// It stops the VM.
    Stopping,
}

/// What is saved: the front end's part, the back-end's, and of the memory what matters here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    pub queue: VecDeque<(u64, u32)>,
    pub work: [bool; DEVICES],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub front: FrontEnd,
    pub core: Core<()>,
    pub portal: VecDeque<Post>,
    pub events: VecDeque<Event>,
    pub functions: [Function; DEVICES],
    pub attached: [bool; DEVICES],
    /// What the guest has written and the functions have not got, by ticket and device: what there
    /// must be, whatever happens.
    pub queue: VecDeque<(u64, u32)>,
    /// The events in the guest's queue: device and STAG.
    pub guest: Vec<(u32, u16)>,
    /// Events that wait for the VM to run.
    pub deferred: Vec<(u32, u16)>,
    /// A vCPU is in the middle of a write to this device.
    pub mid_write: Option<u32>,
    pub migration: Migration,
    pub waiting: bool,
    /// The stop under way was allowed: the devices were ready.
    pub asked: bool,
    pub memory: Option<Snapshot>,
    /// The back-end that was connected has ended.
    pub ended: bool,
    /// At the destination.
    pub there: bool,
    /// Work that DRAINED held when it ended by itself.
    pub expired: Option<u64>,
    pub left: Budget,
    pub notes: Notes,
}

/// What has been reached, as bits of [`Notes::seen`].
pub mod seen {
    pub const DRAINED: u32 = 1;
    pub const FAILED: u32 = 1 << 1;
    pub const RELEASED: u32 = 1 << 2;
    pub const MIGRATED: u32 = 1 << 3;
    pub const SAVED_RUNNING: u32 = 1 << 4;
    pub const SAVED_DRAINED: u32 = 1 << 5;
    pub const SAVED_LOADED: u32 = 1 << 6;
    pub const REFUSED_DRAINING: u32 = 1 << 7;
    pub const REFUSED_FAILED: u32 = 1 << 8;
    pub const TAKEN_BACK: u32 = 1 << 10;
    pub const EXPIRED: u32 = 1 << 11;
    pub const RESERVE_USED: u32 = 1 << 12;
    pub const REPLAYED_THERE: u32 = 1 << 13;
    pub const RECOVERED: u32 = 1 << 14;
    pub const NOT_READY_ANY_MORE: u32 = 1 << 15;
    pub const AGAIN: u32 = 1 << 16;
    pub const ANEW: u32 = 1 << 17;
    pub const ALL: [(u32, &str); 17] = [
        (AGAIN, "connected again, with submissions"),
        (ANEW, "connected anew, with submissions"),
        (DRAINED, "drained"),
        (FAILED, "a drain failed"),
        (RELEASED, "released"),
        (MIGRATED, "migrated"),
        (SAVED_RUNNING, "saved in RUNNING"),
        (SAVED_DRAINED, "saved in DRAINED"),
        (SAVED_LOADED, "saved in LOADED"),
        (REFUSED_DRAINING, "save refused in DRAINING"),
        (REFUSED_FAILED, "save refused in FAILED"),
        (TAKEN_BACK, "release taken back"),
        (EXPIRED, "DRAINED expired"),
        (RESERVE_USED, "reserve used"),
        (REPLAYED_THERE, "replayed at the destination"),
        (RECOVERED, "recovered"),
        (NOT_READY_ANY_MORE, "not ready any more under the lock"),
    ];
}

fn limits(functions: u8) -> Limits {
    Limits {
        max_devices: functions.into(),
        max_pending: MAX_PENDING as u32,
        max_faults: functions.into(),
        max_device_faults: 0,
    }
}

pub fn submission(ticket: u64) -> Submission {
    Submission {
        region: U32::new(2),
        size: U32::new(8),
        offset: U64::new(0),
        ticket: U64::new(ticket),
        data: [0; 16],
        reserved: [0; 8],
    }
}

fn sid(device: u32) -> u32 {
    0x100 + device
}

pub fn attachment(device: u32) -> Attachment {
    Attachment {
        device,
        vsid: sid(device),
        dev_id: 10 + device,
        channel: device,
        max_outstanding: 0,
        pri: false,
    }
}

/// A back-end with these devices.
pub fn back_end(functions: u8, attached: impl Iterator<Item = u32>) -> Core<()> {
    let mut core = Core::new(limits(functions), ()).unwrap();
    for device in attached {
        core.attach(&attachment(device), 0).unwrap();
    }
    core
}

impl World {
    pub fn new(rules: Rules, budget: Budget) -> Self {
        Self {
            front: FrontEnd::new(rules, MAX_PENDING, RESERVE, (1 << budget.functions) - 1),
            core: back_end(budget.functions, 0..budget.functions.into()),
            portal: VecDeque::new(),
            events: VecDeque::new(),
            functions: Default::default(),
            attached: std::array::from_fn(|device| device < budget.functions.into()),
            queue: VecDeque::new(),
            guest: Vec::new(),
            deferred: Vec::new(),
            mid_write: None,
            migration: Migration::None,
            waiting: false,
            asked: false,
            memory: None,
            ended: false,
            there: false,
            expired: None,
            left: budget,
            notes: Notes::default(),
        }
    }

    pub fn fail(&mut self, what: impl Into<String>) {
        self.notes.fail(what);
    }

    pub fn check<T>(&mut self, result: Result<T, Violation>) -> Option<T> {
        result
            .map_err(|violation| self.fail(violation.to_string()))
            .ok()
    }

    /// The devices that are attached.
    pub fn devices(&self) -> impl Iterator<Item = u32> + use<> {
        let attached = self.attached;
        (0..)
            .zip(attached)
            .filter(|(_, attached)| *attached)
            .map(|(device, _)| device)
    }

    pub fn running(&self) -> bool {
        self.front.vm() == Vm::Running
    }

    /// Posts what the front end wants posted, and lets the device know of drains and releases.
    pub fn flush(&mut self) {
        for post in self.front.take_posts() {
            match post {
                Post::Drain { generation } => self.quiesces(Some(generation)),
                Post::Release { .. } => self.quiesces(None),
                _ => {}
            }
            self.portal.push_back(post);
        }
        if !self.front.connected() && self.front.phase() == Phase::Running {
            self.quiesces(None);
        }
    }

    fn quiesces(&mut self, generation: Option<u64>) {
        for device in self.devices() {
            self.functions[device as usize].quiescing = generation;
        }
    }

    /// A write of the guest reaches the device.
    pub fn execute(&mut self, ticket: u64, device: u32) {
        if self.memory.is_some() {
            self.fail(format!(
                "ticket {ticket} is executed into a VM that is being saved"
            ));
        }
        match self.queue.pop_front() {
            Some(next) if next == (ticket, device) => {}
            Some((next, of)) => self.fail(format!(
                "ticket {ticket} is executed on device {device}, the next is {next} on {of}"
            )),
            None => self.fail(format!("ticket {ticket} is executed, the next is None")),
        }
        self.functions[device as usize].work = true;
    }

    /// The front end executes its copies itself.
    pub fn executed(&mut self, executions: &[Execution]) {
        for execution in executions {
            let Execution::Device(device) = *execution else {
                continue;
            };
            let Some((ticket, _)) = self.queue.front().copied() else {
                return self.fail("something is executed that was not written");
            };
            self.execute(ticket, device);
        }
    }

    fn portal_message<P: Payload>(&mut self, kind: MessageType, device: u32, payload: &P) {
        let mut message = Message::new(kind, device, payload);
        message.seq = U64::new(1);
        if let Err(error) = self.core.portal(&message, 0) {
            self.fail(format!("the back-end refuses: {error}"));
        }
    }

    /// The back-end takes a message of the portal ring.
    pub fn back_end_takes(&mut self) {
        let Some(post) = self.portal.pop_front() else {
            return;
        };
        match post {
            Post::Resume { device, stag } => {
                let code = ResponseCode::Success;
                let resume = SmmuCommand::Resume {
                    sid: sid(device),
                    stag,
                    code,
                };
                self.portal_message(MessageType::SmmuCmd, DEVICE_NONE, &resume.encode());
            }
            Post::SubmitNone { ticket } => {
                self.portal_message(MessageType::Submit, DEVICE_NONE, &submission(ticket));
            }
            Post::Submit { device, ticket } => {
                self.portal_message(MessageType::Submit, device, &submission(ticket));
            }
            Post::Quiesced { device, generation } => {
                let generation = U64::new(generation);
                let payload = GenerationPayload { generation };
                self.portal_message(MessageType::DeviceQuiesced, device, &payload);
            }
            Post::Drain { generation } => {
                let request = DrainRequest {
                    generation: U64::new(generation),
                    timeout_ms: U32::new(1),
                    reserved: U32::ZERO,
                };
                self.portal_message(MessageType::Drain, DEVICE_NONE, &request);
            }
            Post::Release { generation } => {
                let generation = U64::new(generation);
                let payload = GenerationPayload { generation };
                self.portal_message(MessageType::Release, DEVICE_NONE, &payload);
            }
            Post::Reset { device } => {
                let device = device.unwrap_or(DEVICE_NONE);
                self.portal_message(MessageType::Reset, device, &[0u8; 0]);
            }
        }
    }

    /// The back-end puts a message into the event ring.
    pub fn back_end_emits(&mut self) {
        let mut sent = None;
        let _ = self.core.emit::<()>(0, |message| {
            sent = Some(*message);
            Ok(())
        });
        let Some(message) = sent else { return };
        let event = match message.message_type() {
            Some(MessageType::SmmuEvent) => {
                let event = EventRecord::decode(&message.payload()).unwrap();
                Event::Fault(message.device.get(), event.stag)
            }
            Some(MessageType::Replay) => {
                Event::Replay(message.payload::<Submission>().ticket.get())
            }
            Some(MessageType::Drained) => {
                Event::Drained(message.payload::<Drained>().generation.get())
            }
            Some(MessageType::DrainFailed) => {
                Event::Failed(message.payload::<DrainFailed>().generation.get())
            }
            Some(MessageType::Released) => {
                let released: Released = message.payload();
                Event::Released(released.generation.get(), released.next_ticket.get())
            }
            _ => Event::Lost,
        };
        self.events.push_back(event);
    }

    /// The back-end reads the fault of a function.
    pub fn back_end_reads(&mut self, device: u32) {
        let record = PgFault {
            flags: U32::new(PGFAULT_PASID_VALID | PGFAULT_LAST_PAGE),
            dev_id: U32::new(10 + device),
            pasid: U32::new(1),
            grpid: U32::new(1),
            perm: U32::new(PERM_READ),
            reserved: U32::ZERO,
            addr: U64::new(0x1000),
            length: U32::ZERO,
            cookie: U32::new(1),
        };
        self.functions[device as usize].unread = false;
        if let Err(error) = self.core.fault(device, &record, 0) {
            self.fail(format!("a fault is refused: {error}"));
        }
    }

    /// What the back-end does at once after each step: all that its core wants.
    pub fn settle(&mut self) {
        let mut last = None;
        while let Some(job) = self.core.wants().job {
            if last.replace(job) == Some(job) {
                return self.fail(format!("{job:?} is given out again and again"));
            }
            match job {
                Job::Write(channel) => self.writes_answers(channel),
                Job::Read(channel) if self.functions[channel as usize].unread => {
                    self.back_end_reads(channel);
                }
                Job::Read(channel) => self.core.channel_empty(channel, 0),
                Job::Close(_) | Job::ReadRecords => {}
            }
        }
    }

    fn writes_answers(&mut self, channel: u32) {
        let mut answer = [PageResponse {
            cookie: U32::ZERO,
            code: U32::ZERO,
        }];
        while self.core.next_answers(channel, &mut answer) > 0 {
            let function = &mut self.functions[channel as usize];
            if function.stalled && !function.unread {
                function.stalled = false;
                // Retried, or aborted; in both cases it is over some day.
                function.dma = answer[0].code.get() == ResponseCode::Success as u32;
            }
            self.core.answers_written(channel, 1, 0);
        }
    }

    /// The front end takes a message of the event ring.
    pub fn front_end_takes(&mut self) {
        let Some(event) = self.events.pop_front() else {
            return;
        };
        match event {
            Event::Fault(device, _) if !self.attached[device as usize] => {}
            Event::Fault(device, stag) if self.running() || self.front.vm() == Vm::Stopping => {
                self.guest.push((device, stag));
            }
            Event::Fault(device, stag) => self.deferred.push((device, stag)),
            Event::Replay(ticket) => {
                let replay = self.front.replay(ticket);
                if let Some(Execution::Device(device)) = self.check(replay) {
                    if self.there {
                        self.notes.seen |= seen::REPLAYED_THERE;
                    }
                    self.execute(ticket, device);
                }
            }
            Event::Drained(generation) => {
                let drained = self.front.drained(generation);
                if self.check(drained) == Some(true) {
                    self.notes.seen |= seen::DRAINED;
                    // All of them have been answered, by CMD_STALL_TERM for example.
                    self.deferred.clear();
                }
            }
            Event::Failed(generation) => {
                self.notes.seen |= seen::FAILED;
                let failed = self.front.back_end_failed(generation);
                self.check(failed);
            }
            Event::Released(generation, next_ticket) => {
                self.notes.seen |= seen::RELEASED;
                let released = self.front.released(generation, next_ticket);
                self.check(released);
            }
            Event::Lost => {}
        }
        self.flush();
    }

    /// The connection is lost; the back-end's end aborts the faults.
    pub fn lose(&mut self) {
        self.ended = true;
        self.portal.clear();
        self.events.clear();
        self.deferred.clear();
        for (channel, function) in (0..).zip(&mut self.functions) {
            self.core.channel_lost(channel, LostReason::Ended, 0);
            if function.stalled {
                function.stalled = false;
                function.unread = false;
                function.dma = true;
            }
        }
        let lost = self.front.lost();
        if let Some(executed) = self.check(lost) {
            self.recovered(&executed);
        }
        self.flush();
    }

    pub fn recovered(&mut self, executions: &[Execution]) {
        if !executions.is_empty() {
            self.notes.seen |= seen::RECOVERED;
        }
        self.executed(executions);
    }

    /// The last pass over the memory begins.
    pub fn begin_save(&mut self) {
        let phase = self.front.phase();
        let outstanding = self.core.outstanding() > 0;
        match self.front.begin_save() {
            Ok(()) if !outstanding => {
                self.memory = Some(Snapshot {
                    queue: self.queue.clone(),
                    work: std::array::from_fn(|device| {
                        self.functions[device].work || self.functions[device].dma
                    }),
                });
            }
            // Refused: a person or a manager is told.
            result => {
                if self.asked && self.front.connected() {
                    self.fail(format!(
                        "stopped when ready, not savable in {phase:?}: {result:?}"
                    ));
                }
                self.notes.seen |= match phase {
                    Phase::Draining => seen::REFUSED_DRAINING,
                    Phase::Failed => seen::REFUSED_FAILED,
                    _ => 0,
                };
                self.front.end_save();
            }
        }
    }

    /// The save is complete: both rings are empty. The VM goes on here, or (`there`) at the
    /// destination.
    pub fn end_save(&mut self, there: bool) {
        let Some(memory) = self.memory.take() else {
            return;
        };
        self.notes.seen |= match self.front.phase() {
            Phase::Running => seen::SAVED_RUNNING,
            Phase::Drained => seen::SAVED_DRAINED,
            _ => seen::SAVED_LOADED,
        };
        let state = match self.core.snapshot() {
            Ok(state) => state,
            // A fault of a VM that nobody has drained came in between: the save fails.
            Err(_) if !self.asked => return self.front.end_save(),
            Err(error) => return self.fail(format!("the back-end is not saved: {error}")),
        };
        let saved: Saved = self.front.save();
        self.front.end_save();
        if self.front.vm() == Vm::Stopped && !there {
            return;
        }
        self.notes.seen |= seen::MIGRATED;
        let mut core = back_end(self.left.functions, self.devices());
        if let Err(error) = core.restore(&state, 0) {
            return self.fail(format!("the destination's back-end refuses: {error}"));
        }
        let pending: Vec<(u64, u32)> = state
            .pending
            .iter()
            .map(|message| {
                let submission: Submission = message.payload();
                (submission.ticket.get(), message.device.get())
            })
            .collect();
        let rules = self.front.rules();
        let credit = (MAX_PENDING, RESERVE);
        let devices = self.devices().map(|device| 1 << device).sum();
        match FrontEnd::load(rules, credit, devices, &saved, &pending) {
            Ok(front) => self.front = front,
            Err(error) => return self.fail(format!("the destination refuses: {error}")),
        }
        self.core = core;
        self.portal.clear();
        self.events.clear();
        self.queue = memory.queue;
        self.guest.clear();
        self.deferred.clear();
        self.functions = memory.work.map(|work| Function {
            work,
            ..Function::default()
        });
        self.migration = Migration::None;
        self.waiting = false;
        self.expired = None;
        self.asked = false;
        self.there = true;
    }
}
