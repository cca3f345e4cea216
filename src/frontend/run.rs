// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rings, the memory that they are in, and how they are started and stopped.

use std::fs::File;

use rustix::fs::{fcntl_add_seals, memfd_create, MemfdFlags, SealFlags};
use vhost::{
    vhost_user::{Frontend as VhostUser, VhostUserFrontend},
    VhostBackend, VhostUserMemoryRegionInfo, VringConfigData,
};
use vm_memory::{Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::{Direction, Frontend, FrontendError, Layout, Ring};
use crate::wire::NUM_RINGS;

/// Address of the ring memory in descriptors; any but 0 will do.
const RING_MEMORY: GuestAddress = GuestAddress(0x1000_0000);
const PAGE: u64 = 4096;

impl Frontend {
    /// Starts the rings where they were stopped, or for the first time.
    pub fn start(&mut self) -> Result<(), FrontendError> {
        let bases = self
            .stopped
            .ok_or(FrontendError::Rings("started already"))?;
        let region = region_info(&self.memory)?;
        self.vhost_user
            .set_mem_table(&[region])
            .map_err(FrontendError::request("SET_MEM_TABLE"))?;
        for ((index, base), ring) in bases
            .into_iter()
            .enumerate()
            .zip([&self.portal, &self.events])
        {
            start_ring(&mut self.vhost_user, &self.memory, index, base, ring)?;
        }
        self.stopped = None;
        Ok(())
    }

    /// Stops the rings. Everything in them stays.
    pub fn stop(&mut self) -> Result<(), FrontendError> {
        if self.stopped.is_some() {
            return Err(FrontendError::Rings("stopped already"));
        }
        let mut bases = [0; NUM_RINGS];
        for (index, base) in bases.iter_mut().enumerate() {
            let next = self
                .vhost_user
                .get_vring_base(index)
                .map_err(FrontendError::request("GET_VRING_BASE"))?;
            *base = u16::try_from(next)
                .map_err(|_| FrontendError::Protocol(format!("ring {index} goes on at {next}")))?;
        }
        self.stopped = Some(bases);
        Ok(())
    }
}

/// Two empty rings and the memory that they are in.
pub(super) fn new_rings(queue_size: u16) -> Result<(GuestMemoryMmap, Ring, Ring), FrontendError> {
    let (portal, middle) = Layout::at(RING_MEMORY, queue_size);
    let (events, end) = Layout::at(middle, queue_size);
    let memory = ring_memory(end.unchecked_offset_from(RING_MEMORY))?;
    let portal = Ring::new(memory.clone(), portal, Direction::ToBackend)?;
    portal.want_calls(false)?;
    let events = Ring::new(memory.clone(), events, Direction::FromBackend)?;
    Ok((memory, portal, events))
}

fn ring_memory(size: u64) -> Result<GuestMemoryMmap, FrontendError> {
    let size = size.next_multiple_of(PAGE);
    let memfd = memfd_create(
        "vsva-rings",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )
    .map_err(FrontendError::system("cannot create the ring memory"))?;
    let file = File::from(memfd);
    file.set_len(size)
        .map_err(FrontendError::system("cannot size the ring memory"))?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .map_err(FrontendError::system("cannot seal the ring memory"))?;
    let len = usize::try_from(size)
        .map_err(|_| FrontendError::Incompatible("the rings are too large".to_owned()))?;
    GuestMemoryMmap::from_ranges_with_files([(RING_MEMORY, len, Some(FileOffset::new(file, 0)))])
        .map_err(|e| FrontendError::Incompatible(format!("cannot map the ring memory: {e}")))
}

fn region_info(memory: &GuestMemoryMmap) -> Result<VhostUserMemoryRegionInfo, FrontendError> {
    let no_region = || FrontendError::Incompatible("the ring memory is gone".to_owned());
    let region = memory.find_region(RING_MEMORY).ok_or_else(no_region)?;
    VhostUserMemoryRegionInfo::from_guest_region(region)
        .map_err(FrontendError::request("SET_MEM_TABLE"))
}

fn start_ring(
    vhost_user: &mut VhostUser,
    memory: &GuestMemoryMmap,
    index: usize,
    base: u16,
    ring: &Ring,
) -> Result<(), FrontendError> {
    let layout = ring.layout();
    let host = |address| {
        memory
            .get_host_address(address)
            .map(|pointer| pointer as u64)
            .map_err(|e| FrontendError::Incompatible(format!("ring memory: {e}")))
    };
    let addresses = VringConfigData {
        queue_max_size: layout.size,
        queue_size: layout.size,
        flags: 0,
        desc_table_addr: host(layout.descriptors)?,
        used_ring_addr: host(layout.used)?,
        avail_ring_addr: host(layout.available)?,
        log_addr: None,
    };
    vhost_user
        .set_vring_num(index, layout.size)
        .map_err(FrontendError::request("SET_VRING_NUM"))?;
    vhost_user
        .set_vring_base(index, base)
        .map_err(FrontendError::request("SET_VRING_BASE"))?;
    vhost_user
        .set_vring_addr(index, &addresses)
        .map_err(FrontendError::request("SET_VRING_ADDR"))?;
    vhost_user
        .set_vring_call(index, ring.call_fd())
        .map_err(FrontendError::request("SET_VRING_CALL"))?;
    vhost_user
        .set_vring_kick(index, ring.kick_fd())
        .map_err(FrontendError::request("SET_VRING_KICK"))?;
    vhost_user
        .set_vring_enable(index, true)
        .map_err(FrontendError::request("SET_VRING_ENABLE"))
}
