// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device side of the two rings: 64-byte messages in descriptor chains of exactly one descriptor.
//!
//! A ring is only touched with its lock held and while it is ready, so nothing is used or signalled
//! any more once GET_VRING_BASE has made it not ready.

use std::sync::{
    atomic::{fence, AtomicBool, Ordering},
    Arc,
};

use virtio_bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT,
};
use virtio_queue::{desc::split::Descriptor, QueueOwnedT, QueueT};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryAtomic,
    GuestMemoryMmap, Permissions,
};
use zerocopy::{FromZeros, IntoBytes};

use super::{
    link::Link,
    ring::{Ring, RingState},
};
use crate::wire::{Message, EVENT_RING, MESSAGE_SIZE, NUM_RINGS, PORTAL_RING};

/// The front end's ring memory.
pub type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// The two rings of one connection.
#[derive(Clone)]
pub struct Rings {
    rings: [Arc<Ring>; NUM_RINGS],
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Messages handed over.
    pub messages: usize,
    /// Buffers given back unused as they are no buffers for a message.
    pub bad_chains: u64,
    /// There may be more, but one round is as long as the ring.
    pub more: bool,
    /// The front end wants to be told: [`Rings::call`].
    pub call: bool,
}

/// As the ring has it.
#[allow(clippy::cast_possible_truncation, reason = "it is 64")]
const MESSAGE_LEN: u32 = MESSAGE_SIZE as u32;

#[derive(Clone, Copy)]
enum Direction {
    Readable,
    Writable,
}

