// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Back-ends that are killed while they serve, and followed by others: section 11 of the protocol
//! on the kernel's own fault file. The kernel gives a cookie twice and lists none, so each fault is
//! answered once only if the order of the stores is right; the SMMU counts the CMD_RESUMEs.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use vhost_user_vsva::{
    frontend::{AttachChannel, Event, Frontend, FrontendError, Options, SharedMemory},
    wire::{EventRecord, ResponseCode},
};

use super::{
    common::{page, raise_on, resume},
    Platform,
};
use crate::{
    backend::Backend,
    hardware::{AccessId, Hardware},
    session::{access, attachment},
    tally,
    testdev::Outcome,
    wait::{until, LIMIT},
};

const DEVICES: usize = 2;
const KILLS: u32 = 40;
/// Outstanding at a time.
const DEPTH: usize = 32;
/// The longest time from one start to the next kill is at least this, and twice as long as the
/// first start has taken: an emulated machine is slow.
const LIFE_US: u64 = 20_000;
/// So many in succession may be killed before they serve.
const EARLY: u32 = 4;

/// What the owner of the devices keeps over the back-ends.
struct Owner {
    hardware: Box<dyn Hardware>,
    memory: SharedMemory,
    backend: Backend,
    connection: Option<(Frontend, AttachChannel)>,
    event_base: u64,
    portal_base: u64,
    /// Commands, and their numbers.
    commands: VecDeque<(u64, [u8; 16])>,
    /// Addresses of faults that the guest has not seen.
    unseen: BTreeSet<u64>,
    accesses: Vec<AccessId>,
    /// Faults seen and not known to be answered, by number of their command.
    under_way: BTreeMap<u64, u64>,
    random: u64,
    life_us: u64,
}

impl Owner {
    fn start(hardware: Box<dyn Hardware>) -> Self {
        let start = Instant::now();
        let backend = Backend::start();
        let room = negotiate(&backend)
            .and_then(|mut frontend| frontend.config())
            .expect("GET_CONFIG")
            .recovery_room
            .get();
        let mut owner = Owner {
            hardware,
            memory: SharedMemory::with_recovery(1, room).expect("shared memory"),
            backend,
            connection: None,
            event_base: 0,
            portal_base: 0,
            commands: VecDeque::new(),
            unseen: BTreeSet::new(),
            accesses: Vec::new(),
            under_way: BTreeMap::new(),
            random: 1,
            life_us: LIFE_US,
        };
        owner.connect().expect("the first connection");
        let took = u64::try_from(start.elapsed().as_micros()).expect("a short time");
        owner.life_us = LIFE_US.max(2 * took);
        owner
    }

    fn connect(&mut self) -> Result<(), FrontendError> {
        let mut frontend = negotiate(&self.backend)?;
        self.memory.go_on_at(self.event_base, 0)?;
        self.portal_base = self.memory.portal_taken()?;
        let mut attach = frontend.attach_channel()?;
        attach.share_memory(&self.memory)?;
        for device in 0..DEVICES {
            let fd = (device == 0).then(|| self.hardware.fault_fd());
            attach.attach(&attachment(&*self.hardware, device), fd)?;
        }
        frontend.start()?;
        let taken = self.portal_base;
        self.commands.retain(|(number, _)| *number > taken);
        for (number, command) in &mut self.commands {
            *number = taken + frontend.command(command)?;
        }
        frontend.release(0)?;
        self.connection = Some((frontend, attach));
        Ok(())
    }

    /// The back-end has ended: what it has sent is taken, and the next one goes on; it is killed as
    /// well if `mortal`. Returns how many have ended.
    fn follow(&mut self, mortal: bool) -> u32 {
        self.take_events();
        let mut ended = 0;
        if let Some((frontend, _)) = self.connection.take() {
            self.event_base += frontend.events_taken();
        }
        loop {
            ended += 1;
            let next = Backend::start();
            std::mem::replace(&mut self.backend, next).kill();
            let early = mortal && ended <= EARLY;
            if early {
                self.kill_later();
            }
            match self.connect() {
                Ok(()) => {
                    if mortal && !early {
                        self.kill_later();
                    }
                    return ended;
                }
                Err(e) => assert!(ends(&mut self.backend), "it lives, but {e}"),
            }
        }
    }

