// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The state machine and everything it talks to, shared by all threads.
//!
//! The core's lock is held for pure steps only. What a step wants done (answers to write, channels to
//! read, events to deliver) is done by the thread that made the step, in [`Shell::settle`], so nothing
//! waits for another thread to wake up.
//!
//! Order of locks: portal, attach channel, channel table, channel reader, channel writer, rings, ring, core.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc, Mutex, MutexGuard, OnceLock,
    },
};

use rustix::net::SocketAddrAny;
use rustix::time::{
    clock_gettime, timerfd_create, timerfd_settime, ClockId, Itimerspec, TimerfdClockId,
    TimerfdFlags, TimerfdTimerFlags, Timespec,
};
use zerocopy::FromZeros;

use super::{
    channels::channel::{Channel, Role},
    connection::rings::{Delivered, Rings},
    events::Events,
    published::{shared_memory::SharedMemory, LoggedCore, PublishedCore},
    wait::{poller::Poller, wake::Wake},
};
use crate::{
    core::{Core, Limits, PortalError},
    error::Error,
    lock::lock,
    wire::{ConfigSpace, LostReason, Message, PageResponse, DEVICE_NONE},
};

/// The fault channels by their number.
pub type Channels = BTreeMap<u32, Arc<Channel>>;

/// What outlives a connection.
pub struct Shell {
    core: Mutex<PublishedCore>,
    /// Copied when it changes, so that going through it needs neither its lock nor a copy.
    pub channels: Mutex<Arc<Channels>>,
    next_token: AtomicU64,
    rings: Mutex<Option<Rings>>,
    /// A vEVENTQ waits for room in the core.
    pub events_blocked: AtomicBool,
    pub poller: Poller,
    timer: OwnedFd,
    /// What the timer is set to, in the core's nanoseconds; 0: nothing.
    armed: Mutex<u64>,
    /// Wakes the engine.
    wake: Wake,
    /// Of the listening socket.
    pub address: OnceLock<SocketAddrAny>,
    /// Where the shell's own steps are told.
    pub events: Events,
}

