// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory in which the back-end says what it is doing, without being asked.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use rustix::{
    fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags},
    io::{pread, pwrite, Errno},
};
use vm_memory::{FileOffset, MmapRegion};
use zerocopy::{FromZeros, IntoBytes};

use super::FrontendError;
use crate::{
    seqlock::StatusCell,
    wire::{
        AreaHead, MemoryHeader, SharedMemoryRequest, StatusBlock, MEMORY_HEADER_SIZE, MEMORY_MAGIC,
        MEMORY_SIZE_MIN, MEMORY_VERSION, STATUS_ROOM_MIN, U32, U64,
    },
};

const STATUS_OFFSET: usize = MEMORY_HEADER_SIZE;
/// Where a recovery area begins.
const AREA_OFFSET: u64 = MEMORY_SIZE_MIN;
/// Unit of `recovery_room` in the config space.
const ROOM_UNIT: u64 = 64 << 10;

/// Memory for [`super::AttachChannel::share_memory`]. It can be read at any time, also when the
/// back-end has ended.
pub struct SharedMemory {
    file: Arc<File>,
    header: MemoryHeader,
    status: StatusCell,
}

impl SharedMemory {
    /// New memory; `generation` tells it from others of the same front end.
    pub fn new(generation: u64) -> Result<Self, FrontendError> {
        Self::with_recovery(generation, 0)
    }

    /// New memory with a recovery area of the room that the config space asks for
    /// (`recovery_room`). Keep it for as long as the VM lives: a back-end that is started again
    /// goes on from it.
    pub fn with_recovery(generation: u64, recovery_room: u16) -> Result<Self, FrontendError> {
        let failed = FrontendError::system("shared memory");
        let room = u64::from(recovery_room) * ROOM_UNIT;
        let total = MEMORY_SIZE_MIN + room;
        let header = MemoryHeader {
            magic: U64::new(MEMORY_MAGIC),
            version: U32::new(MEMORY_VERSION),
            header_size: U32::new(u32::try_from(MEMORY_HEADER_SIZE).unwrap_or(u32::MAX)),
            total_size: U64::new(total),
            generation: U64::new(generation),
            status_offset: U32::new(u32::try_from(STATUS_OFFSET).unwrap_or(u32::MAX)),
            status_room: U32::new(STATUS_ROOM_MIN),
            recovery_offset: U64::new(if room > 0 { AREA_OFFSET } else { 0 }),
            recovery_room: U64::new(room),
            ..MemoryHeader::new_zeroed()
        };
        let make = || {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let fd = memfd_create("vsva-shared", flags)?;
            ftruncate(&fd, total)?;
            pwrite(&fd, header.as_bytes(), 0)?;
            fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
            Ok::<File, Errno>(File::from(fd))
        };
        let file = Arc::new(make().map_err(failed)?);
        let size = usize::try_from(MEMORY_SIZE_MIN).unwrap_or(usize::MAX);
        let status = MmapRegion::from_file(FileOffset::from_arc(file.clone(), 0), size)
            .ok()
            .and_then(|memory| StatusCell::new(Arc::new(memory), STATUS_OFFSET))
            .ok_or_else(|| FrontendError::system("shared memory")(Errno::NOMEM))?;
        Ok(Self {
            file,
            header,
            status,
        })
    }

    /// Number of the last message of the portal ring that has taken effect, on all connections.
    pub fn portal_taken(&self) -> Result<u64, FrontendError> {
        let mut head = AreaHead::new_zeroed();
        pread(&self.file, head.as_mut_bytes(), AREA_OFFSET)
            .map_err(FrontendError::system("shared memory"))?;
        Ok(head.portal_taken.get())
    }

    /// Says where the next connection goes on: `event_base` is how many messages of the event ring
    /// have been taken on all connections, `next_ticket` the ticket of the first submission that is
    /// going to be sent.
    pub fn go_on_at(&mut self, event_base: u64, next_ticket: u64) -> Result<(), FrontendError> {
        self.header.event_base.set(event_base);
        self.header.portal_base.set(self.portal_taken()?);
        self.header.next_ticket.set(next_ticket);
        pwrite(&self.file, self.header.as_bytes(), 0)
            .map_err(FrontendError::system("shared memory"))?;
        Ok(())
    }

    /// What the back-end has last said; `None` if it has ended while it wrote. The values are not
    /// to be relied upon, they are the back-end's. Before the memory has been handed over
    /// everything is 0.
    pub fn status(&self) -> Option<StatusBlock> {
        self.status.load()
    }

    pub(super) fn request(&self) -> SharedMemoryRequest {
        SharedMemoryRequest {
            size: self.header.total_size,
            generation: self.header.generation,
        }
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
