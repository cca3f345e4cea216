// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device side of the two rings: 64-byte messages in descriptor chains of exactly one
//! descriptor.
//!
//! A ring is only touched with its lock held and while it is ready, so nothing is used or signalled
//! any more once GET_VRING_BASE has made it not ready.

mod batch;
mod fd_kind;
mod kick_call;
pub mod vring;

use std::{
    convert::Infallible,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
};

use vhost_user_backend::{VringState, VringT};
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap, VolatileSlice};
use zerocopy::{FromZeros, IntoBytes};

use self::{
    batch::{Batch, Direction},
    kick_call::Call,
    vring::Vring,
};
use super::link::Link;
use crate::wire::{Message, EVENT_RING, MESSAGE_SIZE, PORTAL_RING};

/// The front end's ring memory.
pub type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// The two rings of one connection.
#[derive(Clone)]
pub struct Rings {
    portal: Vring,
    events: Vring,
    memory: Memory,
    link: Arc<Link>,
    /// There were more messages than buffers.
    starving: Arc<AtomicBool>,
}

/// One descriptor chain of the portal ring.
pub struct PortalChain {
    head: u16,
    /// The message, unless the chain has another shape than a message has.
    pub message: Option<Message>,
}

/// What a round over the event ring did.
#[derive(Default)]
pub struct Delivered {
    /// Messages handed over.
    pub messages: usize,
    /// Buffers given back unused as they are no buffers for a message.
    pub bad_chains: u64,
    /// There may be more, but one round is as long as the ring.
    pub more: bool,
    /// The front end wants to be told: [`Rings::pending_call`].
    pub call: Option<Arc<Call>>,
}

/// Tells the front end that chains have been used, when it is sent.
#[derive(Default)]
#[must_use]
pub struct PendingCall(Option<(Arc<Call>, Arc<Link>)>);

impl PendingCall {
    /// Makes the call. The front end can make that last, so no lock may be held.
    pub fn send(self) {
        if let Some((call, link)) = self.0 {
            if let Err(e) = call.notify() {
                link.fail(&format!("cannot signal the front end: {e}"));
            }
        }
    }

    /// This call, or `other` if there is none. Both are for the same ring.
    pub fn or(self, other: Self) -> Self {
        PendingCall(self.0.or(other.0))
    }
}

/// A buffer of the event ring that a message fits into.
#[derive(Clone, Copy)]
pub struct Buffer<'a> {
    head: u16,
    place: VolatileSlice<'a>,
}

impl Buffer<'_> {
    /// Puts a message into it.
    pub fn write(&self, message: &Message) -> Result<(), Infallible> {
        self.place.copy_from(message.as_bytes());
        Ok(())
    }
}

/// Buffers of the event ring that are taken at a time.
const BATCH: usize = 64;
/// As the ring has it.
#[allow(clippy::cast_possible_truncation, reason = "it is 64")]
const MESSAGE_LEN: u32 = MESSAGE_SIZE as u32;

impl Rings {
    /// The rings of a connection, in `memory`.
    pub fn new(portal: Vring, events: Vring, memory: Memory, link: Arc<Link>) -> Self {
        Rings {
            portal,
            events,
            memory,
            link,
            starving: Arc::default(),
        }
    }

    /// Whether messages wait for buffers.
    pub fn starving(&self) -> bool {
        self.starving.load(Ordering::Relaxed)
    }

    /// Takes at most `limit` chains of the portal ring; the front end need not kick until an
    /// attempt has found none.
    pub fn take(&self, limit: usize, chains: &mut Vec<PortalChain>) {
        chains.clear();
        let memory = self.memory.memory();
        let mut ring = self.portal.get_mut();
        let Some(mut batch) = begin(&mut ring, &memory) else {
            return;
        };
        let mut asked = false;
        while chains.len() < limit {
            let Some(head) = batch.next() else {
                if chains.is_empty() && !asked && batch.more_after_asking() {
                    asked = true;
                    continue;
                }
                break;
            };
            let message = batch.buffer(head, Direction::Readable).map(|place| {
                let mut message = Message::new_zeroed();
                place.copy_to(message.as_mut_bytes());
                message
            });
            chains.push(PortalChain { head, message });
        }
        if !chains.is_empty() {
            batch.silence();
        }
    }

    /// Whether the portal ring has chains, for somebody who looks again and again: the front end
    /// need not kick until [`Self::ask_for_kicks`].
    pub fn portal_waits(&self) -> bool {
        let memory = self.memory.memory();
        let mut ring = self.portal.get_mut();
        begin(&mut ring, &memory).is_some_and(|batch| {
            batch.silence();
            batch.waits()
        })
    }

    /// Nobody looks into the portal ring any more unless the front end kicks. Returns whether it
    /// has chains for which there may be no kick.
    pub fn ask_for_kicks(&self) -> bool {
        let memory = self.memory.memory();
        let mut ring = self.portal.get_mut();
        // It may have been disabled meanwhile, and be enabled again.
        Batch::begin(ring.get_queue_mut(), &memory)
            .is_some_and(|mut batch| batch.more_after_asking())
    }

