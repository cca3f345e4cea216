// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The state machine and everything it talks to, shared by all threads.
//!
//! The core's lock is held for pure steps only. What a step wants done (answers to write, channels to
//! read, events to deliver) is done by the thread that made the step, in [`Device::settle`], so nothing
//! waits for another thread to wake up.
//!
//! Order of locks: channel table, channel reader, channel writer, ring, core.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc, Mutex, MutexGuard, PoisonError,
    },
};

use rustix::time::{
    clock_gettime, timerfd_create, timerfd_settime, ClockId, Itimerspec, TimerfdClockId,
    TimerfdFlags, TimerfdTimerFlags, Timespec,
};
use zerocopy::FromZeros;

use super::{
    event_log::EventLog,
    fault_channel::{AnswerSource, ChannelKind, FaultChannel, FaultSink, ReadEnd, WriteEnd},
    poller::{Interest, Poller},
    recover,
    rings::Rings,
    veventq::EventQueue,
    wake::Wake,
};
use crate::{
    core::{
        AttachError, Core, DetachError, DeviceDesc, FaultError, HoldError, Limits, PortalError,
    },
    error::Error,
    wire::{ConfigSpace, LostReason, Message, PageResponse, PgFault},
};

/// The state machine with its event log.
pub type LoggedCore = Core<EventLog>;

/// A fault channel and what the engine waits for on it.
struct Channel {
    number: u32,
    token: u64,
    /// For the poller only; the same file as in `faults`.
    fd: OwnedFd,
    faults: FaultChannel,
    /// Cleared with reader and writer at rest: its number means another channel from then on.
    open: AtomicBool,
    /// The core had no room for the next fault.
    read_blocked: AtomicBool,
    /// The socket had no room for the next answer.
    write_blocked: AtomicBool,
    interest: Mutex<Interest>,
    /// Becomes readable when the process that owns the devices ends.
    owner: Option<Watched<OwnedFd>>,
    events: Mutex<Option<Arc<Events>>>,
}

/// Something that the engine waits for.
struct Watched<T> {
    token: u64,
    fd: T,
}

/// A vEVENTQ that came with a device of a channel, and lives as long as the channel.
struct Events {
    queue: Watched<EventQueue>,
    device: u32,
    /// The core had no room for the next record.
    blocked: AtomicBool,
}

/// What comes with ATTACH.
#[derive(Debug, Default)]
pub struct AttachFds {
    /// The fault channel, if it is new.
    pub faults: Option<OwnedFd>,
    /// A vEVENTQ.
    pub veventq: Option<OwnedFd>,
    /// A pidfd of the process that owns the devices.
    pub owner: Option<OwnedFd>,
    /// Another back-end may have read faults from the channel.
    pub recover: bool,
}

impl Channel {
    fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }
}

