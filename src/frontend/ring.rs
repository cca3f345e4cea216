// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The driver side of a split virtqueue with one 64-byte buffer for each descriptor.

use std::{
    num::Wrapping,
    sync::atomic::{fence, Ordering},
};

use virtio_bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_WRITE, VRING_USED_F_NO_NOTIFY,
};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;
use zerocopy::{FromZeros, IntoBytes};

use super::FrontendError;
use crate::wire::{Message, MESSAGE_SIZE};

#[allow(clippy::cast_possible_truncation, reason = "it is 2")]
const DESC_F_WRITE: u16 = VRING_DESC_F_WRITE as u16;
#[allow(clippy::cast_possible_truncation, reason = "it is 1")]
const AVAIL_F_NO_INTERRUPT: u16 = VRING_AVAIL_F_NO_INTERRUPT as u16;
/// As the ring has it.
#[allow(clippy::cast_possible_truncation, reason = "it is 64")]
const MESSAGE_LEN: u32 = MESSAGE_SIZE as u32;

/// Who writes the buffers of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The front end.
    ToBackend,
    /// The back-end.
    FromBackend,
}

/// Where the parts of a ring are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of descriptors, a power of two.
    pub size: u16,
    /// Descriptor table.
    pub descriptors: GuestAddress,
    /// Available ring.
    pub available: GuestAddress,
    /// Used ring.
    pub used: GuestAddress,
    /// One buffer for each descriptor.
    pub buffers: GuestAddress,
}

impl Layout {
    const ALIGNMENT: u64 = 64;

    /// Puts a ring at `start` and says where it ends.
    pub fn at(start: GuestAddress, size: u16) -> (Self, GuestAddress) {
        let size64 = u64::from(size);
        let after = |part: GuestAddress, bytes: u64| {
            part.unchecked_add(bytes.next_multiple_of(Self::ALIGNMENT))
        };
        let descriptors = start;
        let available = after(descriptors, 16 * size64);
        let used = after(available, 6 + 2 * size64);
        let buffers = after(used, 6 + 8 * size64);
        let layout = Self {
            size,
            descriptors,
            available,
            used,
            buffers,
        };
        (layout, after(buffers, MESSAGE_SIZE as u64 * size64))
    }

    fn element(
        base: GuestAddress,
        header: u64,
        index: Wrapping<u16>,
        size: u16,
        bytes: u64,
    ) -> GuestAddress {
        base.unchecked_add(header + u64::from(index.0 % size) * bytes)
    }
}

/// A chain that the back-end has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Head of the chain.
    pub head: u16,
    /// Bytes that the back-end wrote.
    pub len: u32,
}

/// One ring as its driver sees it.
///
/// [`super::Frontend`] is what a VMM uses. The parts here are public so that tests of a back-end
/// can make rings that no proper driver makes.
pub struct Ring {
    memory: GuestMemoryMmap,
    layout: Layout,
    direction: Direction,
    next_available: Wrapping<u16>,
    next_used: Wrapping<u16>,
    free: Vec<u16>,
    kick: EventFd,
    call: EventFd,
}

