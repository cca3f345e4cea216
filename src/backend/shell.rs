// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The shell around the core: what outlives a connection, shared by all threads.
//!
//! A thread makes steps of the core ([`SharedCore::step`]), then does what the core wants after
//! them ([`Shell::follow`]), so nothing waits for another thread to wake up.
//!
//! Order of locks: the portal that is polled, portal, attach channel, channel reader, channel
//! writer, channel table, rings, ring, core.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{atomic::AtomicBool, Arc, Mutex, Weak},
};

use super::{
    channels::table::ChannelTable,
    events::Events,
    published::{now_ns, LoggedCore, SharedCore},
    rings::{Buffer, PendingCall, Rings},
    wait::{poller::Poller, progress::Progress, timer::Timer, wake::Wake},
};
use crate::{
    config::ConfigError,
    core::{Core, Limits, PortalError, Wants},
    error::Error,
    lock::lock,
    recovery::point,
    wire::{ConfigSpace, LostReason, Message, DEVICE_NONE},
};

/// What outlives a connection.
pub struct Shell {
    /// The core.
    pub core: Arc<SharedCore>,
    /// The channels that are open.
    pub channels: ChannelTable,
    /// The engine's descriptors.
    pub poller: Arc<Poller>,
    /// Wakes the engine when the drain's deadline has come.
    pub deadline: Timer,
    /// Wakes the engine to look after the event ring, or to end.
    pub wake: Wake,
    /// Where the shell's own steps are told.
    pub events: Events,
    /// Names this process in a recovery area.
    pub instance: u64,
    /// What the thread of the portal ring does, for the watchdog.
    pub portal_work: Progress,
    /// A recovery waits for the rings.
    pub recovering: AtomicBool,
    /// Of the connection that there is.
    rings: Mutex<Option<Rings>>,
    /// The portal ring of the connection, for the engine to look into while it is busy polling.
    portal: Mutex<Option<Weak<dyn PolledPortal>>>,
}

/// A portal ring that can be looked into instead of waiting for its kicks.
pub trait PolledPortal: Send + Sync {
    /// Takes what there is, and says whether that was anything. The front end need not kick.
    fn poll(&self) -> bool;

    /// The front end has to kick again. Returns whether there is something that it has not kicked
    /// for.
    fn rest(&self) -> bool;
}

impl Shell {
    /// A shell without connection and channels.
    pub fn new(limits: Limits, events: Events, wake: Wake) -> Result<Self, Error> {
        let mut core = Core::new(limits, events.observer()).map_err(ConfigError::from)?;
        // The library's own seed for maps, which is random.
        core.set_seed(RandomState::new().hash_one(0));
        let core = Arc::new(SharedCore::new(core, events.board().clone()));
        let poller = Poller::new().map_err(Error::system("Cannot create an epoll instance"))?;
        let poller = Arc::new(poller);
        Ok(Shell {
            channels: ChannelTable::new(core.clone(), poller.clone()),
            core,
            poller,
            deadline: Timer::new().map_err(Error::system("Cannot create a timer"))?,
            wake,
            events,
            instance: RandomState::new().hash_one(1) | 1,
            portal_work: Progress::default(),
            recovering: AtomicBool::new(false),
            rings: Mutex::new(None),
            portal: Mutex::new(None),
        })
    }

    /// Makes a step, and does all that the core wants after it.
    pub fn act<R>(&self, step: impl FnOnce(&mut LoggedCore, u64) -> R) -> R {
        let (result, wants) = self.core.step_and_wants(step);
        self.follow(wants).send();
        result
    }

    /// Does all that the core wants after the steps of this thread.
    pub fn settle(&self) {
        self.follow(self.core.wants()).send();
    }

    /// Does all that the core wants; what is left is to tell the front end, which can make that
    /// last.
    pub fn follow(&self, mut wants: Wants) -> PendingCall {
        let mut call = PendingCall::default();
        loop {
            while let Some(job) = wants.job {
                self.channels.perform(job);
                wants = self.core.wants();
            }
            match self.deliver(wants.waiting) {
                Some((delivered, then)) => {
                    call = call.or(delivered);
                    wants = then;
                }
                None => break,
            }
            if wants.job.is_none() {
                break;
            }
        }
        self.deadline
            .set(wants.deadline_ns, || self.core.look(|core| core.deadline()));
        call
    }