impl Shell {
    /// A device without connection.
    pub fn new(limits: Limits, events: Events, wake: Wake) -> Result<Self, Error> {
        let mut core =
            Core::new(limits, events.clone()).map_err(crate::config::ConfigError::from)?;
        // The library's own seed for maps, which is random.
        core.set_seed(RandomState::new().hash_one(0));
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )
        .map_err(io::Error::from)
        .map_err(Error::system("Cannot create a timer"))?;
        Ok(Shell {
            core: Mutex::new(PublishedCore::new(core)),
            channels: Mutex::default(),
            next_token: AtomicU64::new(0),
            rings: Mutex::new(None),
            events_blocked: AtomicBool::new(false),
            poller: Poller::new().map_err(Error::system("Cannot create an epoll instance"))?,
            timer,
            armed: Mutex::new(0),
            wake,
            address: OnceLock::new(),
            events,
        })
    }

    /// Connections to `address` are the front end's own, and no fault channels.
    pub fn listens_at(&self, address: SocketAddrAny) {
        // Once in the life of the process.
        let _ = self.address.set(address);
    }

    /// Runs a pure step of the state machine. Call [`Self::settle`] after it.
    pub fn step<R>(&self, step: impl FnOnce(&mut LoggedCore, u64) -> R) -> R {
        let now = now_ns();
        self.lock().step(now, step)
    }

    /// Publishes the status in `memory`, or nowhere, from now on.
    pub fn share(&self, memory: Option<SharedMemory>) {
        let now = now_ns();
        let before = self.lock().share(memory, now);
        // Unmapped here, with no lock held.
        drop(before);
    }

    /// What GET_CONFIG answers.
    pub fn config_space(&self) -> ConfigSpace {
        let now = now_ns();
        self.lock().config_space(now)
    }

    /// The engine's descriptors.
    pub fn poller(&self) -> &Poller {
        &self.poller
    }

    pub fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Serves these rings from now on; both count their messages from 1.
    pub fn start_rings(&self, rings: Rings) {
        *self.lock_rings() = Some(rings);
    }

    /// The connection has ended.
    pub fn forget_rings(&self) {
        *self.lock_rings() = None;
    }

    /// Takes messages of the portal ring, in order, up to the first that breaks the protocol, and
    /// says how many that were. `None` is a chain that is no message.
    pub fn portal<'a>(
        &self,
        messages: impl Iterator<Item = Option<&'a Message>>,
    ) -> (usize, Result<(), PortalError>) {
        self.step(|core, now| {
            let mut done = 0;
            for message in messages {
                let result = message.map_or(Ok(()), |message| core.portal(message, now));
                if result.is_err() {
                    return (done, result);
                }
                done += 1;
            }
            (done, Ok(()))
        })
    }

    /// A descriptor of a channel is ready.
    pub fn channel_ready(&self, token: u64, readable: bool, writable: bool) {
        let found = self
            .channels()
            .values()
            .find_map(|channel| Some((channel.clone(), channel.role(token)?)));
        match found {
            None => return,
            Some((channel, Role::Faults)) => {
                if writable {
                    channel.write_blocked.store(false, Ordering::Relaxed);
                    self.write_channel(&channel);
                }
                if readable {
                    self.read_channel(&channel);
                }
                if writable {
                    // They may have been the last answers of a channel without devices.
                    self.settle();
                    return self.close_unused();
                }
            }
            Some((channel, Role::Owner)) => {
                let text = "the process that owns its devices has ended";
                self.lose(&channel, LostReason::Owner, &text);
            }
            Some((channel, Role::Events)) => self.read_events(&channel),
        }
        self.settle();
    }

    /// Does everything that the steps since the last call want done.
    pub fn settle(&self) {
        let mut probed = None;
        loop {
            let channels = self.channels();
            let mut idle = true;
            for channel in channels.values().filter(|c| self.has_answers(c)) {
                self.write_channel(channel);
                idle = false;
            }
            for channel in channels.values() {
                if self.wants_read(channel)
                    || probed != Some(channel.number) && self.is_probed(channel)
                {
                    channel.read_blocked.store(false, Ordering::Relaxed);
                    probed = Some(channel.number);
                    self.read_to_end(channel);
                    idle = false;
                }
            }
            if idle {
                break;
            }
        }
        self.deliver();
        self.unblock_events();
        self.arm();
    }

    fn has_answers(&self, channel: &Channel) -> bool {
        !channel.write_blocked.load(Ordering::Relaxed)
            && self
                .lock()
                .answers(channel.number, &mut [PageResponse::new_zeroed()])
                > 0
    }

    /// There was no room for its faults, and now there is.
    fn wants_read(&self, channel: &Channel) -> bool {
        channel.read_blocked.load(Ordering::Relaxed) && self.lock().wants_read(channel.number)
    }

    /// A drain must know whether there are more faults in it.
    fn is_probed(&self, channel: &Channel) -> bool {
        self.lock().next_probe() == Some(channel.number)
    }

    /// The deadline has come, or may have.
    pub fn tick(&self) {
        *lock(&self.armed) = 0;
        let untaken = self.step(|core, now| {
            let failed = core.counters().drains_failed;
            core.tick(now);
            (core.counters().drains_failed > failed).then(|| core.untaken())
        });
        if let Some((count, Some(device))) = untaken.filter(|(_, of)| *of != Some(DEVICE_NONE)) {
            log::warn!("drain failed: device {device} has not taken its answers, {count} wait");
        }
        self.settle();
    }

    fn deliver(&self) {
        let (delivered, rings) = {
            // Held, so that nothing is put into rings that have been forgotten.
            let rings = self.lock_rings();
            let Some(rings) = &*rings else { return };
            if !self.lock().has_event() && !rings.starving() {
                return;
            }
            (self.deliver_to(rings), rings.clone())
        };
        // The front end can make this last.
        rings.notify(delivered.call);
        if delivered.more {
            self.wake.set();
        }
        if delivered.bad_chains > 0 {
            log::warn!(
                "event ring: {} buffers are not one writable descriptor of 64 bytes",
                delivered.bad_chains
            );
        }
    }

    fn deliver_to(&self, rings: &Rings) -> Delivered {
        let now = now_ns();
        rings.deliver(|| {
            let mut message = None;
            let take = |next: &Message| {
                message = Some(*next);
                Ok::<(), std::convert::Infallible>(())
            };
            let sent = self.lock().step(now, |core, now| core.emit(now, take));
            match sent {
                Ok(true) => message,
                Ok(false) => None,
            }
        })
    }

    fn arm(&self) {
        let mut armed = lock(&self.armed);
        let deadline = self.lock().deadline().unwrap_or(0);
        if *armed == deadline {
            return;
        }
        *armed = deadline;
        let value = Timespec {
            tv_sec: i64::try_from(deadline / NS_PER_S).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(deadline % NS_PER_S).unwrap_or(0),
        };
        let spec = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: value,
        };
        if let Err(e) = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec) {
            log::error!("cannot set the timer of the drain's deadline: {e}");
        }
    }

    /// The channels as they are now.
    pub fn channels(&self) -> Arc<Channels> {
        lock(&self.channels).clone()
    }

    pub fn new_token(&self) -> u64 {
        self.next_token.fetch_add(1, Ordering::Relaxed)
    }

    pub fn forget(&self, fd: impl AsFd) {
        if let Err(e) = self.poller.remove(fd) {
            log::error!("epoll: {e}");
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, PublishedCore> {
        lock(&self.core)
    }

    fn lock_rings(&self) -> MutexGuard<'_, Option<Rings>> {
        lock(&self.rings)
    }
}

const NS_PER_S: u64 = 1_000_000_000;

/// The core's time: CLOCK_MONOTONIC, never 0.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    (seconds * NS_PER_S + nanoseconds).max(1)
}
