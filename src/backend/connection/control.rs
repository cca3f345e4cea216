// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The requests of one front end.
//!
//! An error refuses the request (it is answered with other than 0, if NEED_REPLY is set) and ends the
//! connection; the caller names the request in the log.

use std::{
    fs::File,
    io,
    sync::{atomic::Ordering, Arc, Mutex},
};

use vhost::vhost_user::{
    message::{
        VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags,
        VhostUserInflight, VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures,
        VhostUserShMemConfig, VhostUserSharedMsg, VhostUserSingleMemoryRegion,
        VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
    },
    Error as VhostUserError, GpuBackend, Result, VhostUserBackendReqHandlerMut,
};
use vhost::VhostUserMemoryRegionBase;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestAddressSpace};
use zerocopy::IntoBytes;

use super::{
    call::{Call, Kick},
    link::Link,
    memory::{self, Addresses},
    ring::Ring,
    rings::{Memory, Rings},
    worker::Worker,
};
use crate::{
    backend::{device::lock, state, Backend},
    wire::{ATTACH_UUID, CONFIG_SIZE, NUM_RINGS, PORTAL_RING, VSVA_F_MIGRATION_BLOCKING},
};

/// What the requests of a connection have set up.
pub struct Control {
    backend: Arc<Backend>,
    link: Arc<Link>,
    worker: Arc<Worker>,
    rings: Rings,
    ring: [Arc<Ring>; NUM_RINGS],
    memory: Memory,
    addresses: Addresses,
    owned: bool,
    features: u64,
    /// The last request was refused, and the connection goes on.
    refused: bool,
}

/// Whether the last request was only refused.
pub fn take_refused(control: &Mutex<Control>) -> bool {
    std::mem::take(&mut lock(control).refused)
}

