// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One ring, as the vhost-user library serves it, with eventfds that hold no thread.
//!
//! The library's own ring reads a kick with the ring locked, ends the worker for good if a kick is
//! not there any more, takes whatever file it is given for an eventfd, and answers 0 to a size that
//! it does not take. Its traits leave room to do better: this is its ring with another way to kick
//! and call.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Mutex, MutexGuard, OnceLock,
    },
    thread,
    time::{Duration, Instant},
};

use epoll::{ControlOptions, Event};
use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::{Error, QueueT};

use super::{
    kick_call::{Call, Kick},
    Memory,
};
use crate::{
    backend::{link::Link, wait::wake::Wake},
    lock::lock,
};

/// A call that the guard has not ended by now is left to itself.
const CALL_LIMIT: Duration = Duration::from_secs(1);

/// A ring, shared with the vhost-user library.
#[derive(Clone)]
pub struct Vring {
    ring: VringMutex<Memory>,
    events: Arc<Events>,
}

#[derive(Default)]
struct Events {
    kick: Mutex<Option<Arc<Kick>>>,
    call: Mutex<Option<Arc<Call>>>,
    /// The worker is woken by each kick, so that none has to be read.
    edges: AtomicBool,
    /// Its number and its connection.
    place: OnceLock<(usize, Arc<Link>)>,
    /// Wakes the engine.
    wake: OnceLock<Wake>,
}

impl Vring {
    /// Says which ring of which connection it is. Before the first request.
    pub fn belongs_to(&self, index: usize, link: Arc<Link>, wake: Option<Wake>) {
        // Only called once.
        let _ = self.events.place.set((index, link));
        if let Some(wake) = wake {
            let _ = self.events.wake.set(wake);
        }
    }

    /// How to tell the front end that chains have been used.
    pub fn call(&self) -> Option<Arc<Call>> {
        lock(&self.events.call).clone()
    }

    /// Waits until no call is on its way. The ring is not ready any more.
    pub fn calls_at_rest(&self) {
        // Whoever has used chains has taken the call with the ring locked.
        drop(self.ring.get_mut());
        let Some(call) = lock(&self.events.call).take() else {
            return;
        };
        let deadline = Instant::now() + CALL_LIMIT;
        while Arc::strong_count(&call) > 1 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets the worker, whose epoll instance is `epoll`, be woken by each kick of this ring, which
    /// runs, instead of as long as there is one: a kick need not be read then. The library
    /// registers the ring anew each time it starts.
    pub fn wait_for_edges(&self, epoll: RawFd, token: u16) {
        if self.events.edges.load(Ordering::Relaxed) {
            return;
        }
        // With the ring locked, the library does not take the kick away.
        let ring = self.ring.get_ref();
        let Some(kick) = ring.get_kick().as_ref().map(AsRawFd::as_raw_fd) else {
            return;
        };
        if !ring.is_enabled() || !ring.get_queue().ready() {
            return;
        }
        let event = Event::new(
            epoll::Events::EPOLLIN | epoll::Events::EPOLLET,
            token.into(),
        );
        match epoll::ctl(epoll, ControlOptions::EPOLL_CTL_MOD, kick, event) {
            Ok(()) => self.events.edges.store(true, Ordering::Relaxed),
            // It goes on as the library has made it.
            Err(e) => log::warn!("ring {token}: epoll: {e}"),
        }
    }

    fn noted(&self, request: &'static str) {
        if let Some((_, link)) = self.events.place.get() {
            link.request(request);
        }
    }

    fn fail(&self, request: &'static str, why: &dyn std::fmt::Display) {
        if let Some((index, link)) = self.events.place.get() {
            link.fail(&format!("{request} of ring {index} refused: {why}"));
        }
    }

    /// A file for an event, if there is one; a wrong one ends the connection.
    fn taken<T>(
        &self,
        request: &'static str,
        file: Option<File>,
        take: impl FnOnce(File) -> io::Result<T>,
    ) -> Option<T> {
        file.and_then(|file| take(file).map_err(|e| self.fail(request, &e)).ok())
    }
}

impl<'a> VringStateGuard<'a, Memory> for Vring {
    type G = MutexGuard<'a, VringState<Memory>>;
}

impl<'a> VringStateMutGuard<'a, Memory> for Vring {
    type G = MutexGuard<'a, VringState<Memory>>;
}

impl VringT<Memory> for Vring {
    fn new(memory: Memory, max_queue_size: u16) -> Result<Self, Error> {
        Ok(Vring {
            ring: VringMutex::new(memory, max_queue_size)?,
            events: Arc::default(),
        })
    }

    fn get_ref(&self) -> MutexGuard<'_, VringState<Memory>> {
        self.ring.get_ref()
    }

