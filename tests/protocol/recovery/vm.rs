// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What outlives the back-ends of a test: the devices, the guest, and the front end, which starts
//! the next back-end whenever one has ended.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{eventfd, EventfdFlags},
    io::Errno,
};
use vhost_user_vsva::{
    frontend::{
        AttachChannel, Attachment, Companions, Event, Frontend, FrontendError, SharedMemory,
    },
    state,
    wire::{
        EventRecord, PgFault, ResponseCode, SmmuCommand, PERM_READ, PGFAULT_LAST_PAGE,
        PGFAULT_PASID_VALID, U32, U64,
    },
};

use super::channel::Channel;
use crate::support::{attachment, options, submission, Backend, HANG, LONG};

/// Two devices on one socket, one with page requests, and two on a fault file of the kernel.
pub const DEVICES: u32 = 5;
pub const PRI: u32 = 2;
pub const KERNEL: [u32; 2] = [3, 4];

fn channel_of(device: u32) -> usize {
    [0, 0, 1, 2, 2][device as usize]
}

/// A fault as the device knows it.
#[derive(Debug)]
pub struct Fault {
    pub device: u32,
    pub cookie: u32,
    /// The guest has seen it.
    pub seen: bool,
}

/// What the front end is doing with the page table of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// HOLD has had no reply.
    Asked,
    /// It is being changed.
    Held,
    /// It has been changed: whether the kernel has aborted the faults. UNHOLD has had no reply.
    Changed(bool),
    /// The kernel has aborted the faults by itself.
    Aborted,
}

/// What the front end has to keep.
pub struct Vm {
    pub backend: Backend,
    pub memory: SharedMemory,
    /// `recovery_room` of the back-end.
    pub room: u16,
    pub frontend: Option<Frontend>,
    attach: Option<AttachChannel>,
    pub channels: [Channel; 3],
    attached: BTreeSet<u32>,
    holds: BTreeMap<u32, Hold>,
    /// Of device 0.
    veventq: OwnedFd,
    pub events_lost: u32,
    /// Messages that the front end has taken before this connection.
    event_base: u64,
    portal_base: u64,
    portal_seq: u64,
    /// Commands and resets: their number, once they have been sent.
    commands: VecDeque<(Option<u64>, Command)>,
    /// The guest does not answer for now, but keeps what it would.
    pub withhold: bool,
    withheld: Vec<(u32, u32, Command)>,
    detaching: BTreeSet<u32>,
    dropped: BTreeSet<u64>,
    /// Submissions that have not been executed.
    pub copies: BTreeMap<u64, u32>,
    executed: Vec<u64>,
    pub next_ticket: u64,
    /// Nothing is wanted while the VM does not run.
    pub stopped: bool,
    /// A drain that is wanted, its generation, and whether it has ended.
    pub drain: bool,
    generation: u64,
    pub drained: bool,
    pub released: bool,
    pub faults: BTreeMap<u64, Fault>,
    /// Faults that the kernel has aborted.
    aborted: BTreeSet<u64>,
    pub next_cookie: u32,
    /// What the guest has answered, by cookie.
    given: BTreeMap<u32, ResponseCode>,
    pub answers: BTreeMap<u32, ResponseCode>,
    pub again: u32,
    pub kills: u32,
    /// Where the next process ends.
    pub fail_at: VecDeque<String>,
    /// Processes that were stopped, and given up.
    pub hung: Vec<Backend>,
}

#[derive(Clone, Copy, Debug)]
pub enum Command {
    Smmu(SmmuCommand),
    Reset(u32),
}

fn desc(device: u32) -> Attachment {
    Attachment {
        channel: u32::try_from(channel_of(device)).unwrap(),
        pri: device == PRI,
        ..attachment(device)
    }
}