fn refuse<T>(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Result<T> {
    Err(VhostUserError::ReqHandlerError(io::Error::other(why)))
}

fn unsupported<T>() -> Result<T> {
    refuse("the request is not supported")
}

impl Control {
    /// Before the first request.
    pub fn new(
        backend: Arc<Backend>,
        link: Arc<Link>,
        worker: Arc<Worker>,
        rings: Rings,
        ring: [Arc<Ring>; NUM_RINGS],
        memory: Memory,
    ) -> Self {
        Control {
            backend,
            link,
            worker,
            rings,
            ring,
            memory,
            addresses: Addresses::default(),
            owned: false,
            features: 0,
            refused: false,
        }
    }

    fn offered(&self) -> u64 {
        let blocking = u64::from(self.backend.migration_blocking) << VSVA_F_MIGRATION_BLOCKING;
        blocking | (1 << VIRTIO_F_VERSION_1) | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn ring(&self, index: u32) -> Result<(usize, &Ring)> {
        let number = usize::try_from(index).unwrap_or(usize::MAX);
        match self.ring.get(number) {
            Some(ring) => Ok((number, ring)),
            None => refuse(format!("there is no ring {index}")),
        }
    }

    fn update(&self, number: usize) -> Result<()> {
        self.worker
            .update(number)
            .map_err(VhostUserError::ReqHandlerError)
    }

    fn enable(&self, number: usize, enable: bool) -> Result<()> {
        self.ring[number].lock().enabled = enable;
        self.update(number)
    }

    /// A ring is started by its first kick or call descriptor, as soon as there is a kick.
    fn descriptor_set(&self, number: usize) -> Result<()> {
        {
            let mut ring = self.ring[number].lock();
            if ring.kick.is_some() {
                ring.queue.set_ready(true);
            }
        }
        self.update(number)
    }
}

impl VhostUserBackendReqHandlerMut for Control {
    fn set_owner(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.owned, true) {
            return refuse("the connection has an owner already");
        }
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.owned = false;
        self.features = 0;
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        for number in 0..NUM_RINGS {
            self.enable(number, false)?;
        }
        self.features = 0;
        self.link.transfer.cancel();
        // No message that was taken before is still being worked on.
        let backend = &self.backend;
        self.worker.portal_at_rest(|| backend.reset());
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let unknown = features & !self.offered();
        if unknown != 0 {
            return refuse(format!("features {unknown:#x} were not offered"));
        }
        self.features = features;
        if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
            for number in 0..NUM_RINGS {
                self.enable(number, true)?;
            }
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let (memory, addresses) =
            memory::map(regions, files).map_err(VhostUserError::ReqHandlerError)?;
        // Whoever uses the memory sees it the next time.
        lock_memory(&self.memory, memory);
        self.addresses = addresses;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let (_, ring) = self.ring(index)?;
        let set = u16::try_from(num).is_ok_and(|num| ring.lock().queue.try_set_size(num).is_ok());
        if !set {
            return refuse(format!(
                "ring {index} cannot have {num} descriptors, but a power of two up to {}",
                super::MAX_QUEUE_SIZE
            ));
        }
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let (_, ring) = self.ring(index)?;
        let [Some(descriptor), Some(available), Some(used)] =
            [descriptor, available, used].map(|user| self.addresses.translate(user))
        else {
            return refuse(format!(
                "ring {index} is not in the memory of SET_MEM_TABLE"
            ));
        };
        let memory = self.memory.memory();
        let mut ring = ring.lock();
        let queue = &mut ring.queue;
        let set = queue
            .try_set_desc_table_address(GuestAddress(descriptor))
            .and_then(|()| queue.try_set_avail_ring_address(GuestAddress(available)))
            .and_then(|()| queue.try_set_used_ring_address(GuestAddress(used)))
            // The request that sets the other index, SET_VRING_BASE, has no room for this one.
            .and_then(|()| queue.used_idx(&*memory, Ordering::Relaxed));
        match set {
            Ok(next) => queue.set_next_used(next.0),
            Err(e) => return refuse(format!("ring {index}: {e}")),
        }
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let (_, ring) = self.ring(index)?;
        match u16::try_from(base) {
            Ok(base) => ring.lock().queue.set_next_avail(base),
            Err(_) => return refuse(format!("ring {index} cannot go on at {base}")),
        }
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let (number, ring) = self.ring(index)?;
        ring.lock().queue.set_ready(false);
        self.update(number)?;
        if number == usize::from(PORTAL_RING) {
            // The ring is not ready any more: afterwards no chain is being worked on.
            self.worker.portal_at_rest(|| ());
        }
        let mut ring = ring.lock();
        ring.kick = None;
        ring.call = None;
        let next = ring.queue.next_avail();
        Ok(VhostUserVringState::new(index, u32::from(next)))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let (number, ring) = self.ring(index.into())?;
        let kick = file.map(Kick::new).transpose();
        let kick = kick.map_err(VhostUserError::ReqHandlerError)?;
        ring.lock().kick = kick.map(Arc::new);
        self.descriptor_set(number)
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let (number, ring) = self.ring(index.into())?;
        let call = file.map(Call::new).transpose();
        let call = call.map_err(VhostUserError::ReqHandlerError)?;
        ring.lock().call = call.map(Arc::new);
        self.descriptor_set(number)
    }

    fn set_vring_err(&mut self, index: u8, _file: Option<File>) -> Result<()> {
        // Errors end the connection; there is nothing to be signalled.
        self.ring(index.into()).map(drop)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::SHARED_OBJECT
            | VhostUserProtocolFeatures::DEVICE_STATE
            | VhostUserProtocolFeatures::RESET_DEVICE)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(NUM_RINGS as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        if self.features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
            return refuse("VHOST_USER_F_PROTOCOL_FEATURES has not been acknowledged");
        }
        let (number, _) = self.ring(index)?;
        self.enable(number, enable)
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        let config = self.backend.config_space();
        let start = usize::try_from(offset).unwrap_or(CONFIG_SIZE);
        let end = start.saturating_add(usize::try_from(size).unwrap_or(CONFIG_SIZE));
        let bytes = config.as_bytes().get(start..end);
        Ok(bytes.map(<[u8]>::to_vec).unwrap_or_default())
    }

    fn set_config(&mut self, offset: u32, buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        let size = buf.len();
        log::warn!("SET_CONFIG refused ({size} bytes at {offset}): the config space is read-only");
        self.refused = true;
        refuse("the config space is read-only")
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> Result<()> {
        unsupported()
    }

    fn get_shared_object(&mut self, uuid: VhostUserSharedMsg) -> Result<File> {
        if *uuid.uuid.as_bytes() != ATTACH_UUID {
            let uuid = uuid.uuid;
            log::warn!("the shared object {uuid} is asked for, which is not the attach channel");
            return refuse("there is no such object");
        }
        match self.backend.engine.open_attach_channel() {
            Ok(fd) => Ok(File::from(fd)),
            Err(e) => {
                log::error!("cannot open the attach channel: {e}");
                Err(VhostUserError::ReqHandlerError(e))
            }
        }
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        unsupported()
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        unsupported()
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        unsupported()
    }

    fn add_mem_region(
        &mut self,
        _: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        unsupported()
    }

    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Result<()> {
        unsupported()
    }

    fn set_device_state_fd(
        &mut self,
        direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        file: File,
    ) -> Result<Option<File>> {
        if self.rings.running() {
            log::error!("state transfer refused: the rings are not stopped");
            return refuse("the rings are not stopped");
        }
        match state::begin(&self.backend, &self.link.transfer, direction, file) {
            Ok(()) => Ok(None),
            Err(e) => refuse(e),
        }
    }

    fn check_device_state(&mut self) -> Result<()> {
        state::finish(&self.backend, &self.link.transfer).or_else(refuse)
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unsupported()
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        unsupported()
    }
}

/// Replaces the memory, whatever a thread that panicked may have left behind.
fn lock_memory(memory: &Memory, new: vm_memory::GuestMemoryMmap) {
    memory
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .replace(new);
}