    fn below(&mut self, most: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005) | 1;
        (self.random >> 33) % most
    }

    /// Some are killed before they have recovered.
    fn kill_later(&mut self) {
        let life = Duration::from_micros(self.below(self.life_us));
        let kill = self.backend.killer();
        thread::spawn(move || {
            thread::sleep(life);
            kill();
        });
    }

    /// Keeps faults outstanding, as many as there may be.
    fn raise(&mut self) {
        while self.unseen.len() + self.under_way.len() < DEPTH {
            let number = self.accesses.len() as u64;
            let device = self.accesses.len() % DEVICES;
            let id = raise_on(&mut *self.hardware, device, number);
            self.unseen.insert(page(number));
            self.accesses.push(id);
        }
    }

    /// Answers each fault that has come.
    fn take_events(&mut self) {
        let Some((mut frontend, attach)) = self.connection.take() else {
            return;
        };
        while let Some(event) = frontend.next_event().expect("event ring") {
            let record = match event {
                Event::Smmu { record, .. } => record,
                Event::Released(_) => continue,
                other => panic!("{other:?} where a record was expected"),
            };
            let event = EventRecord::decode(&record).expect("a stall event");
            assert!(self.unseen.remove(&event.addr), "seen twice: {event:?}");
            self.hardware.resolve_shared(&access(&event)).expect("page");
            let command = resume(&event, ResponseCode::Success).encode();
            let seq = frontend.command(&command).expect("portal ring");
            let number = self.portal_base + seq;
            self.commands.push_back((number, command));
            self.under_way.insert(number, event.addr);
        }
        let taken = self.memory.portal_taken().expect("shared memory");
        self.under_way.retain(|number, _| *number > taken);
        self.connection = Some((frontend, attach));
    }
}

/// Whether it has ended, or does so soon.
fn ends(backend: &mut Backend) -> bool {
    let start = Instant::now();
    while !backend.has_ended() {
        if start.elapsed() > LIMIT {
            return false;
        }
        thread::yield_now();
    }
    true
}

fn negotiate(backend: &Backend) -> Result<Frontend, FrontendError> {
    let options = Options {
        timeout: LIMIT,
        ..Options::default()
    };
    // The socket goes with a process that has ended.
    let stream = UnixStream::connect(backend.socket()).map_err(|source| FrontendError::System {
        what: "cannot connect to the back-end",
        source,
    })?;
    Frontend::negotiate(stream, &options)
}

pub fn test_backends_killed_at_random_answer_each_fault_once(platform: Platform) {
    let mut owner = Owner::start(platform.hardware(DEVICES));
    let mut kills = 0;
    owner.kill_later();

    while kills < KILLS {
        owner.raise();
        owner.take_events();
        if owner.backend.has_ended() {
            kills += owner.follow(true);
        }
    }
    until("the last kill", || owner.backend.has_ended().then_some(()));
    kills += owner.follow(false);
    until("the last answer", || {
        owner.take_events();
        (owner.unseen.is_empty() && owner.under_way.is_empty()).then_some(())
    });

    let faults = owner.accesses.len() as u64;
    println!("vsva-rig: figure kills={kills}");
    println!("vsva-rig: figure faults={faults}");
    tally::retried(faults);
    if owner.hardware.tells_outcomes() {
        for id in owner.accesses.split_off(owner.accesses.len() - DEPTH) {
            let outcome = until("the end of the access", || owner.hardware.outcome(id));
            let done = matches!(outcome, Outcome::Done { .. });
            assert!(done, "{id:?} ended with {outcome:?}");
        }
        let mut completed = 0;
        for device in 0..DEVICES {
            until("a quiet device", || {
                owner.hardware.is_quiet(device).then_some(())
            });
            assert_eq!(owner.hardware.aborts(device), Some(0));
            completed += owner.hardware.completed(device).expect("it tells");
        }
        assert_eq!(completed, faults);
    }
    let (mut frontend, _attach) = owner.connection.take().expect("connected");
    let config = frontend.config().expect("GET_CONFIG");
    assert_eq!(config.outstanding.get(), 0, "faults outstanding");
}