impl Vm {
    /// The processes end at these places, one after the other.
    pub fn new(fail_at: &[String]) -> Self {
        let backend = Backend::start();
        let room = backend.negotiate().config().unwrap().recovery_room.get();
        let memory = SharedMemory::with_recovery(1, room).unwrap();
        let mut vm = Self {
            backend,
            memory,
            room,
            frontend: None,
            attach: None,
            channels: Channel::all(),
            attached: (0..DEVICES).collect(),
            holds: BTreeMap::new(),
            veventq: eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
            events_lost: 0,
            event_base: 0,
            portal_base: 0,
            portal_seq: 0,
            commands: VecDeque::new(),
            withhold: false,
            withheld: Vec::new(),
            detaching: BTreeSet::new(),
            dropped: BTreeSet::new(),
            copies: BTreeMap::new(),
            executed: Vec::new(),
            next_ticket: 0,
            stopped: false,
            drain: false,
            generation: 0,
            drained: false,
            released: false,
            faults: BTreeMap::new(),
            aborted: BTreeSet::new(),
            next_cookie: 1,
            given: BTreeMap::new(),
            answers: BTreeMap::new(),
            again: 0,
            kills: 0,
            fail_at: fail_at.iter().cloned().collect(),
            hung: Vec::new(),
        };
        vm.start_next();
        vm.connect();
        vm
    }

    fn start_next(&mut self) {
        let fail_at = self.fail_at.pop_front();
        self.backend.restart_to_fail(&[], fail_at.as_deref());
    }

    /// Connects until it has worked.
    fn connect(&mut self) {
        while let Err(e) = self.try_connect() {
            self.wait_ended(&e);
            self.lost();
        }
    }