impl Ring {
    pub(super) fn new(
        memory: GuestMemoryMmap,
        layout: Layout,
        direction: Direction,
    ) -> Result<Self, FrontendError> {
        let event = || {
            EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)
                .map_err(FrontendError::system("cannot create an eventfd"))
        };
        let mut ring = Self {
            memory,
            layout,
            direction,
            next_available: Wrapping(0),
            next_used: Wrapping(0),
            free: (0..layout.size).rev().collect(),
            kick: event()?,
            call: event()?,
        };
        if direction == Direction::FromBackend {
            while let Some(head) = ring.free.pop() {
                ring.offer(head)?;
            }
        }
        Ok(ring)
    }

    /// Where the ring is.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Tells the back-end of new chains.
    pub fn kick_fd(&self) -> &EventFd {
        &self.kick
    }

    /// Readable when the back-end has used chains.
    pub fn call_fd(&self) -> &EventFd {
        &self.call
    }

    /// Index of the next chain that the back-end has not taken, if it has taken all it was offered.
    pub fn next_available(&self) -> u16 {
        self.next_available.0
    }

    /// Chains offered and not used yet.
    pub fn in_flight(&self) -> u16 {
        (self.next_available - self.next_used).0
    }

    /// A descriptor that is not in use.
    pub fn take_free(&mut self) -> Option<u16> {
        self.free.pop()
    }

    /// Gives a descriptor back.
    pub fn put_free(&mut self, head: u16) {
        self.free.push(head);
    }

    /// Address of the buffer that belongs to a descriptor.
    pub fn buffer(&self, index: u16) -> GuestAddress {
        self.layout
            .buffers
            .unchecked_add(u64::from(index) * MESSAGE_SIZE as u64)
    }

    /// Writes a message into the buffer that belongs to a descriptor.
    pub fn write_buffer(&self, index: u16, message: &Message) -> Result<(), FrontendError> {
        self.memory
            .write_slice(message.as_bytes(), self.buffer(index))
            .map_err(memory_error)
    }

    /// Reads the message in the buffer that belongs to a descriptor.
    pub fn read_buffer(&self, index: u16) -> Result<Message, FrontendError> {
        let mut message = Message::new_zeroed();
        self.memory
            .read_slice(message.as_mut_bytes(), self.buffer(index))
            .map_err(memory_error)?;
        Ok(message)
    }

    /// Writes any descriptor.
    pub fn write_descriptor(
        &self,
        index: u16,
        descriptor: Descriptor,
    ) -> Result<(), FrontendError> {
        let address = Layout::element(
            self.layout.descriptors,
            0,
            Wrapping(index),
            self.layout.size,
            16,
        );
        self.memory
            .write_obj(descriptor, address)
            .map_err(memory_error)
    }

    /// Makes the chain that begins at `head` available, which may be any number.
    pub fn publish(&mut self, head: u16) -> Result<(), FrontendError> {
        let slot = Layout::element(
            self.layout.available,
            4,
            self.next_available,
            self.layout.size,
            2,
        );
        self.memory
            .store(head.to_le(), slot, Ordering::Relaxed)
            .map_err(memory_error)?;
        self.next_available += 1;
        self.set_available_index(self.next_available.0)
    }

    /// Sets the available index, to any number.
    pub fn set_available_index(&self, index: u16) -> Result<(), FrontendError> {
        let address = self.layout.available.unchecked_add(2);
        self.memory
            .store(index.to_le(), address, Ordering::Release)
            .map_err(memory_error)
    }

    /// Says whether the back-end is to call when it has used chains. It may have used some just
    /// before.
    pub fn want_calls(&self, wanted: bool) -> Result<(), FrontendError> {
        let flags = if wanted { 0 } else { AVAIL_F_NO_INTERRUPT };
        self.memory
            .store(flags.to_le(), self.layout.available, Ordering::Relaxed)
            .map_err(memory_error)?;
        // The back-end is to see it before its used index is looked at.
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Makes a buffer available as a chain of one descriptor.
    pub fn offer(&mut self, head: u16) -> Result<(), FrontendError> {
        let flags = match self.direction {
            Direction::ToBackend => 0,
            Direction::FromBackend => DESC_F_WRITE,
        };
        let descriptor = Descriptor::new(self.buffer(head).raw_value(), MESSAGE_LEN, flags, 0);
        self.write_descriptor(head, descriptor)?;
        self.publish(head)
    }

    /// Whether the back-end has to be told of new chains, which it does not look for by itself.
    pub fn kicks_wanted(&self) -> Result<bool, FrontendError> {
        fence(Ordering::SeqCst);
        let flags: u16 = self
            .memory
            .load(self.layout.used, Ordering::Relaxed)
            .map_err(memory_error)?;
        Ok(u32::from(u16::from_le(flags)) & VRING_USED_F_NO_NOTIFY == 0)
    }

    /// Tells the back-end that there are new chains, unless it has said that it looks by itself.
    pub fn kick(&self) -> Result<(), FrontendError> {
        if !self.kicks_wanted()? {
            return Ok(());
        }
        self.kick
            .write(1)
            .map_err(FrontendError::system("cannot kick"))
    }

    /// The next chain that the back-end has used. When there is none, [`Self::call_fd`] has been
    /// cleared.
    pub fn reap(&mut self) -> Result<Option<Used>, FrontendError> {
        if let Some(used) = self.next_used()? {
            return Ok(Some(used));
        }
        // EAGAIN: it was clear.
        let _ = self.call.read();
        self.next_used()
    }

    /// The next chain that the back-end has used.
    pub fn next_used(&mut self) -> Result<Option<Used>, FrontendError> {
        let index: u16 = self
            .memory
            .load(self.layout.used.unchecked_add(2), Ordering::Acquire)
            .map_err(memory_error)?;
        let behind = Wrapping(u16::from_le(index)) - self.next_used;
        if behind.0 == 0 {
            return Ok(None);
        }
        if behind.0 > self.layout.size {
            return Err(FrontendError::Protocol(format!(
                "used index {index} is {behind} ahead"
            )));
        }
        let slot = Layout::element(self.layout.used, 4, self.next_used, self.layout.size, 8);
        let words: [u32; 2] = self.memory.read_obj(slot).map_err(memory_error)?;
        self.next_used += 1;
        let id = u32::from_le(words[0]);
        let head = u16::try_from(id)
            .ok()
            .filter(|head| *head < self.layout.size)
            .ok_or_else(|| FrontendError::Protocol(format!("used chain {id} does not exist")))?;
        Ok(Some(Used {
            head,
            len: u32::from_le(words[1]),
        }))
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn memory_error(e: GuestMemoryError) -> FrontendError {
    FrontendError::Protocol(format!("ring memory: {e}"))
}