    fn get_mut(&self) -> MutexGuard<'_, VringState<Memory>> {
        self.ring.get_mut()
    }

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), Error> {
        self.ring.add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.call().map_or(Ok(()), |call| call.notify())
    }

    fn enable_notification(&self) -> Result<bool, Error> {
        self.ring.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), Error> {
        self.ring.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, Error> {
        self.ring.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.noted("SET_VRING_ENABLE");
        if !enabled {
            self.events.edges.store(false, Ordering::Relaxed);
        }
        self.ring.set_enabled(enabled);
        // A recovery may wait for it.
        if let Some(wake) = self.events.wake.get().filter(|_| enabled) {
            wake.set();
        }
    }

    fn set_queue_info(&self, desc_table: u64, avail: u64, used: u64) -> Result<(), Error> {
        self.noted("SET_VRING_ADDR");
        self.ring.set_queue_info(desc_table, avail, used)
    }

    fn queue_next_avail(&self) -> u16 {
        self.ring.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.noted("SET_VRING_BASE");
        self.ring.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, index: u16) {
        self.ring.set_queue_next_used(index);
    }

    fn queue_used_idx(&self) -> Result<u16, Error> {
        self.ring.queue_used_idx()
    }

    fn set_queue_size(&self, size: u16) {
        self.noted("SET_VRING_NUM");
        self.ring.set_queue_size(size);
        // The library has answered for what is larger than it may be; the queue drops the rest.
        if self.ring.get_ref().get_queue().size() != size {
            let text = format!("{size} descriptors are no power of two");
            self.fail("SET_VRING_NUM", &text);
        }
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.ring.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        if !ready {
            self.events.edges.store(false, Ordering::Relaxed);
        }
        self.ring.set_queue_ready(ready);
    }

    fn set_kick(&self, file: Option<File>) {
        if file.is_some() {
            self.noted("SET_VRING_KICK");
        }
        let runs = {
            let ring = self.ring.get_ref();
            ring.is_enabled() && ring.get_queue().ready()
        };
        if runs {
            // The old one would stay in the worker's epoll set, readable for ever.
            return self.fail("SET_VRING_KICK", &"it runs; stop it by GET_VRING_BASE");
        }
        let kick = self.taken("SET_VRING_KICK", file, |file| {
            let kick = Kick::new(file.try_clone()?)?;
            Ok((file, Arc::new(kick)))
        });
        let (file, kick) = kick.unzip();
        self.events.edges.store(false, Ordering::Relaxed);
        *lock(&self.events.kick) = kick;
        // The library only waits for it.
        self.ring.set_kick(file);
    }

    fn read_kick(&self) -> io::Result<bool> {
        if self.events.edges.load(Ordering::Relaxed) {
            return Ok(self.ring.get_ref().is_enabled());
        }
        let kick = lock(&self.events.kick).clone();
        if let Some(Err(e)) = kick.map(|kick| kick.take()) {
            // An error would end the worker.
            self.fail("SET_VRING_KICK", &e);
            return Ok(false);
        }
        Ok(self.ring.get_ref().is_enabled())
    }

    fn set_call(&self, file: Option<File>) {
        if file.is_some() {
            self.noted("SET_VRING_CALL");
        }
        let call = self.taken("SET_VRING_CALL", file, Call::new);
        *lock(&self.events.call) = call.map(Arc::new);
    }

    fn set_err(&self, _file: Option<File>) {
        // There is nothing to signal by it: it is closed.
        self.noted("SET_VRING_ERR");
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{eventfd, EventfdFlags};
    use vm_memory::GuestMemoryMmap;

    use super::*;
    use crate::backend::wait::poller::BATCH;

    fn woken(epoll: RawFd) -> usize {
        let mut events = [Event { events: 0, data: 0 }; BATCH];
        epoll::wait(epoll, 0, &mut events).unwrap()
    }

    #[test]
    fn test_ring_that_waits_for_edges_is_woken_by_each_kick_and_reads_none() {
        let ring = Vring::new(Memory::new(GuestMemoryMmap::new()), 16).unwrap();
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let kick = Wake::from(fd.try_clone().unwrap());
        ring.set_kick(Some(fd.into()));
        ring.set_queue_ready(true);
        ring.set_enabled(true);
        let poller = crate::sys::epoll_create().unwrap();
        let epoll = poller.as_raw_fd();
        // As the library does.
        let registered = ring.get_ref().get_kick().as_ref().unwrap().as_raw_fd();
        let event = Event::new(epoll::Events::EPOLLIN, 0);
        epoll::ctl(epoll, ControlOptions::EPOLL_CTL_ADD, registered, event).unwrap();

        ring.wait_for_edges(epoll, 0);
        let mut seen = vec![woken(epoll)];
        for _ in 0..2 {
            kick.set();
            seen.push(woken(epoll));
            assert!(ring.read_kick().unwrap());
            seen.push(woken(epoll));
        }

        assert_eq!(seen, [0, 1, 0, 1, 0]);
    }

    #[test]
    fn test_ring_that_is_started_again_reads_its_kicks_until_it_waits_for_edges() {
        let ring = Vring::new(Memory::new(GuestMemoryMmap::new()), 16).unwrap();
        ring.events.edges.store(true, Ordering::Relaxed);

        ring.set_enabled(false);

        assert!(!ring.events.edges.load(Ordering::Relaxed));
    }
}
