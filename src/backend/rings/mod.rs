// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device side of the two rings: 64-byte messages in descriptor chains of exactly one
//! descriptor.
//!
//! A ring is only touched with its lock held and while it is ready, so nothing is used or signalled
//! any more once GET_VRING_BASE has made it not ready.

mod fd_kind;
mod kick_call;
pub mod vring;

use std::{
    convert::Infallible,
    sync::{
        atomic::{fence, AtomicBool, Ordering},
        Arc,
    },
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

use self::{kick_call::Call, vring::Vring};
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
    memory: &'a GuestMemoryMmap,
    head: u16,
    address: GuestAddress,
}

impl<'a> Buffer<'a> {
    fn none(memory: &'a GuestMemoryMmap) -> Self {
        Buffer {
            memory,
            head: 0,
            address: GuestAddress(0),
        }
    }

    /// Puts a message into it.
    pub fn write(&self, message: &Message) -> Result<(), Infallible> {
        // Cannot fail: the range has been checked, and the memory is held.
        if let Err(e) = self.memory.write_slice(message.as_bytes(), self.address) {
            log::error!("event ring: cannot write to {:?}: {e}", self.address);
        }
        Ok(())
    }
}

/// Buffers of the event ring that are taken at a time.
const BATCH: usize = 16;
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

    /// Takes at most `limit` chains of the portal ring; the front end need not kick until an
    /// attempt has found none.
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

    /// Gives chains of the portal ring back.
    pub fn complete(&self, chains: &[PortalChain]) -> PendingCall {
        let memory = self.memory.memory();
        let mut ring = self.portal.get_mut();
        for chain in chains {
            add_used(&mut ring, &memory, chain.head, 0);
        }
        let wanted = !chains.is_empty() && wants_call(&ring, &memory);
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
        mut fill: impl FnMut(&[Buffer<'_>]) -> (usize, usize),
    ) -> Delivered {
        let memory = self.memory.memory();
        let mut ring = self.events.get_mut();
        let mut done = Delivered::default();
        let mut starving = self.starving();
        let mut enabled = false;
        let mut left = usize::from(ring.get_queue().size());
        while ring.is_enabled() && waiting > 0 {
            if left == 0 {
                done.more = true;
                break;
            }
            let mut buffers = [Buffer::none(&memory); BATCH];
            let most = waiting.min(left).min(BATCH);
            let (count, bad) = take_buffers(&mut ring, &memory, &mut buffers[..most]);
            done.bad_chains += u64::from(bad);
            left -= count + usize::from(bad);
            if count == 0 && bad {
                continue;
            }
            if count == 0 {
                // Only now is a kick for a new buffer worth its price.
                starving = true;
                if !enabled && more_after_enabling(&mut ring, &memory) {
                    enabled = true;
                    continue;
                }
                break;
            }
            enabled = false;
            let (used, then) = fill(&buffers[..count]);
            for buffer in &buffers[..used] {
                add_used(&mut ring, &memory, buffer.head, MESSAGE_LEN);
            }
            for _ in used..count {
                ring.get_queue_mut().go_to_previous_position();
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
            silence(&mut ring, &memory);
        }
        let used = done.messages > 0 || done.bad_chains > 0;
        if used && wants_call(&ring, &memory) {
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

/// Takes buffers until `buffers` is full, and says how many there were. A chain that is none is
/// given back if it is the first, and then there are none; else it is left for the next time.
fn take_buffers(
    ring: &mut VringState<Memory>,
    memory: &GuestMemoryMmap,
    buffers: &mut [Buffer<'_>],
) -> (usize, bool) {
    for (count, slot) in buffers.iter_mut().enumerate() {
        let Some(head) = next_head(ring, memory) else {
            return (count, false);
        };
        match buffer(ring, memory, head, Direction::Writable) {
            Some(address) => (slot.head, slot.address) = (head, address),
            None if count == 0 => {
                add_used(ring, memory, head, 0);
                return (0, true);
            }
            None => {
                ring.get_queue_mut().go_to_previous_position();
                return (count, false);
            }
        }
    }
    (buffers.len(), false)
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