    /// Gives chains of the portal ring back.
    pub fn complete(&self, chains: &[PortalChain]) -> PendingCall {
        let memory = self.memory.memory();
        let mut ring = self.portal.get_mut();
        // It may not be ready any more: whoever has stopped it waits for this.
        let mut batch = Batch::begin(ring.get_queue_mut(), &memory);
        let wanted = batch.as_mut().is_some_and(|batch| {
            chains.iter().for_each(|chain| batch.use_up(chain.head, 0));
            !chains.is_empty() && batch.wants_call()
        });
        self.pending_call(wanted.then(|| self.portal.call()).flatten())
    }

    /// Moves the `waiting` messages to the event ring as far as it has buffers, and at most as many
    /// as it has in all.
    ///
    /// `fill` writes messages into the first of the buffers that it is given, and says how many
    /// those were and how many messages wait then.
    pub fn deliver(
        &self,
        mut waiting: usize,
        mut fill: impl FnMut(&[Option<Buffer<'_>>]) -> (usize, usize),
    ) -> Delivered {
        let memory = self.memory.memory();
        let mut ring = self.events.get_mut();
        let mut done = Delivered::default();
        let Some(mut batch) = begin(&mut ring, &memory) else {
            return done;
        };
        let mut starving = self.starving();
        let mut asked = false;
        let mut left = batch.size();
        while waiting > 0 {
            if left == 0 {
                done.more = true;
                break;
            }
            let mut buffers = [None; BATCH];
            let most = waiting.min(left).min(BATCH);
            let (count, bad) = take_buffers(&mut batch, &mut buffers[..most]);
            done.bad_chains += u64::from(bad);
            left -= count + usize::from(bad);
            if count == 0 && bad {
                continue;
            }
            if count == 0 {
                // Only now is a kick for a new buffer worth its price.
                starving = true;
                if !asked && batch.more_after_asking() {
                    asked = true;
                    continue;
                }
                break;
            }
            asked = false;
            let (used, then) = fill(&buffers[..count]);
            for buffer in buffers[..used].iter().flatten() {
                batch.use_up(buffer.head, MESSAGE_LEN);
            }
            batch.show();
            for _ in used..count {
                batch.put_back();
            }
            left += count - used;
            done.messages += used;
            // Another thread that has made more delivers them.
            waiting = if used < count { 0 } else { then };
        }
        if waiting == 0 {
            starving = false;
        }
        self.starving.store(starving, Ordering::Relaxed);
        if !starving {
            batch.silence();
        }
        let used = done.messages > 0 || done.bad_chains > 0;
        if used && batch.wants_call() {
            done.call = self.events.call();
        }
        done
    }

    /// What is left to do about a call: to make it.
    pub fn pending_call(&self, call: Option<Arc<Call>>) -> PendingCall {
        PendingCall(call.map(|call| (call, self.link.clone())))
    }

    /// Waits until the front end is not being told about a ring any more. It is not ready any more.
    pub fn calls_at_rest(&self, index: u16) {
        match index {
            PORTAL_RING => self.portal.calls_at_rest(),
            EVENT_RING => self.events.calls_at_rest(),
            _ => {}
        }
    }

    /// Whether both rings are being served.
    pub fn enabled(&self) -> bool {
        [&self.portal, &self.events].iter().all(|ring| {
            let ring = ring.get_ref();
            ring.is_enabled() && ring.get_queue().ready()
        })
    }

    /// Whether a ring is being served.
    pub fn running(&self) -> bool {
        [&self.portal, &self.events]
            .iter()
            .any(|ring| ring.get_ref().get_queue().ready())
    }
}

/// A ring that is served, to be worked on.
fn begin<'a>(ring: &'a mut VringState<Memory>, memory: &'a GuestMemoryMmap) -> Option<Batch<'a>> {
    let served = ring.is_enabled() && ring.get_queue().ready();
    served.then(|| Batch::begin(ring.get_queue_mut(), memory))?
}

/// Takes buffers until `buffers` is full, and says how many there were. A chain that is none is
/// given back if it is the first, and then there are none; else it is left for the next time.
fn take_buffers<'a>(batch: &mut Batch<'a>, buffers: &mut [Option<Buffer<'a>>]) -> (usize, bool) {
    for (count, slot) in buffers.iter_mut().enumerate() {
        let Some(head) = batch.next() else {
            return (count, false);
        };
        match batch.buffer(head, Direction::Writable) {
            Some(place) => *slot = Some(Buffer { head, place }),
            None if count == 0 => {
                batch.use_up(head, 0);
                return (0, true);
            }
            None => {
                batch.put_back();
                return (count, false);
            }
        }
    }
    (buffers.len(), false)
}
