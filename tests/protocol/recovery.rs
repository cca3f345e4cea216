// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The back-end is killed at every place at which that could matter, and another goes on.
//!
//! The device is the oracle: each of its faults gets one answer, and the one that the guest gave.
//! So is the guest: it sees each fault once. So is the portal: each submission is executed once, in
//! order.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::Read,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    thread,
    time::{Duration, Instant},
};

use vhost_user_vsva::{
    core::Phase,
    frontend::{Attachment, Event, Frontend, FrontendError, SharedMemory},
    wire::{
        EventRecord, PageResponse, PgFault, ResponseCode, SmmuCommand, PAGE_RESPONSE_SIZE,
        PERM_READ, PGFAULT_LAST_PAGE, PGFAULT_PASID_VALID, U32, U64,
    },
};
use zerocopy::{FromBytes, IntoBytes};

use crate::support::{attachment, options, submission, Backend, HANG, LONG};

/// Two devices on one channel, and one with page requests.
const DEVICES: u32 = 3;
const PRI: u32 = 2;

fn channel_of(device: u32) -> usize {
    (device / 2) as usize
}

/// A fault as the device knows it.
#[derive(Debug)]
struct Fault {
    device: u32,
    cookie: u32,
    /// The guest has seen it.
    seen: bool,
}

/// The device's end of a fault channel, and the descriptor that the front end keeps.
struct Channel {
    device: UnixStream,
    fd: OwnedFd,
}

/// What the front end has to keep.
struct Vm {
    backend: Backend,
    memory: SharedMemory,
    frontend: Option<Frontend>,
    attach: Option<vhost_user_vsva::frontend::AttachChannel>,
    channels: [Channel; 2],
    attached: BTreeSet<u32>,
    /// Messages that the front end has taken before this connection.
    event_base: u64,
    portal_base: u64,
    /// Commands and resets: their number, once they have been sent.
    commands: VecDeque<(Option<u64>, Command)>,
    /// The guest does not answer for now, but keeps what it would.
    withhold: bool,
    withheld: Vec<(u32, u32, Command)>,
    detaching: BTreeSet<u32>,
    dropped: BTreeSet<u64>,
    /// Submissions that have not been executed.
    copies: BTreeMap<u64, u32>,
    executed: Vec<u64>,
    next_ticket: u64,
    /// A drain that is wanted, its generation, and whether it has ended.
    drain: bool,
    generation: u64,
    drained: bool,
    released: bool,
    faults: BTreeMap<u64, Fault>,
    next_cookie: u32,
    /// What the guest has answered, by cookie.
    given: BTreeMap<u32, ResponseCode>,
    answers: BTreeMap<u32, ResponseCode>,
    again: u32,
    kills: u32,
    /// Where the next process ends.
    fail_at: VecDeque<String>,
}

#[derive(Clone, Copy, Debug)]
enum Command {
    Smmu(SmmuCommand),
    Reset(u32),
}

fn desc(device: u32) -> Attachment {
    Attachment {
        channel: device / 2,
        pri: device == PRI,
        ..attachment(device)
    }
}

impl Vm {
    /// The processes end at these places, one after the other.
    fn new(fail_at: &[String]) -> Self {
        let backend = Backend::start();
        let room = backend.negotiate().config().unwrap().recovery_room.get();
        let memory = SharedMemory::with_recovery(1, room).unwrap();
        let channels = [(); 2].map(|()| {
            let (device, fd) = UnixStream::pair().unwrap();
            device.set_nonblocking(true).unwrap();
            Channel {
                device,
                fd: fd.into(),
            }
        });
        let mut vm = Self {
            backend,
            memory,
            frontend: None,
            attach: None,
            channels,
            attached: (0..DEVICES).collect(),
            event_base: 0,
            portal_base: 0,
            commands: VecDeque::new(),
            withhold: false,
            withheld: Vec::new(),
            detaching: BTreeSet::new(),
            dropped: BTreeSet::new(),
            copies: BTreeMap::new(),
            executed: Vec::new(),
            next_ticket: 0,
            drain: false,
            generation: 0,
            drained: false,
            released: false,
            faults: BTreeMap::new(),
            next_cookie: 1,
            given: BTreeMap::new(),
            answers: BTreeMap::new(),
            again: 0,
            kills: 0,
            fail_at: fail_at.iter().cloned().collect(),
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
            let start = Instant::now();
            while self.backend.child.try_wait().unwrap().is_none() {
                assert!(start.elapsed() < HANG, "it lives, but {e}");
                thread::yield_now();
            }
            self.lost();
        }
    }