    fn wait_ended(&mut self, why: &FrontendError) {
        let start = Instant::now();
        while self.backend.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < HANG, "it lives, but {why}");
            thread::yield_now();
        }
    }

    /// The process has ended: what it has sent is taken, and another is started.
    fn lost(&mut self) {
        self.kills += 1;
        self.disconnect();
        self.start_next();
    }

    /// The process hangs: it is left to itself, and another is started somewhere else.
    fn give_up(&mut self) {
        self.kills += 1;
        self.disconnect();
        let next = Backend::start();
        self.hung.push(std::mem::replace(&mut self.backend, next));
        self.start_next();
    }

    /// What the back-end has sent is taken, and the connection is closed.
    fn disconnect(&mut self) {
        if let Some(mut frontend) = self.frontend.take() {
            while let Some(event) = frontend.next_event().unwrap() {
                self.take(&event);
            }
            self.event_base += frontend.events_taken();
        }
        self.attach = None;
    }

    /// Only the connection is lost.
    pub fn reconnect(&mut self) {
        self.disconnect();
        self.connect();
    }

    /// The process may have ended before anybody connects.
    fn negotiate(&self) -> Result<Frontend, FrontendError> {
        let stream = UnixStream::connect(self.backend.socket());
        let stream = stream.map_err(|_| FrontendError::Timeout("listen"))?;
        Frontend::negotiate(stream, &options())
    }

    fn try_connect(&mut self) -> Result<(), FrontendError> {
        let mut frontend = self.negotiate()?;
        let next = self.copies.keys().next().copied();
        let first = next.unwrap_or(self.next_ticket);
        self.memory.go_on_at(self.event_base, first)?;
        self.portal_base = self.memory.portal_taken()?;
        let mut attach = frontend.attach_channel()?;
        attach.share_memory(&self.memory)?;
        self.attach_all(&mut attach)?;
        for (device, hold) in self.holds.clone() {
            self.hold_again(&mut attach, device, hold)?;
        }
        for device in self.detaching.clone() {
            attach.detach(device)?;
            self.detached(device);
        }
        frontend.start()?;
        self.frontend = Some(frontend);
        self.attach = Some(attach);
        self.portal_seq = 0;
        let taken = self.portal_base;
        self.commands
            .retain(|(number, _)| number.is_none_or(|number| number > taken));
        for index in 0..self.commands.len() {
            let (_, command) = self.commands[index];
            let number = self.post(command);
            self.commands[index].0 = number;
        }
        for ticket in first..self.next_ticket {
            let device = self.copies.get(&ticket).copied().unwrap_or(u32::MAX);
            self.send(|frontend| frontend.submit(device, &submission(ticket)));
        }
        if self.stopped {
            return Ok(());
        }
        if self.drain {
            self.begin_drain();
        } else {
            self.released = false;
            self.send(|frontend| frontend.release(0));
        }
        Ok(())
    }

    fn attach_all(&self, attach: &mut AttachChannel) -> Result<(), FrontendError> {
        let mut open = BTreeSet::new();
        for device in &self.attached {
            let channel = channel_of(*device);
            let fd = open.insert(channel).then(|| self.channels[channel].as_fd());
            let companions = Companions {
                fault_fd: fd,
                veventq: (*device == 0).then(|| self.veventq.as_fd()),
                ..Companions::default()
            };
            attach.attach_with(&desc(*device), &companions)?;
        }
        Ok(())
    }

    /// A HOLD or UNHOLD that may have had an effect.
    fn hold_again(
        &mut self,
        attach: &mut AttachChannel,
        device: u32,
        hold: Hold,
    ) -> Result<(), FrontendError> {
        let unless = |wanted, result| match result {
            Err(FrontendError::Refused { errno, .. }) if errno == wanted => Ok(()),
            result => result,
        };
        if !matches!(hold, Hold::Changed(_)) {
            unless(Errno::ALREADY, attach.hold(device))?;
        }
        let aborted = match hold {
            Hold::Asked | Hold::Held => {
                self.holds.insert(device, Hold::Held);
                return Ok(());
            }
            Hold::Changed(aborted) => aborted,
            Hold::Aborted => true,
        };
        // Refused if it has had its effect.
        unless(Errno::INVAL, attach.unhold(device, aborted))?;
        self.holds.remove(&device);
        Ok(())
    }

    /// Sends the HOLD for a device, and waits for the reply of whichever process.
    pub fn hold(&mut self, device: u32) {
        self.holds.insert(device, Hold::Asked);
        let held = self.attach.as_mut().map(|attach| attach.hold(device));
        if matches!(held, Some(Ok(()))) {
            self.holds.insert(device, Hold::Held);
        }
        self.until("HOLD", |vm| vm.holds[&device] == Hold::Held);
    }

    /// The page table of a held device has been changed; the kernel has aborted its faults, or not.
    /// It faults again at once.
    pub fn unhold(&mut self, device: u32, aborted: bool) {
        if aborted {
            self.forget_aborted(device);
            self.raise(device, 1);
        }
        self.holds.insert(device, Hold::Changed(aborted));
        let attach = self.attach.as_mut();
        let unheld = attach.map(|attach| attach.unhold(device, aborted));
        if matches!(unheld, Some(Ok(()))) {
            self.holds.remove(&device);
        }
        self.until("UNHOLD", |vm| !vm.holds.contains_key(&device));
    }

    /// The kernel aborts the faults of a device while there is no back-end.
    pub fn abort_while_away(&mut self, device: u32) {
        self.backend.child.kill().unwrap();
        self.backend.child.wait().unwrap();
        self.forget_aborted(device);
        self.holds.insert(device, Hold::Aborted);
        self.until("UNHOLD", |vm| !vm.holds.contains_key(&device));
    }

    /// The kernel aborts the faults of a device. The guest is told by the device, and answers no
    /// more.
    fn forget_aborted(&mut self, device: u32) {
        self.take_answers();
        self.channels[channel_of(device)].abort(100 + device);
        self.withheld.retain(|(of, _, _)| *of != device);
        let waits =
            |fault: &Fault| fault.device == device && !self.answers.contains_key(&fault.cookie);
        let waiting = self.faults.iter().filter(|(_, fault)| waits(fault));
        let waiting: Vec<u64> = waiting.map(|(addr, _)| *addr).collect();
        for addr in waiting {
            self.faults.remove(&addr);
            self.aborted.insert(addr);
        }
    }

    fn send(&mut self, f: impl FnOnce(&mut Frontend) -> Result<u64, FrontendError>) -> Option<u64> {
        let seq = f(self.frontend.as_mut()?).ok()?;
        self.portal_seq = seq;
        Some(seq)
    }

    fn post(&mut self, command: Command) -> Option<u64> {
        let seq = self.send(|frontend| match command {
            Command::Smmu(command) => frontend.command(&command.encode()),
            Command::Reset(device) => frontend.reset(device),
        });
        Some(self.portal_base + seq?)
    }

    pub fn command(&mut self, command: Command) {
        let number = self.post(command);
        self.commands.push_back((number, command));
    }

    fn begin_drain(&mut self) {
        self.generation += 1;
        self.drained = false;
        let generation = self.generation;
        self.send(|frontend| frontend.drain(generation, LONG));
        for device in self.attached.clone() {
            self.send(|frontend| frontend.quiesced(device, generation));
        }
    }

    pub fn drain(&mut self) {
        self.drain = true;
        self.begin_drain();
    }

    pub fn release(&mut self) {
        self.drain = false;
        self.released = false;
        self.send(|frontend| frontend.release(0));
    }

    pub fn submit(&mut self, device: u32) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.copies.insert(ticket, device);
        self.send(|frontend| frontend.submit(device, &submission(ticket)));
    }

    /// A group of faults.
    pub fn raise(&mut self, device: u32, records: u32) {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let mut group = Vec::new();
        for n in 0..records {
            let addr = u64::from(cookie * 16 + n) << 12;
            let last = if n + 1 == records {
                PGFAULT_LAST_PAGE
            } else {
                0
            };
            group.push(PgFault {
                flags: U32::new(PGFAULT_PASID_VALID | last),
                dev_id: U32::new(100 + device),
                pasid: U32::new(1),
                grpid: U32::new(cookie % 512),
                perm: U32::new(PERM_READ),
                reserved: U32::ZERO,
                addr: U64::new(addr),
                length: U32::ZERO,
                cookie: U32::new(cookie),
            });
            let fault = Fault {
                device,
                cookie,
                seen: false,
            };
            self.faults.insert(addr, fault);
        }
        self.channels[channel_of(device)].raise(cookie, &group);
    }

    /// The kernel has lost an event of device 0.
    pub fn lose_event(&mut self, sequence: u32) {
        // IOMMU_VEVENTQ_FLAG_LOST_EVENTS and the number: as many bytes as an eventfd has.
        let header = 1 | (u64::from(sequence) << 32);
        rustix::io::write(&self.veventq, &header.to_ne_bytes()).unwrap();
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Smmu { record, .. } => {
                let event = EventRecord::decode(record).expect("a stall");
                if self.aborted.contains(&event.addr) {
                    return;
                }
                let fault = self
                    .faults
                    .get_mut(&event.addr)
                    .expect("a fault of the device");
                assert!(!fault.seen, "seen twice: {event:?}");
                fault.seen = true;
                let (device, cookie) = (fault.device, fault.cookie);
                assert_eq!(event.sid, 0x10 + device);
                // What the answer is depends on the fault alone.
                let code = if cookie % 3 == 0 {
                    ResponseCode::Invalid
                } else {
                    ResponseCode::Success
                };
                let complete = self
                    .faults
                    .values()
                    .all(|other| other.cookie != cookie || other.seen);
                let command = if device == PRI {
                    SmmuCommand::PriResp {
                        sid: event.sid,
                        ssid: event.ssid,
                        group: cookie % 512,
                        code,
                    }
                } else {
                    SmmuCommand::Resume {
                        sid: event.sid,
                        stag: event.stag,
                        code,
                    }
                };
                self.given.entry(cookie).or_insert(code);
                if device == PRI && !complete {
                    return;
                }
                if self.withhold {
                    self.withheld.push((device, cookie, Command::Smmu(command)));
                } else {
                    self.command(Command::Smmu(command));
                }
            }
            Event::Replay { submission: s, .. } => {
                let ticket = s.ticket.get();
                assert_eq!(*s, submission(ticket));
                assert!(!self.drain || !self.drained, "replayed while drained");
                if self.copies.remove(&ticket).is_some() {
                    self.executed.push(ticket);
                }
            }
            Event::Drained(drained) => {
                if drained.generation.get() == self.generation {
                    self.drained = true;
                }
            }
            Event::Released(_) => self.released = true,
            Event::EventsLost { device: 0, count } => self.events_lost += count,
            other => panic!("{other:?}"),
        }
    }

    /// What the devices have been answered.
    fn take_answers(&mut self) {
        for channel in &mut self.channels {
            for (cookie, code) in channel.take_answers() {
                let before = self.answers.insert(cookie, code);
                if let Some(before) = before {
                    assert!(!channel.is_kernel(), "answered twice");
                    assert_eq!(before, code, "answered in two ways");
                    self.again += 1;
                }
            }
        }
    }

    /// Serves everybody until something is so; whenever the process has ended another is started.
    pub fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < 3 * HANG, "{what}: {self:?}");
            let ended = self.backend.child.try_wait().unwrap().is_some();
            loop {
                let next = self.frontend.as_mut().map(Frontend::next_event);
                match next.expect("connected") {
                    Ok(Some(event)) => self.take(&event),
                    Ok(None) => break,
                    Err(e) => panic!("{e}"),
                }
            }
            self.take_answers();
            if ended {
                self.lost();
                self.connect();
                continue;
            }
            if self.backend.is_stopped() {
                self.give_up();
                self.connect();
                continue;
            }
            if done(self) {
                return;
            }
            thread::sleep(Duration::from_micros(100));
        }
    }

    pub fn answered(&self) -> bool {
        let groups: BTreeSet<u32> = self.faults.values().map(|fault| fault.cookie).collect();
        groups.len() == self.answers.len()
    }

    /// What the guest has not answered of a device it never will.
    fn abort(&mut self, device: u32) {
        for (of, cookie, _) in &self.withheld {
            if *of == device {
                self.given.insert(*cookie, ResponseCode::Invalid);
            }
        }
        self.withheld.retain(|(of, _, _)| *of != device);
    }

    /// All faults of a device have been seen, and none has been answered since `withhold`.
    pub fn stall_term(&mut self, device: u32) {
        self.abort(device);
        let sid = 0x10 + device;
        self.command(Command::Smmu(SmmuCommand::StallTerm { sid }));
    }

    /// As `stall_term`.
    pub fn reset(&mut self, device: u32) {
        self.abort(device);
        self.drop_copies(device);
        self.command(Command::Reset(device));
    }

    /// The state, when the VM has been stopped and nothing is outstanding.
    pub fn save(&mut self) -> Vec<u8> {
        self.stopped = true;
        loop {
            self.until("what has been sent", Self::sent);
            let frontend = self.frontend.as_mut().unwrap();
            match frontend.stop().and_then(|()| frontend.save()) {
                Ok(state) => return state,
                Err(e) => {
                    self.wait_ended(&e);
                    self.lost();
                    self.connect();
                }
            }
        }
    }

    /// Goes on with a saved state, another back-end and another front end. If the back-end ends
    /// before the state has been loaded, it is loaded again, into a memory that has never been
    /// used, or the front end goes on with its copies (`by_copies`).
    pub fn load(&mut self, saved: &[u8], by_copies: bool) {
        self.disconnect();
        self.backend = Backend::start();
        self.fresh_memory();
        self.start_next();
        self.generation = 0;
        self.drained = false;
        let data = state::decode(saved).unwrap();
        let pending: BTreeMap<u64, u32> = data
            .pending
            .iter()
            .map(|message| {
                let submission: vhost_user_vsva::wire::Submission = message.payload();
                (submission.ticket.get(), message.device.get())
            })
            .collect();
        assert_eq!(pending, self.copies, "what is pending");
        assert_eq!(data.general.next_ticket, self.next_ticket);
        while let Err(e) = self.try_load(saved) {
            self.wait_ended(&e);
            self.lost();
            if by_copies {
                self.connect();
                return;
            }
            self.fresh_memory();
        }
    }

    fn fresh_memory(&mut self) {
        self.memory = SharedMemory::with_recovery(2, self.room).unwrap();
        (self.event_base, self.portal_base, self.portal_seq) = (0, 0, 0);
    }

    fn try_load(&mut self, saved: &[u8]) -> Result<(), FrontendError> {
        let mut frontend = self.negotiate()?;
        let mut attach = frontend.attach_channel()?;
        attach.share_memory(&self.memory)?;
        self.attach_all(&mut attach)?;
        frontend.load(saved)?;
        frontend.start()?;
        self.frontend = Some(frontend);
        self.attach = Some(attach);
        Ok(())
    }

    /// The VM runs again, and what is pending is executed.
    pub fn go_on(&mut self) {
        self.stopped = false;
        self.release();
    }

    /// The whole VM is reset, and its devices with it: the back-end begins anew.
    pub fn reset_all(&mut self) {
        self.disconnect();
        loop {
            let reset = self
                .negotiate()
                .and_then(|mut frontend| frontend.reset_backend());
            match reset {
                Ok(()) => break,
                Err(e) => {
                    self.wait_ended(&e);
                    self.lost();
                }
            }
        }
        self.fresh_memory();
        self.channels = Channel::all();
        self.faults.clear();
        self.given.clear();
        self.answers.clear();
        self.withheld.clear();
        self.commands.clear();
        self.copies.clear();
        self.executed.clear();
        self.dropped.clear();
        self.holds.clear();
        self.attached = (0..DEVICES).collect();
        self.next_ticket = 0;
        self.drain = false;
        self.connect();
    }

    fn drop_copies(&mut self, device: u32) {
        let of_device = self.copies.iter().filter(|(_, of)| **of == device);
        self.dropped.extend(of_device.map(|(ticket, _)| *ticket));
        self.copies.retain(|_, of| *of != device);
    }

    pub fn detach(&mut self, device: u32) {
        self.abort(device);
        self.drop_copies(device);
        self.detaching.insert(device);
        let detached = self.attach.as_mut().map(|attach| attach.detach(device));
        if matches!(detached, Some(Ok(()))) {
            self.detached(device);
        }
    }

    fn detached(&mut self, device: u32) {
        self.detaching.remove(&device);
        self.holds.remove(&device);
        self.attached.remove(&device);
    }

    pub fn answer_withheld(&mut self) {
        self.withhold = false;
        for (_, _, command) in std::mem::take(&mut self.withheld) {
            self.command(command);
        }
    }

    /// Whether everything that has been sent has taken effect.
    pub fn sent(&self) -> bool {
        self.memory.portal_taken().unwrap() == self.portal_base + self.portal_seq
    }

    /// Whether every command of the guest has taken effect.
    pub fn caught_up(&self) -> bool {
        let taken = self.memory.portal_taken().unwrap();
        let has = |number: Option<u64>| number.is_some_and(|number| number <= taken);
        self.commands.iter().all(|(number, _)| has(*number))
    }

    pub fn seen(&self) -> bool {
        self.faults.values().all(|fault| fault.seen)
    }

    pub fn check(&mut self) {
        self.until("answers", Self::answered);
        for (addr, fault) in &self.faults {
            if self.attached.contains(&fault.device) {
                assert!(fault.seen, "{addr:#x} was not seen: {fault:?}");
                let given = self.given[&fault.cookie];
                assert_eq!(self.answers[&fault.cookie], given, "{fault:?}");
            }
        }
        let kept = |ticket: &u64| !self.dropped.contains(ticket);
        let tickets: Vec<u64> = (0..self.next_ticket).filter(kept).collect();
        let executed: Vec<u64> = self.executed.iter().copied().filter(kept).collect();
        assert_eq!(executed, tickets);
    }
}

impl std::fmt::Debug for Vm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vm")
            .field("kills", &self.kills)
            .field("faults", &self.faults)
            .field("given", &self.given)
            .field("answers", &self.answers)
            .field("copies", &self.copies)
            .field("commands", &self.commands)
            .field("drained", &self.drained)
            .field("released", &self.released)
            .field("status", &self.memory.status())
            .finish()
    }
}