/// Why a device could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachFailure {
    /// The core refused it.
    #[error("{0}")]
    Refused(#[from] crate::core::AttachError),
    /// The descriptor cannot be used.
    #[error("fault descriptor: {0}")]
    Descriptor(#[from] io::Error),
    /// A new channel needs a descriptor.
    #[error("channel {0} is new and needs a fault descriptor")]
    NoDescriptor(u32),
    /// An existing channel has one.
    #[error("channel {0} exists and takes no descriptor")]
    ExtraDescriptor(u32),
    /// An existing channel has an owner, and its faults are known.
    #[error("channel {0} exists: no owner, no RECOVER")]
    NotNew(u32),
    /// It has one.
    #[error("channel {0} has a vEVENTQ")]
    SecondVeventq(u32),
    /// Only the kernel's faults outlive a back-end.
    #[error("channel {0} is a socket: nothing to recover")]
    NotRecoverable(u32),
}

/// What outlives a connection.
pub struct Device {
    core: Mutex<LoggedCore>,
    channels: Mutex<BTreeMap<u32, Arc<Channel>>>,
    next_token: AtomicU64,
    rings: Mutex<Option<Rings>>,
    poller: Poller,
    timer: OwnedFd,
    /// What the timer is set to, in the core's nanoseconds; 0: nothing.
    armed: Mutex<u64>,
    /// Wakes the engine.
    wake: Wake,
    /// The event log.
    pub log: EventLog,
}

impl Device {
    /// A device without connection. `log` must wake the engine through `wake`.
    pub fn new(limits: Limits, log: EventLog, wake: Wake) -> Result<Self, Error> {
        let core = Core::new(limits, log.clone()).map_err(crate::config::ConfigError::from)?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )
        .map_err(io::Error::from)
        .map_err(Error::system("Cannot create a timer"))?;
        Ok(Device {
            core: Mutex::new(core),
            channels: Mutex::default(),
            next_token: AtomicU64::new(0),
            rings: Mutex::new(None),
            poller: Poller::new().map_err(Error::system("Cannot create an epoll instance"))?,
            timer,
            armed: Mutex::new(0),
            wake,
            log,
        })
    }

    /// Runs a pure step of the state machine. Call [`Self::settle`] after it.
    pub fn step<R>(&self, step: impl FnOnce(&mut LoggedCore, u64) -> R) -> R {
        let now = now_ns();
        step(&mut self.lock(), now)
    }

    /// What GET_CONFIG answers.
    pub fn config_space(&self) -> ConfigSpace {
        let now = now_ns();
        self.lock().config_space(now)
    }

    /// The engine's descriptors.
    pub(super) fn poller(&self) -> &Poller {
        &self.poller
    }

    pub(super) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    pub(super) fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Serves these rings from now on; both count their messages from 1.
    pub fn start_rings(&self, rings: Rings) {
        *self.lock_rings() = Some(rings);
    }

    /// The rings being served.
    pub fn rings(&self) -> Option<Rings> {
        self.lock_rings().clone()
    }

    /// The connection has ended.
    pub fn forget_rings(&self) {
        *self.lock_rings() = None;
    }

    /// Takes messages of the portal ring, in order, up to the first that breaks the protocol.
    pub fn portal<'a>(
        &self,
        messages: impl Iterator<Item = &'a Message>,
    ) -> Result<(), PortalError> {
        let now = now_ns();
        let mut core = self.lock();
        for message in messages {
            core.portal(message, now)?;
        }
        Ok(())
    }

    /// Attaches a device to an existing channel, or to a new one made from `fd`.
    ///
    /// Returns how many faults of a former back-end were aborted.
    pub fn attach(&self, desc: &DeviceDesc, fds: AttachFds) -> Result<u32, AttachFailure> {
        let number = desc.channel;
        let mut channels = lock(&self.channels);
        let existing = channels.get(&number).cloned();
        match (&existing, &fds.faults) {
            (Some(_), Some(_)) => return Err(AttachFailure::ExtraDescriptor(number)),
            (None, None) => return Err(AttachFailure::NoDescriptor(number)),
            (Some(_), None) if fds.owner.is_some() || fds.recover => {
                return Err(AttachFailure::NotNew(number))
            }
            (Some(channel), None) if fds.veventq.is_some() && lock(&channel.events).is_some() => {
                return Err(AttachFailure::SecondVeventq(number))
            }
            _ => {}
        }
        let events = fds.veventq.map(|fd| self.new_events(desc.device, fd));
        let events = events.transpose()?;
        let mut recovered = 0;
        let channel = match (existing, fds.faults) {
            (Some(channel), _) => {
                self.step(|core, now| core.attach(desc, now))?;
                channel
            }
            (None, None) => return Err(AttachFailure::NoDescriptor(number)),
            (None, Some(fd)) => {
                let channel = self.new_channel(number, fd, fds.owner)?;
                let kernel = channel.faults.kind() == ChannelKind::Kernel;
                if fds.recover && !kernel {
                    return Err(AttachFailure::NotRecoverable(number));
                }
                self.step(|core, now| {
                    core.attach(desc, now)?;
                    if kernel {
                        core.set_kernel_channel(number);
                    }
                    Ok::<(), AttachError>(())
                })?;
                let watched = if fds.recover {
                    recover::abort_left_over(&channel.fd)
                } else {
                    Ok(0)
                };
                recovered = watched
                    .and_then(|recovered| self.watch(&channel).map(|()| recovered))
                    .inspect_err(|_| {
                        // Only just attached, and nobody has read a fault: nothing is lost.
                        let _ = self.step(|core, now| core.detach(desc.device, now));
                    })?;
                channels.insert(number, channel.clone());
                channel
            }
        };
        if let Some(events) = events {
            let queue = &events.queue;
            if let Err(e) = self.poller.add(&queue.fd, queue.token, Interest::Read) {
                log::error!("fault channel {number}: the vEVENTQ is not served: epoll: {e}");
            } else {
                *lock(&channel.events) = Some(Arc::new(events));
            }
        }
        Ok(recovered)
    }

    fn watch(&self, channel: &Channel) -> io::Result<()> {
        self.poller
            .add(&channel.fd, channel.token, Interest::Read)?;
        let Some(owner) = &channel.owner else {
            return Ok(());
        };
        self.poller
            .add(&owner.fd, owner.token, Interest::Read)
            .inspect_err(|_| {
                // Added a moment ago.
                let _ = self.poller.remove(&channel.fd);
            })
    }

    /// Detaches a device. When this returns, all its faults have been answered, as far as the channel
    /// takes answers.
    pub fn detach(&self, device: u32) -> Result<(), DetachError> {
        self.step(|core, now| core.detach(device, now))?;
        self.settle();
        self.close_unused();
        Ok(())
    }

    /// The front end is about to change the page table of a device. When this returns, its channel is neither read
    /// nor written until [`Self::unhold`].
    pub fn hold(&self, device: u32) -> Result<(), HoldError> {
        let channel = self.channel_of(device)?;
        channel
            .faults
            .at_rest(|| self.step(|core, now| core.hold(device, now)))
    }

    /// The page table has been changed; `aborted`: the kernel has aborted all faults of the device.
    pub fn unhold(&self, device: u32, aborted: bool) -> Result<(), HoldError> {
        let channel = self.channel_of(device)?;
        let unhold = || self.step(|core, now| core.unhold(device, aborted, now));
        let result = match self.step(|core, _| core.channel_of(device)) {
            Some((_, dev_id)) if aborted => channel.faults.discard(dev_id, unhold),
            _ => channel.faults.at_rest(unhold),
        };
        self.settle();
        result
    }

    fn channel_of(&self, device: u32) -> Result<Arc<Channel>, HoldError> {
        self.step(|core, _| core.channel_of(device))
            .and_then(|(number, _)| lock(&self.channels).get(&number).cloned())
            .ok_or(HoldError::NotAttached { device })
    }

    /// A descriptor of a channel is ready.
    pub(super) fn channel_ready(&self, token: u64, readable: bool, writable: bool) {
        let belongs = |channel: &Channel| {
            let of_events = |events: &Arc<Events>| events.queue.token == token;
            channel.token == token
                || channel.owner.as_ref().is_some_and(|o| o.token == token)
                || lock(&channel.events).as_ref().is_some_and(of_events)
        };
        let channel = lock(&self.channels)
            .values()
            .find(|channel| belongs(channel))
            .cloned();
        let Some(channel) = channel else { return };
        if channel.token != token {
            if channel.owner.as_ref().is_some_and(|o| o.token == token) {
                let text = "the process that owns its devices has ended";
                self.lose(&channel, LostReason::Owner, &text);
            } else {
                self.read_events(&channel);
            }
            self.settle();
            return;
        }
        if writable {
            channel.write_blocked.store(false, Ordering::Relaxed);
            self.write_channel(&channel);
        }
        if readable {
            self.read_channel(&channel);
        }
        self.settle();
    }

    /// Does everything that the steps since the last call want done.
    pub fn settle(&self) {
        let mut probed = None;
        loop {
            let channels: Vec<_> = lock(&self.channels).values().cloned().collect();
            let mut to_write = Vec::new();
            let mut to_read = Vec::new();
            {
                let core = self.lock();
                for channel in &channels {
                    if !channel.write_blocked.load(Ordering::Relaxed)
                        && core.answers(channel.number, &mut [PageResponse::new_zeroed()]) > 0
                    {
                        to_write.push(channel);
                    }
                    if channel.read_blocked.load(Ordering::Relaxed)
                        && core.wants_read(channel.number)
                    {
                        to_read.push(channel);
                    }
                }
                let probe = core.next_probe();
                to_read.extend(
                    channels
                        .iter()
                        .filter(|c| probe == Some(c.number) && probed != probe),
                );
            }
            if to_write.is_empty() && to_read.is_empty() {
                break;
            }
            for channel in to_write {
                self.write_channel(channel);
            }
            for channel in to_read {
                channel.read_blocked.store(false, Ordering::Relaxed);
                probed = Some(channel.number);
                self.read_to_end(channel);
            }
        }
        self.deliver();
        self.unblock_events();
        self.arm();
    }

    /// The deadline has come, or may have.
    pub(super) fn tick(&self) {
        *lock(&self.armed) = 0;
        self.step(|core, now| core.tick(now));
        self.settle();
    }

    fn deliver(&self) {
        let Some(rings) = self.rings() else { return };
        if !self.lock().has_event() && !rings.starving() {
            return;
        }
        let now = now_ns();
        let delivered = rings.deliver(|| {
            let mut message = None;
            let sent = self.lock().emit(now, |next| {
                message = Some(*next);
                Ok::<(), std::convert::Infallible>(())
            });
            match sent {
                Ok(true) => message,
                Ok(false) => None,
            }
        });
        if delivered.bad_chains > 0 {
            log::warn!(
                "event ring: {} buffers are not one writable descriptor of 64 bytes",
                delivered.bad_chains
            );
        }
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

    fn new_token(&self) -> u64 {
        self.next_token.fetch_add(1, Ordering::Relaxed)
    }

    fn new_events(&self, device: u32, fd: OwnedFd) -> io::Result<Events> {
        Ok(Events {
            queue: Watched {
                token: self.new_token(),
                fd: EventQueue::new(fd)?,
            },
            device,
            blocked: AtomicBool::new(false),
        })
    }

    /// Reads a channel's vEVENTQ as far as there is room.
    fn read_events(&self, channel: &Channel) {
        let Some(events) = lock(&channel.events).clone() else {
            return;
        };
        let room = self.lock().event_room();
        let result = events.queue.fd.read(room, |entry| {
            self.step(|core, now| {
                let record = entry.record.as_ref();
                // There is room, as only this thread reads vEVENTQs.
                let _ = core.stage_one_event(events.device, record, entry.lost, now);
            });
            if entry.lost > 0 {
                log::warn!(
                    "fault channel {}: the kernel had no room for {} events of its vEVENTQ",
                    channel.number,
                    entry.lost
                );
            }
        });
        match result {
            Ok(_) if self.lock().event_room() == 0 => {
                events.blocked.store(true, Ordering::Relaxed);
                self.watch_events(&events, Interest::Nothing);
            }
            Ok(_) => {}
            Err(e) => {
                log::error!(
                    "fault channel {}: the vEVENTQ is given up: {e}",
                    channel.number
                );
                *lock(&channel.events) = None;
                self.forget(&events.queue.fd);
            }
        }
    }

    /// Waits for vEVENTQs again whose events found no room.
    fn unblock_events(&self) {
        let channels: Vec<_> = lock(&self.channels).values().cloned().collect();
        for channel in channels {
            let Some(events) = lock(&channel.events).clone() else {
                continue;
            };
            let room = self.lock().event_room() > 0;
            if room && events.blocked.swap(false, Ordering::Relaxed) {
                self.watch_events(&events, Interest::Read);
            }
        }
    }

    fn watch_events(&self, events: &Events, interest: Interest) {
        let queue = &events.queue;
        if let Err(e) = self.poller.modify(&queue.fd, queue.token, interest) {
            log::error!("vEVENTQ: epoll: {e}");
        }
    }

    fn forget(&self, fd: impl AsFd) {
        if let Err(e) = self.poller.remove(fd) {
            log::error!("epoll: {e}");
        }
    }

    fn new_channel(
        &self,
        number: u32,
        fd: OwnedFd,
        owner: Option<OwnedFd>,
    ) -> io::Result<Arc<Channel>> {
        let poll_fd = fd.try_clone()?;
        Ok(Arc::new(Channel {
            number,
            token: self.new_token(),
            fd: poll_fd,
            faults: FaultChannel::new(fd)?,
            open: AtomicBool::new(true),
            read_blocked: AtomicBool::new(false),
            write_blocked: AtomicBool::new(false),
            interest: Mutex::new(Interest::Read),
            owner: owner.map(|fd| Watched {
                token: self.new_token(),
                fd,
            }),
            events: Mutex::default(),
        }))
    }

    /// Reads once, as readiness is level-triggered.
    fn read_channel(&self, channel: &Channel) -> bool {
        let mut sink = Sink {
            device: self,
            channel,
        };
        let more = match channel.faults.read(&mut sink) {
            ReadEnd::More => true,
            ReadEnd::Empty => false,
            ReadEnd::Refused(FaultError::NoRoom { .. }) | ReadEnd::Unwanted => {
                channel.read_blocked.store(true, Ordering::Relaxed);
                false
            }
            ReadEnd::Refused(e) => self.lose(channel, LostReason::Protocol, &e),
            ReadEnd::Again(e) => {
                log::warn!("fault channel {}: {e}", channel.number);
                false
            }
            ReadEnd::Closed => self.lose(channel, LostReason::Ended, &"the other end was closed"),
            ReadEnd::Broken(e) => self.lose(channel, LostReason::Io, &e),
        };
        self.update_interest(channel);
        more
    }

    fn read_to_end(&self, channel: &Channel) {
        while self.read_channel(channel) {}
    }

    fn write_channel(&self, channel: &Channel) {
        let mut source = Source {
            device: self,
            channel,
        };
        match channel.faults.write(&mut source) {
            WriteEnd::Done => {}
            WriteEnd::Blocked => channel.write_blocked.store(true, Ordering::Relaxed),
            WriteEnd::Broken(e) => {
                self.lose(channel, LostReason::Io, &e);
            }
        }
        self.update_interest(channel);
    }

    /// Gives up a channel; its devices are lost.
    fn lose(&self, channel: &Channel, reason: LostReason, error: &dyn std::fmt::Display) -> bool {
        let first = channel.faults.at_rest(|| {
            let first = channel.open.swap(false, Ordering::Relaxed);
            if first {
                self.step(|core, now| core.channel_lost(channel.number, reason, now));
            }
            first
        });
        if first {
            log::error!("fault channel {} is lost: {error}", channel.number);
            self.remove(channel);
        }
        false
    }

    fn close_unused(&self) {
        let channels: Vec<_> = lock(&self.channels).values().cloned().collect();
        for channel in channels {
            let unused = channel.faults.at_rest(|| {
                let unused = !self.lock().channel_in_use(channel.number);
                unused && channel.open.swap(false, Ordering::Relaxed)
            });
            if unused {
                self.remove(&channel);
            }
        }
    }

    fn remove(&self, channel: &Channel) {
        let mut channels = lock(&self.channels);
        if channels
            .get(&channel.number)
            .is_some_and(|c| c.token == channel.token)
        {
            channels.remove(&channel.number);
            self.forget(&channel.fd);
            if let Some(owner) = &channel.owner {
                self.forget(&owner.fd);
            }
            if let Some(events) = lock(&channel.events).take() {
                self.forget(&events.queue.fd);
            }
        }
    }

    fn update_interest(&self, channel: &Channel) {
        let wanted = Interest::new(
            !channel.read_blocked.load(Ordering::Relaxed),
            channel.write_blocked.load(Ordering::Relaxed),
        );
        let mut interest = lock(&channel.interest);
        if *interest == wanted {
            return;
        }
        *interest = wanted;
        match self.poller.modify(&channel.fd, channel.token, wanted) {
            // Removed in the meantime.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => log::error!("fault channel {}: epoll: {e}", channel.number),
            Ok(()) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, LoggedCore> {
        lock(&self.core)
    }

    fn lock_rings(&self) -> MutexGuard<'_, Option<Rings>> {
        lock(&self.rings)
    }
}

/// Puts the faults of a channel into the core.
struct Sink<'a> {
    device: &'a Device,
    channel: &'a Channel,
}