    /// The process has ended: what it has sent is taken, and another is started.
    fn lost(&mut self) {
        self.kills += 1;
        if let Some(mut frontend) = self.frontend.take() {
            while let Some(event) = frontend.next_event().unwrap() {
                self.take(&event);
            }
            self.event_base += frontend.events_taken();
        }
        self.attach = None;
        self.start_next();
    }

    fn try_connect(&mut self) -> Result<(), FrontendError> {
        let stream = self.backend.stream();
        let mut frontend = Frontend::negotiate(stream, &options())?;
        let next = self.copies.keys().next().copied();
        let first = next.unwrap_or(self.next_ticket);
        self.memory.go_on_at(self.event_base, first)?;
        self.portal_base = self.memory.portal_taken()?;
        let mut attach = frontend.attach_channel()?;
        attach.share_memory(&self.memory)?;
        let mut open = BTreeSet::new();
        for device in &self.attached {
            let channel = channel_of(*device);
            let fd = open
                .insert(channel)
                .then(|| self.channels[channel].fd.as_fd());
            attach.attach(&desc(*device), fd)?;
        }
        for device in self.detaching.clone() {
            attach.detach(device)?;
            self.detached(device);
        }
        frontend.start()?;
        self.frontend = Some(frontend);
        self.attach = Some(attach);
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
        if self.drain {
            self.begin_drain();
        } else {
            self.released = false;
            self.send(|frontend| frontend.release(0));
        }
        Ok(())
    }

    fn send<R>(&mut self, f: impl FnOnce(&mut Frontend) -> Result<R, FrontendError>) -> Option<R> {
        f(self.frontend.as_mut()?).ok()
    }

    fn post(&mut self, command: Command) -> Option<u64> {
        let seq = self.send(|frontend| match command {
            Command::Smmu(command) => frontend.command(&command.encode()),
            Command::Reset(device) => frontend.reset(device),
        });
        Some(self.portal_base + seq?)
    }

    fn command(&mut self, command: Command) {
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

    fn drain(&mut self) {
        self.drain = true;
        self.begin_drain();
    }

    fn release(&mut self) {
        self.drain = false;
        self.released = false;
        self.send(|frontend| frontend.release(0));
    }

    fn submit(&mut self, device: u32) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.copies.insert(ticket, device);
        self.send(|frontend| frontend.submit(device, &submission(ticket)));
    }

    /// A group of faults.
    fn raise(&mut self, device: u32, records: u32) {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let mut bytes = Vec::new();
        for n in 0..records {
            let addr = u64::from(cookie * 16 + n) << 12;
            let last = if n + 1 == records {
                PGFAULT_LAST_PAGE
            } else {
                0
            };
            let record = PgFault {
                flags: U32::new(PGFAULT_PASID_VALID | last),
                dev_id: U32::new(100 + device),
                pasid: U32::new(1),
                grpid: U32::new(cookie % 512),
                perm: U32::new(PERM_READ),
                reserved: U32::ZERO,
                addr: U64::new(addr),
                length: U32::ZERO,
                cookie: U32::new(cookie),
            };
            bytes.extend_from_slice(record.as_bytes());
            let fault = Fault {
                device,
                cookie,
                seen: false,
            };
            self.faults.insert(addr, fault);
        }
        use std::io::Write;
        self.channels[channel_of(device)]
            .device
            .write_all(&bytes)
            .unwrap();
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Smmu { record, .. } => {
                let event = EventRecord::decode(record).expect("a stall");
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
            other => panic!("{other:?}"),
        }
    }

