// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A ring while it is worked on: its parts are looked up once for many chains, and what has been
//! used is shown to the front end once.

use std::{
    num::Wrapping,
    sync::atomic::{fence, AtomicU16, AtomicU32, Ordering},
};

use virtio_bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_USED_F_NO_NOTIFY,
};
use virtio_queue::{desc::split::Descriptor, Error, Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileMemory, VolatileSlice};

use crate::wire::MESSAGE_SIZE;

#[allow(clippy::cast_possible_truncation, reason = "it is 1")]
const NO_INTERRUPT: u16 = VRING_AVAIL_F_NO_INTERRUPT as u16;
#[allow(clippy::cast_possible_truncation, reason = "it is 1")]
const NO_NOTIFY: u16 = VRING_USED_F_NO_NOTIFY as u16;
// Of the available ring and of the used ring: flags, index, elements.
const FLAGS: usize = 0;
const INDEX: usize = 2;
const ELEMENTS: usize = 4;
const HEAD: usize = 2;
const USED: usize = 8;
const LENGTH: usize = 4;

/// Who may write a buffer.
#[derive(Clone, Copy)]
pub enum Direction {
    Readable,
    Writable,
}

/// A ring whose lock is held. What is taken and used counts when it is dropped, at the latest.
pub struct Batch<'a> {
    queue: &'a mut Queue,
    memory: &'a GuestMemoryMmap,
    table: VolatileSlice<'a>,
    available: VolatileSlice<'a>,
    used: VolatileSlice<'a>,
    size: u16,
    /// The next chain to be taken.
    next: Wrapping<u16>,
    /// What the front end has offered, as it was seen last.
    end: Wrapping<u16>,
    /// The next place in the used ring.
    next_used: Wrapping<u16>,
    /// What the front end sees of it.
    shown: Wrapping<u16>,
}

impl<'a> Batch<'a> {
    /// A ring whose parts lie in `memory`. `None`: they do not, which is logged, or it has none.
    pub fn begin(queue: &'a mut Queue, memory: &'a GuestMemoryMmap) -> Option<Self> {
        if queue.avail_ring() == 0 {
            return None;
        }
        let size = queue.size();
        let elements = usize::from(size);
        let part = |address, length| memory.get_slice(GuestAddress(address), length);
        let parts =
            part(queue.desc_table(), elements * size_of::<Descriptor>()).and_then(|table| {
                let available = part(queue.avail_ring(), ELEMENTS + elements * HEAD)?;
                let used = part(queue.used_ring(), ELEMENTS + elements * USED)?;
                Ok((table, available, used))
            });
        let (table, available, used) = parts.map_err(|e| broken(&Error::GuestMemory(e))).ok()?;
        let (next, next_used) = (Wrapping(queue.next_avail()), Wrapping(queue.next_used()));
        Some(Batch {
            queue,
            memory,
            table,
            available,
            used,
            size,
            next,
            end: next,
            next_used,
            shown: next_used,
        })
    }

    /// Descriptors of the ring.
    pub fn size(&self) -> usize {
        self.size.into()
    }

    /// Takes the next chain that has been offered.
    pub fn next(&mut self) -> Option<u16> {
        if self.next == self.end {
            match self.offered() {
                Some(end) => self.end = end,
                // The index stays wrong until the front end sets it right, so say it once a kick.
                None => broken(&Error::InvalidAvailRingIndex),
            }
        }
        if self.next == self.end {
            return None;
        }
        let place = ELEMENTS + usize::from(self.next.0 % self.size) * HEAD;
        let head = self.load(self.available, place, Ordering::Relaxed)?;
        self.next += 1;
        Some(head)
    }

    /// Leaves the chain that was taken last for the next time.
    pub fn put_back(&mut self) {
        self.next -= 1;
    }

    /// The one buffer of a chain, if it is a chain for a message.
    pub fn buffer(&self, head: u16, direction: Direction) -> Option<VolatileSlice<'a>> {
        if head >= self.size {
            return None;
        }
        let place = usize::from(head) * size_of::<Descriptor>();
        // Once, as the front end may change it meanwhile.
        let descriptor: Descriptor = self.table.get_ref(place).ok()?.load();
        let flags = u32::from(descriptor.flags());
        let direction_fits = match direction {
            Direction::Readable => !descriptor.is_write_only(),
            Direction::Writable => descriptor.is_write_only(),
        };
        let fits = direction_fits
            && flags & (VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT) == 0
            && descriptor.len() as usize == MESSAGE_SIZE;
        let place = fits.then(|| self.memory.get_slice(descriptor.addr(), MESSAGE_SIZE));
        place?.ok()
    }

    /// Gives a chain back; [`Self::show`] lets the front end see it.
    pub fn use_up(&mut self, head: u16, length: u32) {
        if head >= self.size {
            let e = Error::InvalidDescriptorIndex;
            log::error!("cannot complete descriptor chain {head}: {e}");
            return;
        }
        let place = ELEMENTS + usize::from(self.next_used.0 % self.size) * USED;
        for (place, word) in [(place, u32::from(head)), (place + LENGTH, length)] {
            if let Ok(to) = self.used.get_atomic_ref::<AtomicU32>(place) {
                to.store(word.to_le(), Ordering::Relaxed);
            }
        }
        self.next_used += 1;
    }

    /// Lets the front end see what has been used.
    pub fn show(&mut self) {
        if self.shown != self.next_used {
            self.store(INDEX, self.next_used.0, Ordering::Release);
            self.shown = self.next_used;
        }
    }

    /// Whether the front end wants to be told of what it has just been shown.
    pub fn wants_call(&mut self) -> bool {
        self.show();
        // The used index must be visible before the front end's wish is read.
        fence(Ordering::SeqCst);
        let flags = self.load(self.available, FLAGS, Ordering::Relaxed);
        flags.is_none_or(|flags| flags & NO_INTERRUPT == 0)
    }

    /// Asks for kicks, and says whether chains have come before the front end could see that.
    pub fn more_after_asking(&mut self) -> bool {
        self.store(FLAGS, 0, Ordering::Relaxed);
        // The wish must be visible before the index is read.
        fence(Ordering::SeqCst);
        self.waits()
    }

    /// Whether a chain has been offered that has not been taken. A wrong index is none.
    pub fn waits(&self) -> bool {
        self.offered().is_some_and(|end| end != self.next)
    }

    /// Tells the front end that it need not kick.
    pub fn silence(&self) {
        self.store(FLAGS, NO_NOTIFY, Ordering::Relaxed);
    }

    /// What the front end has offered, unless it is more than the ring has.
    fn offered(&self) -> Option<Wrapping<u16>> {
        let end = Wrapping(self.load(self.available, INDEX, Ordering::Acquire)?);
        ((end - self.next).0 <= self.size).then_some(end)
    }

    fn load(&self, from: VolatileSlice<'a>, place: usize, order: Ordering) -> Option<u16> {
        let word = from.get_atomic_ref::<AtomicU16>(place).ok()?;
        Some(u16::from_le(word.load(order)))
    }

    fn store(&self, place: usize, value: u16, order: Ordering) {
        if let Ok(word) = self.used.get_atomic_ref::<AtomicU16>(place) {
            word.store(value.to_le(), order);
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.show();
        self.queue.set_next_avail(self.next.0);
        self.queue.set_next_used(self.next_used.0);
    }
}

fn broken(e: &Error) {
    log::error!("a ring of the front end is broken: {e}");
}