impl Rings {
    /// The rings of a connection, in `memory`.
    pub fn new(rings: [Arc<Ring>; NUM_RINGS], memory: Memory, link: Arc<Link>) -> Self {
        Rings {
            rings,
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
        let mut ring = self.ring(PORTAL_RING).lock();
        let mut enabled = false;
        while ring.runs() && chains.len() < limit {
            let Some(head) = next_head(&mut ring, &memory) else {
                if chains.is_empty() && !enabled && more_after_enabling(&mut ring, &memory) {
                    enabled = true;
                    continue;
                }
                break;
            };
            let message = buffer(&ring, &memory, head, Direction::Readable).and_then(|address| {
                let mut message = Message::new_zeroed();
                memory.read_slice(message.as_mut_bytes(), address).ok()?;
                Some(message)
            });
            chains.push(PortalChain { head, message });
        }
        if !chains.is_empty() {
            silence(&mut ring, &memory);
        }
    }

    /// Gives chains of the portal ring back. Returns whether the front end wants to be told.
    pub fn complete(&self, chains: &[PortalChain]) -> bool {
        let memory = self.memory.memory();
        let mut ring = self.ring(PORTAL_RING).lock();
        for chain in chains {
            add_used(&mut ring, &memory, chain.head, 0);
        }
        !chains.is_empty() && wants_call(&ring, &memory)
    }

    /// Moves messages from `next` to the event ring while there are both, and at most as many as the
    /// ring has buffers.
    pub fn deliver(&self, mut next: impl FnMut() -> Option<Message>) -> Delivered {
        let memory = self.memory.memory();
        let mut ring = self.ring(EVENT_RING).lock();
        let mut done = Delivered::default();
        let mut starving = self.starving();
        let mut enabled = false;
        let mut left = ring.queue.size();
        while ring.runs() {
            if left == 0 {
                done.more = true;
                break;
            }
            let Some(head) = next_head(&mut ring, &memory) else {
                // Only now is a kick for a new buffer worth its price.
                starving = true;
                if !enabled && more_after_enabling(&mut ring, &memory) {
                    enabled = true;
                    continue;
                }
                break;
            };
            enabled = false;
            left -= 1;
            let Some(address) = buffer(&ring, &memory, head, Direction::Writable) else {
                done.bad_chains += 1;
                add_used(&mut ring, &memory, head, 0);
                continue;
            };
            let Some(message) = next() else {
                ring.queue.go_to_previous_position();
                starving = false;
                break;
            };
            // Cannot fail: buffer() has checked the range, and the memory is held.
            if let Err(e) = memory.write_slice(message.as_bytes(), address) {
                log::error!("event ring: cannot write to {address:?}: {e}");
            }
            add_used(&mut ring, &memory, head, MESSAGE_LEN);
            done.messages += 1;
        }
        self.starving.store(starving, Ordering::Relaxed);
        if !starving {
            silence(&mut ring, &memory);
        }
        done.call = done.messages as u64 + done.bad_chains > 0 && wants_call(&ring, &memory);
        done
    }

    /// Tells the front end that chains have been used. Must not be called with a lock held.
    pub fn call(&self, index: u16) {
        let call = self.ring(index).lock().call.clone();
        if let Some(Err(e)) = call.map(|call| call.notify()) {
            let text =
                format!("cannot signal the front end by the call eventfd of ring {index}: {e}");
            self.link.fail(&text);
        }
    }

    /// Whether a ring is being served.
    pub fn running(&self) -> bool {
        self.rings.iter().any(|ring| ring.lock().queue.ready())
    }

    fn ring(&self, index: u16) -> &Ring {
        &self.rings[usize::from(index)]
    }
}

fn next_head(ring: &mut RingState, memory: &GuestMemoryMmap) -> Option<u16> {
    match ring.queue.iter(memory) {
        Ok(mut chains) => chains.next().map(|chain| chain.head_index()),
        Err(virtio_queue::Error::QueueNotReady) => None,
        Err(e) => {
            // The index stays wrong until the front end sets it right, so say it once a kick.
            log::error!("a ring of the front end is broken: {e}");
            None
        }
    }
}

/// The address of the one buffer of a chain, if it is a chain for a message.
fn buffer(
    ring: &RingState,
    memory: &GuestMemoryMmap,
    head: u16,
    direction: Direction,
) -> Option<GuestAddress> {
    let queue = &ring.queue;
    if head >= queue.size() {
        return None;
    }
    let offset = u64::from(head) * size_of::<Descriptor>() as u64;
    let descriptor: Descriptor = memory
        .read_obj(GuestAddress(queue.desc_table()).checked_add(offset)?)
        .ok()?;
    let flags = u32::from(descriptor.flags());
    let (direction_fits, access) = match direction {
        Direction::Readable => (!descriptor.is_write_only(), Permissions::Read),
        Direction::Writable => (descriptor.is_write_only(), Permissions::Write),
    };
    let fits = direction_fits
        && flags & (VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT) == 0
        && descriptor.len() as usize == MESSAGE_SIZE
        && memory.check_range(descriptor.addr(), MESSAGE_SIZE, access);
    fits.then(|| descriptor.addr())
}

/// Asks for kicks, and says whether chains have come before the front end could see that.
fn more_after_enabling(ring: &mut RingState, memory: &GuestMemoryMmap) -> bool {
    let queue = &mut ring.queue;
    if !queue.ready() || !queue.enable_notification(memory).unwrap_or(false) {
        return false;
    }
    // A wrong index says "more" as well; nothing comes of it.
    queue.iter(memory).is_ok_and(|mut chains| {
        let more = chains.next().is_some();
        if more {
            chains.go_to_previous_position();
        }
        more
    })
}

/// Tells the front end that it need not kick.
fn silence(ring: &mut RingState, memory: &GuestMemoryMmap) {
    let queue = &mut ring.queue;
    if !queue.ready() {
        return;
    }
    if let Err(e) = queue.disable_notification(memory) {
        log::error!("a ring of the front end is broken: {e}");
    }
}

fn add_used(ring: &mut RingState, memory: &GuestMemoryMmap, head: u16, len: u32) {
    if let Err(e) = ring.queue.add_used(memory, head, len) {
        log::error!("cannot complete descriptor chain {head}: {e}");
    }
}

fn wants_call(ring: &RingState, memory: &GuestMemoryMmap) -> bool {
    // The used index must be visible before the front end's wish is read.
    fence(Ordering::SeqCst);
    let flags = memory.load::<u16>(GuestAddress(ring.queue.avail_ring()), Ordering::Relaxed);
    !flags.is_ok_and(|flags| u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT != 0)
}
