// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The vhost-user side of one connection.

use std::{
    cell::RefCell,
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{mpsc::SyncSender, Arc, Mutex, OnceLock},
};

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserProtocolFeatures,
    VhostUserSharedMsg, VhostUserVirtioFeatures,
};
use vhost_user_backend::VhostUserBackend;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::{
    epoll::EventSet,
    event::{new_event_consumer_and_notifier, EventConsumer, EventFlag, EventNotifier},
};
use zerocopy::IntoBytes;

use super::memory;
use crate::{
    backend::{
        instance::Backend,
        link::{EndsConnection, Link},
        rings::{vring::Vring, Memory, PortalChain, Rings},
        shell::PolledPortal,
        state,
    },
    lock::lock,
    recovery::point,
    sys,
    wire::{
        ATTACH_UUID, CONFIG_SIZE, EVENT_RING, NUM_RINGS, PORTAL_RING, VSVA_F_MIGRATION_BLOCKING,
    },
};

/// The largest ring.
pub const MAX_QUEUE_SIZE: usize = 1024;
/// Chains taken from the portal ring at a time.
const PORTAL_BATCH: usize = 64;
/// The event by which the worker learns, before the first request, which connection it serves. The
/// library keeps the numbers up to that of the rings.
pub const HELLO: u16 = 3;

thread_local! {
    /// The worker's connection ends with the worker.
    static ENDS_CONNECTION: RefCell<Option<EndsConnection>> = const { RefCell::new(None) };
}

/// One connection. Its device, faults and queue outlive it.
pub struct Adapter {
    backend: Arc<Backend>,
    link: Arc<Link>,
    /// The rings' memory, once it has been checked; the library's own is not looked at.
    memory: Memory,
    /// Held while chains of the portal ring are being worked on; GET_VRING_BASE and RESET_DEVICE
    /// wait for it.
    portal: Mutex<Vec<PortalChain>>,
    rings: OnceLock<Rings>,
    /// Told when the worker knows its connection.
    hello: Mutex<Option<SyncSender<()>>>,
    exit_event: Mutex<Option<(EventConsumer, EventNotifier)>>,
    /// The worker's epoll instance.
    worker_epoll: OnceLock<RawFd>,
    /// The worker's end of its exit event.
    exit_fd: Mutex<Option<RawFd>>,
}

impl Adapter {
    /// An adapter for a connection; `hello` is told of [`HELLO`].
    pub fn new(backend: Arc<Backend>, link: Arc<Link>, hello: SyncSender<()>) -> io::Result<Self> {
        Ok(Adapter {
            backend,
            link,
            memory: Memory::new(GuestMemoryMmap::new()),
            portal: Mutex::new(Vec::with_capacity(PORTAL_BATCH)),
            rings: OnceLock::new(),
            hello: Mutex::new(Some(hello)),
            exit_event: Mutex::new(Some(new_event_consumer_and_notifier(EventFlag::CLOEXEC)?)),
            worker_epoll: OnceLock::new(),
            exit_fd: Mutex::default(),
        })
    }

    /// Says which epoll instance the worker waits on, which it does as long as it lives.
    pub fn set_worker_epoll(&self, epoll: RawFd) {
        // There is one worker.
        let _ = self.worker_epoll.set(epoll);
    }

    fn say_hello(&self, vrings: &[Vring]) {
        let (Some(hello), [portal, events]) = (lock(&self.hello).take(), vrings) else {
            return;
        };
        for (index, vring) in vrings.iter().enumerate() {
            let wake = self.backend.shell.wake.try_clone().ok();
            vring.belongs_to(index, self.link.clone(), wake);
        }
        let rings = self.rings.get_or_init(|| {
            Rings::new(
                portal.clone(),
                events.clone(),
                self.memory.clone(),
                self.link.clone(),
            )
        });
        self.backend.shell.start_rings(rings.clone());
        ENDS_CONNECTION.with(|ends| {
            *ends.borrow_mut() = Some(EndsConnection(self.link.clone()));
        });
        // Whoever waits for it may have given up.
        let _ = hello.send(());
    }

    /// Works on one batch of chains. Returns whether there may be more.
    fn serve_portal(&self, rings: &Rings) -> bool {
        let mut chains = lock(&self.portal);
        // One thread at a time is here.
        let _work = self.backend.shell.portal_work.begin();
        rings.take(PORTAL_BATCH, &mut chains);
        if chains.is_empty() {
            return false;
        }
        let malformed = chains.iter().filter(|c| c.message.is_none()).count();
        if malformed > 0 {
            log::warn!(
                "portal ring: {malformed} chains are not one readable descriptor of 64 bytes"
            );
        }
        let messages = chains.iter().map(|chain| chain.message.as_ref());
        let (done, result, wants) = self.backend.shell.portal(messages);
        // Answers are written before the descriptors are used: that is what a CMD_SYNC waits for.
        let events = self.backend.shell.follow(wants);
        // Nor is a descriptor used whose message has had no effect.
        point("taken");
        let completed = rings.complete(&chains[..done]);
        drop(chains);
        events.send();
        completed.send();
        if let Err(e) = &result {
            self.link.fail(e);
        }
        result.is_ok()
    }
}