    /// What the devices have been answered.
    fn take_answers(&mut self) {
        for channel in &mut self.channels {
            let mut bytes = [0; PAGE_RESPONSE_SIZE];
            while let Ok(PAGE_RESPONSE_SIZE) = channel.device.read(&mut bytes) {
                let answer = PageResponse::read_from_bytes(&bytes).unwrap();
                let code = match answer.code.get() {
                    0 => ResponseCode::Success,
                    _ => ResponseCode::Invalid,
                };
                let before = self.answers.insert(answer.cookie.get(), code);
                if let Some(before) = before {
                    assert_eq!(before, code, "answered in two ways");
                    self.again += 1;
                }
            }
        }
    }

    /// Serves everybody until something is so; whenever the process has ended another is started.
    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
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
            if done(self) {
                return;
            }
            thread::sleep(Duration::from_micros(100));
        }
    }

    fn answered(&self) -> bool {
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
    fn stall_term(&mut self, device: u32) {
        self.abort(device);
        let sid = 0x10 + device;
        self.command(Command::Smmu(SmmuCommand::StallTerm { sid }));
    }

    /// As `stall_term`.
    fn reset(&mut self, device: u32) {
        self.abort(device);
        self.drop_copies(device);
        self.command(Command::Reset(device));
    }

    fn drop_copies(&mut self, device: u32) {
        let of_device = self.copies.iter().filter(|(_, of)| **of == device);
        self.dropped.extend(of_device.map(|(ticket, _)| *ticket));
        self.copies.retain(|_, of| *of != device);
    }

    fn detach(&mut self, device: u32) {
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
        self.attached.remove(&device);
    }

    fn answer_withheld(&mut self) {
        self.withhold = false;
        for (_, _, command) in std::mem::take(&mut self.withheld) {
            self.command(command);
        }
    }

    /// Whether every command of the guest has taken effect.
    fn caught_up(&self) -> bool {
        let taken = self.memory.portal_taken().unwrap();
        let has = |number: Option<u64>| number.is_some_and(|number| number <= taken);
        self.commands.iter().all(|(number, _)| has(*number))
    }

    fn seen(&self) -> bool {
        self.faults.values().all(|fault| fault.seen)
    }

    fn check(&mut self) {
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

/// Everything that there is once, with the processes ending where they are told to. Returns how many
/// have.
fn scenario(fail_at: &[String]) -> u32 {
    let mut vm = Vm::new(fail_at);
    vm.raise(0, 1);
    vm.until("an answer", |vm| vm.answers.len() == 1);
    vm.submit(0);
    vm.raise(1, 2);
    vm.raise(0, 1);
    vm.raise(PRI, 3);
    vm.submit(1);
    vm.until("four answers", |vm| vm.answers.len() == 4);
    vm.until("an empty queue", |vm| vm.copies.is_empty());
    vm.drain();
    vm.raise(0, 1);
    vm.submit(0);
    vm.submit(PRI);
    vm.until("a drain", |vm| vm.drained);
    assert_eq!(vm.copies.len(), 2);
    vm.release();
    vm.submit(1);
    vm.until("a release", |vm| vm.released && vm.copies.is_empty());
    vm.withhold = true;
    for device in 0..DEVICES {
        vm.raise(device, 1);
    }
    vm.until("events", Vm::seen);
    vm.stall_term(0);
    vm.submit(1);
    vm.reset(1);
    vm.until("two answers", |vm| {
        vm.answers.len() + 1 == vm.next_cookie as usize - 1
    });
    vm.detach(PRI);
    vm.until("answers", Vm::answered);
    vm.withhold = false;
    vm.raise(0, 1);
    vm.raise(1, 1);
    vm.submit(0);
    vm.until("an empty queue", |vm| vm.copies.is_empty());
    vm.check();
    vm.until("the phase RUNNING", |vm| {
        let status = vm.memory.status();
        status.is_some_and(|status| status.phase.get() == Phase::Running as u32)
    });
    vm.kills
}

#[test]
fn test_back_end_that_never_ends_serves_everybody_once() {
    assert_eq!(scenario(&[]), 0);
}

fn every(place: &str, step: usize) {
    for number in (1..).step_by(step) {
        let kills = scenario(&[format!("{place}:{number}")]);
        if kills == 0 {
            assert!(number > 1, "{place} is never passed");
            return;
        }
    }
}

#[test]
fn test_kill_at_every_step_loses_and_doubles_nothing() {
    every("step", 1);
}

#[test]
fn test_kill_after_every_step_loses_and_doubles_nothing() {
    every("stepped", 1);
}

#[test]
fn test_kill_around_every_read_loses_and_doubles_nothing() {
    every("read", 1);
    every("has read", 1);
}

#[test]
fn test_kill_around_every_answer_loses_and_doubles_nothing() {
    every("write", 1);
    every("has written", 1);
}

#[test]
fn test_kill_around_every_message_loses_and_doubles_nothing() {
    every("emitted", 1);
    every("portal", 1);
    every("taken", 1);
}

/// All of them take long: VSVA_KILL_EVERY=1.
#[test]
fn test_kill_at_stores_loses_and_doubles_nothing() {
    let step = std::env::var("VSVA_KILL_EVERY").ok();
    let step = step.map_or(97, |step| step.parse().unwrap());
    every("store", step);
}

#[test]
fn test_kill_during_a_recovery_loses_and_doubles_nothing() {
    for first in ["has read:3", "has written:2", "emitted:2", "taken:2"] {
        for then in [
            "recover:1",
            "finish:1",
            "step:1",
            "store:9",
            "read:1",
            "store:40",
        ] {
            let kills = scenario(&[first.to_owned(), then.to_owned()]);
            assert!(kills >= 1, "{first} {then}");
        }
    }
}

/// Numbers that are as good as random, and the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

fn variable(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("a number"))
}

/// VSVA_KILLS: how many; VSVA_SEED: those of another run.
#[test]
fn test_kills_at_random_places_under_load_lose_and_double_nothing() {
    let kills = variable("VSVA_KILLS").unwrap_or(40);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = variable("VSVA_SEED").unwrap_or(now.unwrap().as_secs());
    eprintln!("VSVA_KILLS={kills} VSVA_SEED={seed}");
    let mut random = Random(seed);
    let mut vm = Vm::new(&[format!("store:{}", 1 + random.below(300))]);
    while u64::from(vm.kills) < kills {
        if vm.fail_at.is_empty() {
            // Some end by themselves, in the middle of a step or of a recovery; others are killed.
            let most = [10, 100, 600, 3000][usize::try_from(random.below(4)).unwrap()];
            let place = format!("store:{}", 1 + random.below(most));
            vm.fail_at.push_back(place);
        }
        match random.below(12) {
            0..=4 => {
                let device = u32::try_from(random.below(3)).unwrap();
                let records = 1 + u32::try_from(random.below(3)).unwrap();
                vm.raise(device, if device == PRI { records } else { 1 });
            }
            5..=6 => {
                if vm.copies.len() < 100 {
                    vm.submit(u32::try_from(random.below(3)).unwrap());
                }
            }
            7 => vm.withhold = true,
            8 => vm.answer_withheld(),
            9 if !vm.drain => {
                vm.answer_withheld();
                vm.drain();
            }
            9 => vm.release(),
            10 => {
                vm.withhold = true;
                vm.until("events", Vm::seen);
                let device = u32::try_from(random.below(3)).unwrap();
                if random.below(2) == 0 {
                    vm.reset(device);
                } else {
                    vm.stall_term(device);
                }
                vm.answer_withheld();
                // A fault that comes before the command would be meant by it.
                vm.until("commands", Vm::caught_up);
                vm.until("answers", Vm::answered);
            }
            _ => {
                if random.below(4) == 0 {
                    let _ = vm.backend.child.kill();
                }
                let calls = random.below(20);
                for _ in 0..calls {
                    vm.until("nothing", |_| true);
                }
            }
        }
        if random.below(8) == 0 {
            vm.answer_withheld();
            vm.until("answers", Vm::answered);
        }
    }
    vm.fail_at.clear();
    vm.answer_withheld();
    vm.release();
    vm.until("an empty queue", |vm| vm.copies.is_empty());
    vm.check();
    eprintln!(
        "{} faults, {} submissions, {} answers came again",
        vm.next_cookie - 1,
        vm.next_ticket,
        vm.again
    );
}
