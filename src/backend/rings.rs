// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device side of the two rings: 64-byte messages in descriptor chains of exactly one descriptor.
//!
//! A ring is only touched with its lock held and while it is ready, so nothing is used or signalled
//! any more once GET_VRING_BASE has made it not ready.

use std::{
    ops::Deref,
    sync::{
        atomic::{fence, AtomicBool, Ordering},
        Arc,
    },
};

use vhost_user_backend::{VringMutex, VringState, VringT};
use virtio_bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT,
};
use virtio_queue::{desc::split::Descriptor, QueueOwnedT, QueueT};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryAtomic,
    GuestMemoryMmap, Permissions,
};

use zerocopy::{FromZeros, IntoBytes};

use crate::wire::{Message, MESSAGE_SIZE};

/// The front end's ring memory.
pub type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
/// A ring, shared with the vhost-user library.
pub type Vring = VringMutex<Memory>;

/// The two rings of one connection.
#[derive(Clone)]
pub struct Rings {
    portal: Vring,
    events: Vring,
    memory: Memory,
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
    pub fn new(portal: Vring, events: Vring, memory: Memory) -> Self {
        Rings {
            portal,
            events,
            memory,
            starving: Arc::default(),
        }
    }

    /// Whether messages wait for buffers.
    pub fn starving(&self) -> bool {
        self.starving.load(Ordering::Relaxed)
    }

    /// Lets `work` have the chains of the portal ring, up to `limit` at a time, and gives them back,
    /// until there are none or `work` says that it wants no more.
    pub fn work_on_portal(
        &self,
        limit: usize,
        chains: &mut Vec<PortalChain>,
        mut work: impl FnMut(&[PortalChain]) -> bool,
    ) {
        loop {
            self.take(limit, chains);
            if chains.is_empty() {
                return;
            }
            let go_on = work(chains);
            self.complete(chains);
            if !go_on {
                return;
            }
        }
    }

    /// Takes chains; the front end need not kick until an attempt has found none.
    fn take(&self, limit: usize, chains: &mut Vec<PortalChain>) {
        chains.clear();
        let memory = self.memory.memory();
        let mut ring = self.portal.get_mut();
        while ring.is_enabled() && chains.len() < limit {
            let Some(head) = next_head(&mut ring, &memory) else {
                if chains.is_empty() && more_after_enabling(&mut ring, &memory) {
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

    fn complete(&self, chains: &[PortalChain]) {
        let memory = self.memory.memory();
        let mut ring = self.portal.get_mut();
        for chain in chains {
            add_used(&mut ring, &memory, chain.head, 0);
        }
        signal(&ring, &memory);
    }

    /// Moves messages from `next` to the event ring while there are both, and tells the front end
    /// once.
    pub fn deliver(&self, mut next: impl FnMut() -> Option<Message>) -> Delivered {
        let memory = self.memory.memory();
        let mut ring = self.events.get_mut();
        let mut done = Delivered::default();
        let mut starving = self.starving();
        while ring.is_enabled() {
            let Some(head) = next_head(&mut ring, &memory) else {
                // Only now is a kick for a new buffer worth its price.
                starving = true;
                if more_after_enabling(&mut ring, &memory) {
                    continue;
                }
                break;
            };
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
        if done != Delivered::default() {
            signal(&ring, &memory);
        }
        done
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

fn signal(ring: &VringState<Memory>, memory: &impl Deref<Target = GuestMemoryMmap>) {
    // The used index must be visible before the front end's wish is read.
    fence(Ordering::SeqCst);
    let unwanted = memory
        .load::<u16>(
            GuestAddress(ring.get_queue().avail_ring()),
            Ordering::Relaxed,
        )
        .is_ok_and(|flags| u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT != 0);
    if unwanted {
        return;
    }
    if let Err(e) = ring.signal_used_queue() {
        log::error!("cannot signal the front end: {e}");
    }
}
