// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory in which the back-end says what it is doing, without being asked.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use rustix::{
    fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags},
    io::{pwrite, Errno},
};
use vm_memory::{FileOffset, MmapRegion};
use zerocopy::IntoBytes;

use super::FrontendError;
use crate::{
    seqlock::StatusCell,
    wire::{
        MemoryHeader, SharedMemoryRequest, StatusBlock, MEMORY_HEADER_SIZE, MEMORY_MAGIC,
        MEMORY_SIZE_MIN, MEMORY_VERSION, STATUS_ROOM_MIN, U32, U64,
    },
};

const SIZE: u64 = MEMORY_SIZE_MIN;
const STATUS_OFFSET: usize = MEMORY_HEADER_SIZE;

/// Memory for [`super::AttachChannel::share_memory`]. It can be read at any time, also when the
/// back-end has ended.
pub struct SharedMemory {
    file: Arc<File>,
    generation: u64,
    status: StatusCell,
}

impl SharedMemory {
    /// New memory; `generation` tells it from others of the same front end.
    pub fn new(generation: u64) -> Result<Self, FrontendError> {
        let failed = FrontendError::system("shared memory");
        let header = MemoryHeader {
            magic: U64::new(MEMORY_MAGIC),
            version: U32::new(MEMORY_VERSION),
            header_size: U32::new(u32::try_from(MEMORY_HEADER_SIZE).unwrap_or(u32::MAX)),
            total_size: U64::new(SIZE),
            generation: U64::new(generation),
            status_offset: U32::new(u32::try_from(STATUS_OFFSET).unwrap_or(u32::MAX)),
            status_room: U32::new(STATUS_ROOM_MIN),
            reserved: [0; 24],
        };
        let make = || {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let fd = memfd_create("vsva-shared", flags)?;
            ftruncate(&fd, SIZE)?;
            pwrite(&fd, header.as_bytes(), 0)?;
            fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
            Ok::<File, Errno>(File::from(fd))
        };
        let file = Arc::new(make().map_err(failed)?);
        let size = usize::try_from(SIZE).unwrap_or(usize::MAX);
        let status = MmapRegion::from_file(FileOffset::from_arc(file.clone(), 0), size)
            .ok()
            .and_then(|memory| StatusCell::new(memory, STATUS_OFFSET))
            .ok_or_else(|| FrontendError::system("shared memory")(Errno::NOMEM))?;
        Ok(Self {
            file,
            generation,
            status,
        })
    }

    /// What the back-end has last said; `None` if it has ended while it wrote. The values are not
    /// to be relied upon, they are the back-end's. Before the memory has been handed over
    /// everything is 0.
    pub fn status(&self) -> Option<StatusBlock> {
        self.status.load()
    }

    pub(super) fn request(&self) -> SharedMemoryRequest {
        SharedMemoryRequest {
            size: U64::new(SIZE),
            generation: U64::new(self.generation),
        }
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
