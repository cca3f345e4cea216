// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device side of the two rings: 64-byte messages in descriptor chains of exactly one descriptor.
//!
//! A ring is only touched with its lock held and while it is ready, so nothing is used or signalled
//! any more once GET_VRING_BASE has made it not ready.

use std::sync::{
    atomic::{fence, AtomicBool, Ordering},
    Arc,
};

use vhost_user_backend::{VringState, VringT};
use virtio_bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT,
};
use virtio_queue::{desc::split::Descriptor, QueueOwnedT, QueueT};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryAtomic,
    GuestMemoryMmap, Permissions,
};

use zerocopy::{FromZeros, IntoBytes};

use super::{kick_call::Call, link::Link, vring::Vring};
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
    /// The front end wants to be told: [`Rings::notify`].
    pub call: Option<Arc<Call>>,
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

    /// Takes at most `limit` chains of the portal ring; the front end need not kick until an attempt
    /// has found none.
    pub fn take(&self, limit: usize, chains: &mut Vec<PortalChain>) {
        chains.clear();
        let memory = self.memory.memory();
        let mut ring = self.portal.get_mut();
        let mut enabled = false;
        while ring.is_enabled() && chains.len() < limit {
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

    /// Gives chains of the portal ring back. What it returns is for [`Self::notify`].
    pub fn complete(&self, chains: &[PortalChain]) -> Option<Arc<Call>> {
        let memory = self.memory.memory();
        let mut ring = self.portal.get_mut();
        for chain in chains {
            add_used(&mut ring, &memory, chain.head, 0);
        }
        let wanted = !chains.is_empty() && wants_call(&ring, &memory);
        wanted.then(|| self.portal.call()).flatten()
    }

    /// Moves messages from `next` to the event ring while there are both, and at most as many as the
    /// ring has buffers.
    pub fn deliver(&self, mut next: impl FnMut() -> Option<Message>) -> Delivered {
        let memory = self.memory.memory();
        let mut ring = self.events.get_mut();
        let mut done = Delivered::default();
        let mut starving = self.starving();
        let mut enabled = false;
        let mut left = ring.get_queue().size();
        while ring.is_enabled() {
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
                ring.get_queue_mut().go_to_previous_position();
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
        let used = done.messages > 0 || done.bad_chains > 0;
        if used && wants_call(&ring, &memory) {
            done.call = self.events.call();
        }
        done
    }

    /// Tells the front end that chains have been used. Must not be called with a lock held.
    pub fn notify(&self, call: Option<Arc<Call>>) {
        if let Some(Err(e)) = call.map(|call| call.notify()) {
            self.link.fail(&format!("cannot signal the front end: {e}"));
        }
    }

    /// Waits until the front end is not being told about a ring any more. It is not ready any more.
    pub fn calls_at_rest(&self, index: u16) {
        match index {
            PORTAL_RING => self.portal.calls_at_rest(),
            EVENT_RING => self.events.calls_at_rest(),
            _ => {}
        }
    }

    /// Whether a ring is being served.
    pub fn running(&self) -> bool {
        [&self.portal, &self.events]
            .iter()
            .any(|ring| ring.get_ref().get_queue().ready())
    }
}

fn next_head(ring: &mut VringState<Memory>, memory: &GuestMemoryMmap) -> Option<u16> {
    match ring.get_queue_mut().iter(memory) {
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
    ring: &VringState<Memory>,
    memory: &GuestMemoryMmap,
    head: u16,
    direction: Direction,
) -> Option<GuestAddress> {
    let queue = ring.get_queue();
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
fn more_after_enabling(ring: &mut VringState<Memory>, memory: &GuestMemoryMmap) -> bool {
    let queue = ring.get_queue_mut();
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
fn silence(ring: &mut VringState<Memory>, memory: &GuestMemoryMmap) {
    let queue = ring.get_queue_mut();
    if !queue.ready() {
        return;
    }
    if let Err(e) = queue.disable_notification(memory) {
        log::error!("a ring of the front end is broken: {e}");
    }
}

fn add_used(ring: &mut VringState<Memory>, memory: &GuestMemoryMmap, head: u16, len: u32) {
    if let Err(e) = ring.get_queue_mut().add_used(memory, head, len) {
        log::error!("cannot complete descriptor chain {head}: {e}");
    }
}

fn wants_call(ring: &VringState<Memory>, memory: &GuestMemoryMmap) -> bool {
    // The used index must be visible before the front end's wish is read.
    fence(Ordering::SeqCst);
    let avail = GuestAddress(ring.get_queue().avail_ring());
    let flags = memory.load::<u16>(avail, Ordering::Relaxed);
    !flags.is_ok_and(|flags| u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT != 0)
}
