// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A split virtqueue that is as cheap as it can be: its words are looked up once.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd},
    sync::atomic::{fence, AtomicU16, AtomicU32, Ordering},
};

use rustix::fs::{fcntl_add_seals, fcntl_getfl, fcntl_setfl, memfd_create};
use rustix::fs::{MemfdFlags, OFlags, SealFlags};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    VolatileMemory, VolatileSlice,
};
use vmm_sys_util::eventfd::EventFd;

/// Where the memory of the rings begins, for the device.
pub const BASE: u64 = 0x1000_0000;
/// Bytes of a ring with its buffers.
const ROOM: usize = 1 << 21;
const PAGE: usize = 4096;
const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;
const NO_NOTIFICATION: u16 = 1;

/// Memory that two processes share. It stays as long as the process.
pub struct Shared {
    /// As vhost has it.
    pub memory: &'static GuestMemoryMmap,
    bytes: &'static VolatileSlice<'static>,
    /// The memfd.
    pub file: File,
}

impl Shared {
    /// Room for so many rings.
    pub fn new(rings: usize) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("vsva-bench", flags)?);
        file.set_len((rings * ROOM) as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
        Self::map(file)
    }

    /// The same memory, in another process.
    pub fn map(file: File) -> io::Result<Self> {
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let range = (
            GuestAddress(BASE),
            length,
            Some(FileOffset::new(file.try_clone()?, 0)),
        );
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).map_err(io::Error::other)?;
        let memory: &'static GuestMemoryMmap = Box::leak(Box::new(memory));
        let region = memory.find_region(GuestAddress(BASE));
        let region = region.ok_or_else(|| io::Error::other("no region"))?;
        let bytes = region.as_volatile_slice().map_err(io::Error::other)?;
        Ok(Shared {
            memory,
            bytes: Box::leak(Box::new(bytes)),
            file,
        })
    }
}

/// Where the parts of a ring are, from the start of the memory.
#[derive(Clone, Copy)]
pub struct Places {
    /// Descriptors.
    pub table: usize,
    /// Available ring.
    pub available: usize,
    /// Used ring.
    pub used: usize,
    buffers: usize,
}

/// A ring, from either side.
pub struct Ring {
    bytes: &'static VolatileSlice<'static>,
    /// Where it is.
    pub places: Places,
    /// Descriptors.
    pub size: u16,
    buffer_size: usize,
    available_flags: &'static AtomicU16,
    available_index: &'static AtomicU16,
    used_flags: &'static AtomicU16,
    used_index: &'static AtomicU16,
    available: Vec<&'static AtomicU16>,
    used_ids: Vec<&'static AtomicU32>,
    used_lengths: Vec<&'static AtomicU32>,
    next_available: u16,
    /// The device has been told of the chains before it.
    kicked: u16,
    next_used: u16,
    /// To look again and again instead of waiting for calls.
    pub busy: bool,
    /// Tells the device of chains.
    pub kick: EventFd,
    /// Tells the driver of used chains; reading it waits.
    pub call: EventFd,
}

impl Ring {
    /// Ring number `index` of the memory, whose buffers have `buffer_size` bytes.
    pub fn new(shared: &Shared, index: usize, size: u16, buffer_size: usize) -> io::Result<Self> {
        // Without CLOEXEC, a child would keep them: there is none that is not handed them.
        let event = || EventFd::new(0);
        Self::with(shared, index, size, buffer_size, event()?, event()?)
    }

    /// The same, with the eventfds that the other process has.
    pub fn with(
        shared: &Shared,
        index: usize,
        size: u16,
        buffer_size: usize,
        kick: EventFd,
        call: EventFd,
    ) -> io::Result<Self> {
        let bytes = shared.bytes;
        let n = usize::from(size);
        let table = index * ROOM;
        let available = table + 16 * n;
        let used = (available + 6 + 2 * n).next_multiple_of(64);
        let buffers = (used + 6 + 8 * n).next_multiple_of(PAGE);
        let places = Places {
            table,
            available,
            used,
            buffers,
        };
        assert!(buffers + n * buffer_size <= table + ROOM, "it does not fit");
        let word = |at| {
            bytes
                .get_atomic_ref::<AtomicU16>(at)
                .map_err(io::Error::other)
        };
        let long = |at| {
            bytes
                .get_atomic_ref::<AtomicU32>(at)
                .map_err(io::Error::other)
        };
        Ok(Ring {
            bytes,
            places,
            size,
            buffer_size,
            available_flags: word(available)?,
            available_index: word(available + 2)?,
            used_flags: word(used)?,
            used_index: word(used + 2)?,
            available: (0..n)
                .map(|i| word(available + 4 + 2 * i))
                .collect::<Result<_, _>>()?,
            used_ids: (0..n)
                .map(|i| long(used + 4 + 8 * i))
                .collect::<Result<_, _>>()?,
            used_lengths: (0..n)
                .map(|i| long(used + 8 + 8 * i))
                .collect::<Result<_, _>>()?,
            next_available: 0,
            kicked: 0,
            next_used: 0,
            busy: false,
            kick,
            call,
        })
    }