impl PolledPortal for Adapter {
    fn poll(&self) -> bool {
        let rings = self.rings.get().filter(|_| !self.link.is_over());
        let Some(rings) = rings.filter(|rings| rings.portal_waits()) else {
            return false;
        };
        self.backend.shell.go_on_if_enabled();
        self.serve_portal(rings);
        true
    }

    fn rest(&self) -> bool {
        let rings = self.rings.get().filter(|_| !self.link.is_over());
        rings.is_some_and(Rings::ask_for_kicks)
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        if let Some(fd) = lock(&self.exit_fd).take() {
            sys::close_leaked(fd);
        }
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
        self.link.request("GET_FEATURES or SET_FEATURES");
        let blocking = u64::from(self.backend.migration_blocking) << VSVA_F_MIGRATION_BLOCKING;
        blocking | (1 << VIRTIO_F_VERSION_1) | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.link.request("GET_PROTOCOL_FEATURES");
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::SHARED_OBJECT
            | VhostUserProtocolFeatures::DEVICE_STATE
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn reset_device(&self) {
        self.link.request("RESET_DEVICE");
        // Both rings are disabled. Held, so that no message that was taken before is still being
        // worked on.
        let _portal = lock(&self.portal);
        self.link.transfer.cancel();
        self.backend.reset();
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.link.request("GET_CONFIG");
        let config = self.backend.config_space();
        let bytes = config.as_bytes();
        let start = usize::try_from(offset).unwrap_or(CONFIG_SIZE);
        let end = start.saturating_add(usize::try_from(size).unwrap_or(CONFIG_SIZE));
        bytes
            .get(start..end)
            .map(<[u8]>::to_vec)
            .unwrap_or_default()
    }

    fn set_config(&self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        let text = format!(
            "{} bytes at {offset}: the config space is read-only",
            bytes.len()
        );
        let e = io::Error::new(io::ErrorKind::PermissionDenied, text);
        // The library answers, then ends the connection.
        log::error!("SET_CONFIG refused: {e}");
        self.link.request("SET_CONFIG");
        Err(e)
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        let memory = memory.memory();
        memory::check(&memory).map_err(|e| {
            log::error!("SET_MEM_TABLE refused: {e}");
            self.link.request("SET_MEM_TABLE");
            e
        })?;
        self.link.request("SET_MEM_TABLE");
        let replace = self.memory.lock();
        replace
            .map_err(|_| io::Error::other("a thread has panicked"))?
            .replace((*memory).clone());
        Ok(())
    }

    fn get_shared_object(&self, uuid: VhostUserSharedMsg) -> io::Result<File> {
        self.link.request("GET_SHARED_OBJECT");
        if *uuid.uuid.as_bytes() != ATTACH_UUID {
            log::warn!(
                "the front end asks for the shared object {}, which is not the attach channel",
                uuid.uuid
            );
            return Err(io::ErrorKind::NotFound.into());
        }
        let fd = self.backend.engine.attach.open().inspect_err(|e| {
            log::error!("cannot open the attach channel: {e}");
        })?;
        Ok(File::from(fd))
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        let pair = lock(&self.exit_event).take();
        *lock(&self.exit_fd) = pair.as_ref().map(|(consumer, _)| consumer.as_raw_fd());
        pair
    }

    fn stop_vring(&self, index: u32) -> io::Result<()> {
        self.link.request("GET_VRING_BASE");
        if index == u32::from(PORTAL_RING) {
            // The ring is not ready any more: when the lock is free no chain is being worked on.
            drop(lock(&self.portal));
        }
        // The event ring is only touched under its own lock while it is ready.
        if let (Some(rings), Ok(index)) = (self.rings.get(), u16::try_from(index)) {
            rings.calls_at_rest(index);
        }
        Ok(())
    }

    fn handle_event(
        &self,
        event: u16,
        _events: EventSet,
        vrings: &[Vring],
        _thread: usize,
    ) -> io::Result<()> {
        // An error would end the thread: there is none.
        if event == HELLO {
            self.say_hello(vrings);
            return Ok(());
        }
        let Some(rings) = self.rings.get() else {
            return Ok(());
        };
        if let (Some(epoll), Some(vring)) =
            (self.worker_epoll.get(), vrings.get(usize::from(event)))
        {
            vring.wait_for_edges(*epoll, event);
        }
        self.backend.shell.go_on_if_enabled();
        match event {
            PORTAL_RING => while !self.link.is_over() && self.serve_portal(rings) {},
            EVENT_RING => self.backend.shell.settle(),
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
        self.link.request("SET_DEVICE_STATE_FD");
        if self.rings.get().is_some_and(Rings::running) {
            log::error!("state transfer refused: the rings are not stopped");
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        state::begin(&self.backend, &self.link.transfer, direction, file)
            .map(|()| None)
            .map_err(io::Error::other)
    }

    fn check_device_state(&self) -> io::Result<()> {
        self.link.request("CHECK_DEVICE_STATE");
        state::finish(&self.backend, &self.link.transfer).map_err(io::Error::other)
    }
}
