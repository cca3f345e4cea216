// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory shared with a device: anonymous pages that it reaches by DMA, and its BARs.

use std::{
    io,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use rustix::mm::{mmap, mmap_anonymous, munmap, MapFlags, ProtFlags};

/// A shared mapping that is accessed in whole, aligned words only.
pub struct Shared {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: all accesses are atomic.
unsafe impl Send for Shared {}
// SAFETY: all accesses are atomic.
unsafe impl Sync for Shared {}

impl Shared {
    /// Zeroed anonymous memory.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )?
        };
        Self::new(base, len)
    }

    /// A part of `fd`.
    pub fn of_file(fd: impl AsFd, offset: u64, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                offset,
            )?
        };
        Self::new(base, len)
    }

    fn new(base: *mut libc::c_void, len: usize) -> io::Result<Self> {
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Shared { base, len })
    }

    /// Where it is in this process.
    pub fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    fn word<const SIZE: usize>(&self, offset: usize) -> *mut u8 {
        assert!(
            offset % SIZE == 0 && offset + SIZE <= self.len,
            "offset {offset:#x} outside the mapping"
        );
        // SAFETY: within the mapping, as just checked.
        unsafe { self.base.as_ptr().add(offset) }
    }

    fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: mapped as long as self, aligned, and only accessed atomically in this process.
        unsafe { AtomicU32::from_ptr(self.word::<4>(offset).cast()) }
    }

    fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.word::<8>(offset).cast()) }
    }

    pub fn read32(&self, offset: usize) -> u32 {
        self.u32(offset).load(Ordering::Acquire)
    }

    pub fn write32(&self, offset: usize, value: u32) {
        self.u32(offset).store(value, Ordering::Release);
    }

    pub fn read64(&self, offset: usize) -> u64 {
        self.u64(offset).load(Ordering::Acquire)
    }

    pub fn write64(&self, offset: usize, value: u64) {
        self.u64(offset).store(value, Ordering::Release);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: our mapping, and nothing refers to it any more.
        if let Err(error) = unsafe { munmap(self.base.as_ptr().cast(), self.len) } {
            eprintln!("munmap: {error}");
        }
    }
}
