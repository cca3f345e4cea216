// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The vhost-user side of one connection.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{
        atomic::{AtomicBool, Ordering},
        Mutex, OnceLock, PoisonError,
    },
};

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserProtocolFeatures,
    VhostUserSharedMsg, VhostUserVirtioFeatures,
};
use vhost_user_backend::{ShutdownHandle, VhostUserBackend};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use vmm_sys_util::{
    epoll::EventSet,
    event::{new_event_consumer_and_notifier, EventConsumer, EventFlag, EventNotifier},
};
use zerocopy::IntoBytes;

use super::{
    rings::{Memory, PortalChain, Rings, Vring},
    state,
    transfer::Transfer,
    Backend,
};
use crate::{
    sys,
    wire::{
        ATTACH_UUID, CONFIG_SIZE, EVENT_RING, NUM_RINGS, PORTAL_RING, VSVA_F_MIGRATION_BLOCKING,
    },
};

/// The largest ring.
pub const MAX_QUEUE_SIZE: usize = 1024;
/// Chains taken from the portal ring at a time.
const PORTAL_BATCH: usize = 64;

/// One connection. Its device, faults and queue outlive it.
pub struct Adapter {
    backend: std::sync::Arc<Backend>,
    memory: Memory,
    /// Held while chains of the portal ring are being worked on; GET_VRING_BASE and RESET_DEVICE wait for it.
    portal: Mutex<Vec<PortalChain>>,
    rings: OnceLock<Rings>,
    transfer: Transfer,
    shutdown: OnceLock<ShutdownHandle>,
    /// The worker's end of its exit event.
    exit_event: Mutex<Option<RawFd>>,
    /// The front end broke the protocol, nothing more of it is looked at.
    broken: AtomicBool,
}

impl Adapter {
    /// An adapter for a connection whose rings will be in `memory`.
    pub fn new(backend: std::sync::Arc<Backend>, memory: Memory) -> Self {
        Adapter {
            backend,
            memory,
            portal: Mutex::new(Vec::with_capacity(PORTAL_BATCH)),
            rings: OnceLock::new(),
            transfer: Transfer::default(),
            shutdown: OnceLock::new(),
            exit_event: Mutex::default(),
            broken: AtomicBool::new(false),
        }
    }

    /// How to end the connection.
    pub fn set_shutdown(&self, shutdown: ShutdownHandle) {
        if self.broken.load(Ordering::Acquire) {
            shutdown.shutdown();
        }
        // Only called once.
        let _ = self.shutdown.set(shutdown);
        if let (true, Some(shutdown)) = (self.broken.load(Ordering::Acquire), self.shutdown.get()) {
            shutdown.shutdown();
        }
    }

    /// The connection has ended, and the library's worker with it.
    pub fn end(&self) {
        self.transfer.cancel();
        let fd = self
            .exit_event
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(fd) = fd {
            sys::close_leaked(fd);
        }
    }

    fn serve_portal(&self, rings: &Rings) {
        let mut chains = self.portal.lock().unwrap_or_else(PoisonError::into_inner);
        rings.work_on_portal(PORTAL_BATCH, &mut chains, |chains| {
            if self.broken.load(Ordering::Acquire) {
                return false;
            }
            let malformed = chains
                .iter()
                .filter(|chain| chain.message.is_none())
                .count();
            if malformed > 0 {
                log::warn!(
                    "portal ring: {malformed} chains are not one readable descriptor of 64 bytes"
                );
            }
            let messages = chains.iter().filter_map(|chain| chain.message.as_ref());
            let result = self.backend.device.portal(messages);
            // Answers are written before the descriptors are used: that is what a CMD_SYNC waits for.
            self.backend.device.settle();
            if let Err(e) = result {
                log::error!("{e}; closing the connection");
                self.broken.store(true, Ordering::Release);
                if let Some(shutdown) = self.shutdown.get() {
                    shutdown.shutdown();
                }
                return false;
            }
            true
        });
    }
}

impl VhostUserBackend for Adapter {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        NUM_RINGS
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        let blocking = u64::from(self.backend.migration_blocking) << VSVA_F_MIGRATION_BLOCKING;
        blocking | (1 << VIRTIO_F_VERSION_1) | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::SHARED_OBJECT
            | VhostUserProtocolFeatures::DEVICE_STATE
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn reset_device(&self) {
        // Both rings are disabled. Held, so that no message that was taken before is still being worked on.
        let _portal = self.portal.lock().unwrap_or_else(PoisonError::into_inner);
        self.transfer.cancel();
        self.backend.reset();
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = self.backend.config_space();
        let bytes = config.as_bytes();
        let start = usize::try_from(offset).unwrap_or(CONFIG_SIZE);
        let end = start.saturating_add(usize::try_from(size).unwrap_or(CONFIG_SIZE));
        bytes
            .get(start..end)
            .map(<[u8]>::to_vec)
            .unwrap_or_default()
    }

    fn update_memory(&self, _memory: Memory) -> io::Result<()> {
        // The rings hold a clone of the same, which is replaced in place.
        Ok(())
    }

    fn get_shared_object(&self, uuid: VhostUserSharedMsg) -> io::Result<File> {
        if *uuid.uuid.as_bytes() != ATTACH_UUID {
            log::warn!(
                "the front end asks for the shared object {}, which is not the attach channel",
                uuid.uuid
            );
            return Err(io::ErrorKind::NotFound.into());
        }
        let fd = self.backend.engine.open_attach_channel().inspect_err(|e| {
            log::error!("cannot open the attach channel: {e}");
        })?;
        Ok(File::from(fd))
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        // Without one the worker never ends; new() is the only caller and cannot report the error.
        let (consumer, notifier) = new_event_consumer_and_notifier(EventFlag::CLOEXEC)
            .inspect_err(|e| log::error!("cannot create an eventfd: {e}"))
            .ok()?;
        *self
            .exit_event
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(consumer.as_raw_fd());
        Some((consumer, notifier))
    }

    fn stop_vring(&self, index: u32) -> io::Result<()> {
        if index == u32::from(PORTAL_RING) {
            // The ring is not ready any more: when the lock is free no chain is being worked on.
            drop(self.portal.lock().unwrap_or_else(PoisonError::into_inner));
        }
        // The event ring is only touched under its own lock while it is ready.
        Ok(())
    }

    fn handle_event(
        &self,
        event: u16,
        _events: EventSet,
        vrings: &[Vring],
        _thread: usize,
    ) -> io::Result<()> {
        // An error would end the thread for good, without a word: there is none.
        let [portal, events] = vrings else {
            return Ok(());
        };
        let rings = self.rings.get_or_init(|| {
            let rings = Rings::new(portal.clone(), events.clone(), self.memory.clone());
            self.backend.device.start_rings(rings.clone());
            rings
        });
        match event {
            PORTAL_RING => self.serve_portal(rings),
            EVENT_RING => self.backend.device.settle(),
            other => log::warn!("event of an unknown ring {other}"),
        }
        Ok(())
    }

    fn set_device_state_fd(
        &self,
        direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        file: File,
    ) -> io::Result<Option<File>> {
        if self.rings.get().is_some_and(Rings::running) {
            log::error!("state transfer refused: the rings are not stopped");
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        state::begin(&self.backend, &self.transfer, direction, file)
            .map(|()| None)
            .map_err(io::Error::other)
    }

    fn check_device_state(&self) -> io::Result<()> {
        state::finish(&self.backend, &self.transfer).map_err(io::Error::other)
    }
}