    /// What GET_CONFIG answers.
    pub fn config_space(&self) -> ConfigSpace {
        let now = now_ns();
        self.core.look(|core| core.config_space(now))
    }

    /// Serves these rings from now on; both count their messages from 1.
    pub fn start_rings(&self, rings: Rings) {
        *lock(&self.rings) = Some(rings);
    }

    /// Lets the engine look into this portal ring from now on.
    pub fn poll_portal_of(&self, portal: Weak<dyn PolledPortal>) {
        *lock(&self.portal) = Some(portal);
    }

    /// The connection ends: the engine is not at its portal ring any more.
    pub fn forget_portal(&self) {
        *lock(&self.portal) = None;
    }

    /// Does something with the portal ring of the connection, if there is one. It stays meanwhile.
    pub fn with_portal(&self, work: impl FnOnce(&dyn PolledPortal) -> bool) -> bool {
        let portal = lock(&self.portal);
        let portal = portal.as_ref().and_then(Weak::upgrade);
        portal.is_some_and(|portal| work(&*portal))
    }

    /// Whether both rings of the connection run.
    pub fn rings_enabled(&self) -> bool {
        lock(&self.rings).as_ref().is_some_and(Rings::enabled)
    }

    /// The connection has ended.
    pub fn forget_rings(&self) {
        *lock(&self.rings) = None;
    }

    /// Takes messages of the portal ring, in order, up to the first that breaks the protocol, and
    /// says how many that were. `None` is a chain that is no message.
    pub fn portal<'a>(
        &self,
        messages: impl Iterator<Item = Option<&'a Message>>,
    ) -> (usize, Result<(), PortalError>, Wants) {
        let (taken, wants) = self.core.step_and_wants(|core, now| {
            let mut done = 0;
            for message in messages {
                let result = message.map_or(Ok(()), |message| core.portal(message, now));
                if result.is_err() {
                    return (done, result);
                }
                done += 1;
            }
            (done, Ok(()))
        });
        (taken.0, taken.1, wants)
    }

    /// The deadline has come, or may have.
    pub fn tick(&self) {
        self.deadline.expired();
        let (untaken, wants) = self.core.step_and_wants(|core, now| {
            let failed = core.counters().drains_failed;
            core.tick(now);
            (core.counters().drains_failed > failed).then(|| core.untaken())
        });
        if let Some((count, Some(device))) = untaken.filter(|(_, of)| *of != Some(DEVICE_NONE)) {
            log::warn!("drain failed: device {device} has not taken its answers, {count} wait");
        }
        self.follow(wants).send();
    }

    /// Detaches all devices and forgets everything else. When this returns, no channel is left:
    /// what it did not take of its last answers is dropped with it. The event ring is disabled and
    /// the attach channel closed; the shared memory is given up.
    pub fn reset(&self) {
        self.core.share(None);
        self.act(|core, now| core.reset(now));
        for channel in self.channels.open().by_number.values() {
            let text = "it does not take the answers that a reset has left to it";
            self.channels.lose(channel, LostReason::Io, &text);
        }
    }

    /// Moves messages to the event ring while there are some and it has buffers, and says what the
    /// core wants then. `None`: there was nothing to do.
    fn deliver(&self, waiting: usize) -> Option<(PendingCall, Wants)> {
        // Held, so that nothing is put into rings that have been forgotten.
        let rings = lock(&self.rings);
        let rings = rings.as_ref()?;
        if waiting == 0 && !rings.starving() {
            return None;
        }
        let mut wants = None;
        let delivered = rings.deliver(waiting, |buffers| {
            let (count, after) = self.core.step_and_wants(|core, now| {
                let sent = |buffer: &Buffer| core.emit(now, |message| buffer.write(message));
                buffers
                    .iter()
                    .flatten()
                    .map(sent)
                    .take_while(|sent| *sent == Ok(true))
                    .count()
            });
            wants = Some(after);
            point("emitted");
            (count, after.waiting)
        });
        if delivered.more {
            self.wake.set();
        }
        if delivered.bad_chains > 0 {
            log::warn!(
                "event ring: {} buffers are not one writable descriptor of 64 bytes",
                delivered.bad_chains
            );
        }
        let wants = wants.unwrap_or_else(|| self.core.wants());
        Some((rings.pending_call(delivered.call), wants))
    }
}
