// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The thread that serves the rings when the front end kicks.

use std::{
    io,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc, Mutex,
    },
    thread::{self, JoinHandle},
};

use super::{
    call::Kick,
    link::Link,
    ring::Ring,
    rings::{PortalChain, Rings},
};
use crate::{
    backend::{
        device::{lock, Device},
        poller::{Interest, Poller, BATCH},
        wake::Wake,
    },
    wire::{EVENT_RING, NUM_RINGS, PORTAL_RING},
};

/// Chains taken from the portal ring at a time.
const PORTAL_BATCH: usize = 64;
const TOKEN_WAKE: u64 = u64::MAX;

/// What the ring worker shares with the thread that serves requests.
pub struct Worker {
    device: Arc<Device>,
    link: Arc<Link>,
    poller: Poller,
    wake: Wake,
    stop: AtomicBool,
    /// Rings to be looked at without a kick, a bit for each.
    due: AtomicU64,
    rings: Rings,
    ring: [Arc<Ring>; NUM_RINGS],
    /// The kicks that are waited for.
    watched: Mutex<[Option<Arc<Kick>>; NUM_RINGS]>,
    /// Held while chains of the portal ring are being worked on.
    portal: Mutex<Vec<PortalChain>>,
}

/// Ends the connection when the worker ends, for whatever reason.
struct EndsConnection<'a>(&'a Worker);

impl Drop for EndsConnection<'_> {
    fn drop(&mut self) {
        if !self.0.stop.load(Ordering::Acquire) {
            self.0
                .link
                .fail(&"the thread that serves the rings has ended");
        }
    }
}

impl Worker {
    /// A worker that has not been started.
    pub fn new(
        device: Arc<Device>,
        link: Arc<Link>,
        rings: Rings,
        ring: [Arc<Ring>; NUM_RINGS],
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        let wake = Wake::new()?;
        poller.add(&wake, TOKEN_WAKE, Interest::Read)?;
        Ok(Worker {
            device,
            link,
            poller,
            wake,
            stop: AtomicBool::new(false),
            due: AtomicU64::new(0),
            rings,
            ring,
            watched: Mutex::default(),
            portal: Mutex::new(Vec::with_capacity(PORTAL_BATCH)),
        })
    }

    /// Starts the thread.
    pub fn spawn(self: &Arc<Self>) -> io::Result<JoinHandle<()>> {
        let worker = self.clone();
        thread::Builder::new()
            .name("vsva-rings".to_owned())
            .spawn(move || {
                let _ends = EndsConnection(&worker);
                worker.run();
            })
    }

    /// Lets the thread end soon.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.set();
    }

    /// A ring has been started, stopped, enabled or disabled. One that has begun to run is looked at
    /// without a kick.
    pub fn update(&self, index: usize) -> io::Result<()> {
        let wanted = {
            let ring = self.ring[index].lock();
            ring.runs().then(|| ring.kick.clone()).flatten()
        };
        let mut watched = lock(&self.watched);
        let same = match (&watched[index], &wanted) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if same {
            return Ok(());
        }
        if let Some(old) = watched[index].take() {
            self.poller.remove(&*old)?;
        }
        if let Some(new) = wanted {
            self.poller.add(&*new, index as u64, Interest::Read)?;
            watched[index] = Some(new);
            self.due.fetch_or(1 << index, Ordering::AcqRel);
            self.wake.set();
        }
        Ok(())
    }

    /// Waits until no chain of the portal ring is being worked on.
    pub fn portal_at_rest<R>(&self, f: impl FnOnce() -> R) -> R {
        let _portal = lock(&self.portal);
        f()
    }

    fn run(&self) {
        let mut ready = Vec::with_capacity(BATCH);
        while !self.stop.load(Ordering::Acquire) {
            if let Err(e) = self.poller.wait(&mut ready) {
                return self.link.fail(&format!("cannot wait for kicks: {e}"));
            }
            for ready in &ready {
                match usize::try_from(ready.token) {
                    Ok(index) if index < NUM_RINGS => {
                        if !self.take_kick(index) {
                            return;
                        }
                        self.serve(index);
                    }
                    _ => {
                        self.wake.clear();
                        let due = self.due.swap(0, Ordering::AcqRel);
                        (0..NUM_RINGS)
                            .filter(|index| due & 1 << index != 0)
                            .for_each(|index| self.serve(index));
                    }
                }
            }
        }
    }

    fn take_kick(&self, index: usize) -> bool {
        // None if the ring has been stopped since it was kicked.
        let kick = lock(&self.watched)[index].clone();
        match kick.map_or(Ok(()), |kick| kick.take()) {
            Ok(()) => true,
            Err(e) => {
                let text = format!("cannot read the kick eventfd of ring {index}: {e}");
                self.link.fail(&text);
                false
            }
        }
    }

    fn serve(&self, index: usize) {
        if index == usize::from(PORTAL_RING) {
            while !self.link.is_over() && self.serve_portal() {}
        } else if index == usize::from(EVENT_RING) {
            self.device.settle();
        }
    }

    /// Works on one batch of chains. Returns whether there may be more.
    fn serve_portal(&self) -> bool {
        let mut chains = lock(&self.portal);
        self.rings.take(PORTAL_BATCH, &mut chains);
        if chains.is_empty() {
            return false;
        }
        let malformed = chains.iter().filter(|c| c.message.is_none()).count();
        if malformed > 0 {
            log::warn!(
                "portal ring: {malformed} chains are not one readable descriptor of 64 bytes"
            );
        }
        let messages = chains.iter().map(|chain| chain.message.as_ref());
        let (done, result) = self.device.portal(messages);
        // Answers are written before the descriptors are used: that is what a CMD_SYNC waits for.
        self.device.settle();
        // Nor is a descriptor used whose message has had no effect.
        let call = self.rings.complete(&chains[..done]);
        drop(chains);
        if call {
            self.rings.call(PORTAL_RING);
        }
        if let Err(e) = &result {
            self.link.fail(e);
        }
        result.is_ok()
    }
}