impl FaultSink for Sink<'_> {
    type Error = FaultError;

    fn take(&mut self, faults: &[PgFault]) -> (usize, Result<(), FaultError>) {
        if !self.channel.is_open() {
            return (faults.len(), Ok(()));
        }
        let mut taken = 0;
        loop {
            let result = self.device.step(|core, now| {
                for fault in &faults[taken..] {
                    core.fault(self.channel.number, fault, now)?;
                    taken += 1;
                }
                Ok(())
            });
            let reused = matches!(
                result,
                Err(FaultError::DuplicateCookie { .. } | FaultError::Stale { .. })
            );
            match if reused {
                self.retake(&faults[taken])
            } else {
                result
            } {
                Ok(()) if reused => taken += 1,
                result => return (taken, result),
            }
        }
    }

    fn wanted(&mut self) -> bool {
        self.channel.is_open() && self.device.lock().wants_read(self.channel.number)
    }

    fn empty(&mut self) {
        if self.channel.is_open() {
            self.device
                .step(|core, now| core.channel_empty(self.channel.number, now));
        }
    }
}

impl Sink<'_> {
    /// Takes a fault whose cookie the core has not given up.
    ///
    /// A cookie can come again as soon as its answer has been taken; the thread that wrote the answer may not have told
    /// the core yet. With that thread out of the way it is clear what the cookie means.
    fn retake(&self, fault: &PgFault) -> Result<(), FaultError> {
        let number = self.channel.number;
        self.channel.faults.writer_at_rest(|| {
            self.device.step(|core, now| {
                let result = core.fault(number, fault, now);
                let Err(FaultError::Stale { channel, cookie }) = result else {
                    return result;
                };
                log::warn!(
                    "fault channel {channel}: the kernel has aborted the fault of cookie {cookie} without a HOLD"
                );
                core.forget_stale(channel, cookie, now);
                core.fault(number, fault, now)
            })
        })
    }
}

/// Takes the answers of a channel out of the core.
struct Source<'a> {
    device: &'a Device,
    channel: &'a Channel,
}

impl AnswerSource for Source<'_> {
    fn peek(&mut self, answers: &mut [PageResponse]) -> usize {
        if !self.channel.is_open() {
            return 0;
        }
        self.device.lock().answers(self.channel.number, answers)
    }

    fn written(&mut self, count: usize) {
        self.device
            .step(|core, now| core.answers_written(self.channel.number, count, now));
    }

    fn aborted(&mut self) {
        self.device
            .step(|core, now| core.answer_aborted(self.channel.number, now));
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