    /// The device of this ring makes the call's file one that does not wait: takes that back.
    pub fn let_calls_wait(&self) -> io::Result<()> {
        // SAFETY: the eventfd keeps its descriptor open as long as it is borrowed here.
        let fd = unsafe { BorrowedFd::borrow_raw(self.call.as_raw_fd()) };
        Ok(fcntl_setfl(fd, fcntl_getfl(fd)? & !OFlags::NONBLOCK)?)
    }

    fn buffer(&self, head: u16) -> usize {
        self.places.buffers + usize::from(head) * self.buffer_size
    }

    fn slot(&self, index: u16) -> usize {
        usize::from(index % self.size)
    }

    /// Writes into a buffer.
    pub fn write(&self, head: u16, data: &[u8]) {
        if let Ok(place) = self.bytes.subslice(self.buffer(head), data.len()) {
            place.copy_from(data);
        }
    }

    /// Reads from a buffer.
    pub fn read(&self, head: u16, data: &mut [u8]) {
        if let Ok(place) = self.bytes.subslice(self.buffer(head), data.len()) {
            place.copy_to(data);
        }
    }

    /// Makes descriptor `head` one of `length` bytes in its own buffer.
    pub fn describe(&self, head: u16, length: u32, writable: bool, next: Option<u16>) {
        let flags = if writable { F_WRITE } else { 0 } | if next.is_some() { F_NEXT } else { 0 };
        let address = BASE + self.buffer(head) as u64;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.unwrap_or(0).to_le_bytes());
        let at = self.places.table + 16 * usize::from(head);
        if let Ok(place) = self.bytes.subslice(at, 16) {
            place.copy_from(&bytes[..]);
        }
    }

    // The driver's side.

    /// Makes a chain available.
    pub fn offer(&mut self, head: u16) {
        self.available[self.slot(self.next_available)].store(head, Ordering::Relaxed);
        self.next_available = self.next_available.wrapping_add(1);
        self.available_index
            .store(self.next_available, Ordering::Release);
    }

    /// Kicks, unless the device says that it looks by itself.
    pub fn kick(&mut self) -> io::Result<()> {
        if self.kicked == self.next_available {
            return Ok(());
        }
        self.kicked = self.next_available;
        fence(Ordering::SeqCst);
        if self.used_flags.load(Ordering::Relaxed) & NO_NOTIFICATION != 0 {
            return Ok(());
        }
        self.kick.write(1)
    }

    /// Whether to be called.
    pub fn want_calls(&self, wanted: bool) {
        let flags = if wanted { 0 } else { NO_NOTIFICATION };
        self.available_flags.store(flags, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The next chain that the device has used.
    pub fn reap(&mut self) -> Option<u16> {
        if self.used_index.load(Ordering::Acquire) == self.next_used {
            return None;
        }
        let id = self.used_ids[self.slot(self.next_used)].load(Ordering::Relaxed);
        self.next_used = self.next_used.wrapping_add(1);
        u16::try_from(id).ok()
    }

    /// The same, waiting for it. What has been offered before is kicked for then.
    pub fn wait(&mut self) -> io::Result<u16> {
        loop {
            if let Some(head) = self.reap() {
                return Ok(head);
            }
            self.kick()?;
            if self.busy {
                std::hint::spin_loop();
            } else {
                self.call.read()?;
            }
        }
    }

    // The device's side.

    /// The next chain that the driver offers.
    pub fn take(&mut self) -> Option<u16> {
        if self.available_index.load(Ordering::Acquire) == self.next_available {
            return None;
        }
        let head = self.available[self.slot(self.next_available)].load(Ordering::Relaxed);
        self.next_available = self.next_available.wrapping_add(1);
        Some(head % self.size)
    }

    /// Gives a chain back; the driver sees it after [`Self::publish`].
    pub fn use_up(&mut self, head: u16, length: u32) {
        let slot = self.slot(self.next_used);
        self.used_ids[slot].store(head.into(), Ordering::Relaxed);
        self.used_lengths[slot].store(length, Ordering::Relaxed);
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Shows what has been given back, and says whether the driver wants a call.
    pub fn publish(&self) -> bool {
        self.used_index.store(self.next_used, Ordering::Release);
        fence(Ordering::SeqCst);
        self.available_flags.load(Ordering::Relaxed) & NO_NOTIFICATION == 0
    }

    /// Whether to be kicked.
    pub fn want_kicks(&self, wanted: bool) {
        let flags = if wanted { 0 } else { NO_NOTIFICATION };
        self.used_flags.store(flags, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
}
