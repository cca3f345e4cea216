// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A front end: what a VMM does to use a vhost-user-vsva back-end.
//!
//! The VMM is the virtio driver of both rings, which live in a memfd of this module: the back-end never sees guest
//! memory. A typical life:
//!
//! ```no_run
//! use std::os::fd::AsFd;
//! use vhost_user_vsva::frontend::{Attachment, Event, Frontend, FrontendError, Options};
//!
//! # fn deliver_to_guest(_: &[u8; 32]) {}
//! # fn write_to_device(_: u32, _: &vhost_user_vsva::wire::Submission) {}
//! fn serve(fault_fd: &impl AsFd) -> Result<(), FrontendError> {
//!     let mut frontend = Frontend::connect("/run/vsva.sock", &Options::default())?;
//!     let mut attach = frontend.attach_channel()?;
//!     let device = Attachment { device: 0, vsid: 8, dev_id: 1, channel: 0, max_outstanding: 0, pri: false };
//!     attach.attach(&device, Some(fault_fd.as_fd()))?;
//!     // A guest command:
//!     frontend.command(&[0; 16])?;
//!     // Whenever frontend.event_fd() is readable:
//!     while let Some(event) = frontend.next_event()? {
//!         match event {
//!             Event::Smmu { record, .. } => deliver_to_guest(&record),
//!             Event::Replay { device, submission } => write_to_device(device, &submission),
//!             _ => {}
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Nothing here waits for the guest. What waits for the back-end is bounded by [`Options::timeout`].

#![forbid(unsafe_code)]

mod attach;
mod error;
mod event;
mod ring;
mod shared_memory;
mod stage_two;

use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    fs::{fcntl_add_seals, memfd_create, MemfdFlags, SealFlags},
    io::Errno,
    pipe::{pipe_with, PipeFlags},
};
use vhost::{
    vhost_user::{
        message::{
            VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags,
            VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserSharedMsg,
            VhostUserVirtioFeatures,
        },
        Frontend as VhostUser, VhostUserFrontend,
    },
    VhostBackend, VhostUserMemoryRegionInfo, VringConfigData,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use vm_memory::{Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;
use zerocopy::FromBytes;

pub use self::{
    attach::{AttachChannel, Attachment, Companions},
    error::FrontendError,
    event::Event,
    ring::{Direction, Layout, Ring, Used},
    shared_memory::SharedMemory,
    stage_two::{StageTwoFilter, Verdict},
};
use crate::{
    sys,
    wire::{
        ConfigSpace, DrainRequest, GenerationPayload, Message, MessageType, Submission,
        ATTACH_UUID, CONFIG_MAGIC, CONFIG_SIZE, DEVICE_NONE, NUM_RINGS, PROTOCOL_VERSION, U32, U64,
        VSVA_F_MIGRATION_BLOCKING,
    },
};

/// Address of the ring memory in descriptors; any but 0 will do.
const RING_MEMORY: GuestAddress = GuestAddress(0x1000_0000);
#[allow(clippy::cast_possible_truncation, reason = "it is 128")]
const CONFIG_LEN: u32 = CONFIG_SIZE as u32;
const PAGE: u64 = 4096;

/// How to set up a [`Frontend`].
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Descriptors of each ring, a power of two.
    pub queue_size: u16,
    /// Whether to accept `VSVA_F_MIGRATION_BLOCKING` if it is offered.
    pub migration_blocking: bool,
    /// How long the back-end may take for what it must do at once.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_size: 256,
            migration_blocking: true,
            timeout: Duration::from_secs(10),
        }
    }
}

/// A connection to a back-end.
pub struct Frontend {
    vhost_user: VhostUser,
    options: Options,
    features: u64,
    memory: GuestMemoryMmap,
    portal: Ring,
    events: Ring,
    /// Where each ring goes on while they are stopped.
    stopped: Option<[u16; NUM_RINGS]>,
    portal_seq: u64,
    event_seq: u64,
    completed: u64,
}

impl Frontend {
    /// Connects to the socket of a back-end and starts the rings. What another front end has left there stays:
    /// [`Self::reset_backend`].
    pub fn connect(path: impl AsRef<Path>, options: &Options) -> Result<Self, FrontendError> {
        let stream = UnixStream::connect(path)
            .map_err(FrontendError::system("cannot connect to the back-end"))?;
        Self::from_stream(stream, options)
    }

    /// Uses a connection that exists, and starts the rings.
    pub fn from_stream(stream: UnixStream, options: &Options) -> Result<Self, FrontendError> {
        let mut frontend = Self::negotiate(stream, options)?;
        frontend.start()?;
        Ok(frontend)
    }

    /// Negotiates, but does not start the rings: what a VMM does that will load a state.
    pub fn negotiate(stream: UnixStream, options: &Options) -> Result<Self, FrontendError> {
        let mut vhost_user = VhostUser::from_stream(stream, NUM_RINGS as u64);
        vhost_user
            .set_owner()
            .map_err(FrontendError::request("SET_OWNER"))?;
        let offered = vhost_user
            .get_features()
            .map_err(FrontendError::request("GET_FEATURES"))?;
        let required =
            (1 << VIRTIO_F_VERSION_1) | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if offered & required != required {
            return Err(FrontendError::Incompatible(format!(
                "features {offered:#x} lack some of {required:#x}"
            )));
        }
        let blocking = u64::from(options.migration_blocking) << VSVA_F_MIGRATION_BLOCKING;
        let features = required | (offered & blocking);

        let protocol_offered = vhost_user
            .get_protocol_features()
            .map_err(FrontendError::request("GET_PROTOCOL_FEATURES"))?;
        let protocol = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::SHARED_OBJECT
            | VhostUserProtocolFeatures::DEVICE_STATE
            | VhostUserProtocolFeatures::RESET_DEVICE;
        if !protocol_offered.contains(protocol) {
            return Err(FrontendError::Incompatible(format!(
                "protocol features {protocol_offered:?} lack some of {protocol:?}"
            )));
        }
        vhost_user
            .set_protocol_features(protocol)
            .map_err(FrontendError::request("SET_PROTOCOL_FEATURES"))?;
        vhost_user.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let rings = vhost_user
            .get_queue_num()
            .map_err(FrontendError::request("GET_QUEUE_NUM"))?;
        if rings != NUM_RINGS as u64 {
            return Err(FrontendError::Incompatible(format!("it has {rings} rings")));
        }
        vhost_user
            .set_features(features)
            .map_err(FrontendError::request("SET_FEATURES"))?;

        let (memory, portal, events) = new_rings(options.queue_size)?;
        let mut frontend = Self {
            vhost_user,
            options: *options,
            features,
            portal,
            events,
            memory,
            stopped: Some([0; NUM_RINGS]),
            portal_seq: 0,
            event_seq: 0,
            completed: 0,
        };
        let config = frontend.config()?;
        if config.magic.get() != CONFIG_MAGIC || config.version.get() != PROTOCOL_VERSION {
            return Err(FrontendError::Incompatible(format!(
                "magic {:#x}, version {}",
                config.magic, config.version
            )));
        }
        Ok(frontend)
    }

    /// Makes the back-end as it was when its process started, whatever this front end or one before it has left there:
    /// devices are detached, their faults answered INVALID, the queue is empty, the next ticket is 0, the phase is
    /// RUNNING. The attach channel is closed.
    ///
    /// A VMM with a new VM does this between [`Self::negotiate`] and [`Self::start`]. One that has lost its connection and
    /// goes on with the same VM must not do it. The rings must be stopped; they are new ones afterwards, and so are
    /// [`Self::event_fd`] and [`Self::portal_fd`].
    pub fn reset_backend(&mut self) -> Result<(), FrontendError> {
        self.require_stopped()?;
        let (memory, portal, events) = new_rings(self.options.queue_size)?;
        self.vhost_user
            .reset_device()
            .map_err(FrontendError::request("RESET_DEVICE"))?;
        // A reset takes the acknowledged features back.
        self.vhost_user
            .set_features(self.features)
            .map_err(FrontendError::request("SET_FEATURES"))?;
        (self.memory, self.portal, self.events) = (memory, portal, events);
        self.stopped = Some([0; NUM_RINGS]);
        (self.portal_seq, self.event_seq, self.completed) = (0, 0, 0);
        Ok(())
    }

    /// Whether the back-end drains before a migration; otherwise the VM must not migrate.
    pub fn migration_blocking(&self) -> bool {
        self.features & (1 << VSVA_F_MIGRATION_BLOCKING) != 0
    }

    /// The back-end's limits, phase and counters.
    pub fn config(&mut self) -> Result<ConfigSpace, FrontendError> {
        let (_, bytes) = self
            .vhost_user
            .get_config(
                0,
                CONFIG_LEN,
                VhostUserConfigFlags::WRITABLE,
                &[0; CONFIG_SIZE],
            )
            .map_err(FrontendError::request("GET_CONFIG"))?;
        ConfigSpace::read_from_bytes(&bytes).map_err(|_| {
            FrontendError::Protocol(format!("the config space has {} bytes", bytes.len()))
        })
    }

    /// Opens the attach channel. A second one replaces the first.
    pub fn attach_channel(&mut self) -> Result<AttachChannel, FrontendError> {
        let mut uuid = VhostUserSharedMsg::default();
        uuid.uuid = uuid::Uuid::from_bytes(ATTACH_UUID);
        let file = self
            .vhost_user
            .get_shared_object(&uuid)
            .map_err(FrontendError::request("GET_SHARED_OBJECT"))?;
        Ok(AttachChannel::new(
            OwnedFd::from(file),
            self.options.timeout,
        ))
    }

    /// Puts a message on the portal ring and returns its number there.
    pub fn send<P: crate::wire::Payload>(
        &mut self,
        kind: MessageType,
        device: u32,
        payload: &P,
    ) -> Result<u64, FrontendError> {
        let mut message = Message::new(kind, device, payload);
        message.seq = U64::new(self.portal_seq + 1);
        self.send_raw(&message)?;
        self.portal_seq += 1;
        Ok(self.portal_seq)
    }

    /// Puts a message on the portal ring as it is.
    pub fn send_raw(&mut self, message: &Message) -> Result<(), FrontendError> {
        let head = self.free_descriptor()?;
        self.portal.write_buffer(head, message)?;
        self.portal.offer(head)?;
        self.portal.kick()
    }

    /// Hands over an SMMUv3 command of the guest.
    pub fn command(&mut self, command: &[u8; 16]) -> Result<u64, FrontendError> {
        self.send(MessageType::SmmuCmd, DEVICE_NONE, command)
    }

    /// Hands over a guest write to a trapped portal.
    pub fn submit(&mut self, device: u32, submission: &Submission) -> Result<u64, FrontendError> {
        self.send(MessageType::Submit, device, submission)
    }

    /// Tells that a device takes no new work and has no DMA in flight.
    pub fn quiesced(&mut self, device: u32, generation: u64) -> Result<u64, FrontendError> {
        let payload = GenerationPayload {
            generation: U64::new(generation),
        };
        self.send(MessageType::DeviceQuiesced, device, &payload)
    }

    /// Begins to drain. The portals are trapped, and the devices have been told to quiesce.
    pub fn drain(&mut self, generation: u64, timeout: Duration) -> Result<u64, FrontendError> {
        let payload = DrainRequest {
            generation: U64::new(generation),
            timeout_ms: U32::new(u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX)),
            reserved: U32::ZERO,
        };
        self.send(MessageType::Drain, DEVICE_NONE, &payload)
    }

    /// Ends a drain, or the state after a load: what is pending is replayed.
    pub fn release(&mut self, generation: u64) -> Result<u64, FrontendError> {
        let payload = GenerationPayload {
            generation: U64::new(generation),
        };
        self.send(MessageType::Release, DEVICE_NONE, &payload)
    }

    /// Tells that the guest has reset a device. See [`Self::reset_backend`] for all that the back-end has.
    pub fn reset(&mut self, device: u32) -> Result<u64, FrontendError> {
        self.send::<[u8; 0]>(MessageType::Reset, device, &[])
    }

    /// How many portal messages have taken effect.
    pub fn completed(&mut self) -> Result<u64, FrontendError> {
        self.reap()?;
        Ok(self.completed)
    }

    /// Waits until every portal message has taken effect.
    pub fn wait_completed(&mut self) -> Result<(), FrontendError> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            self.reap()?;
            if self.portal.in_flight() == 0 {
                return Ok(());
            }
            wait_for(self.portal.call_fd(), deadline, "complete a portal message")?;
        }
    }

    /// Readable when there may be a [`Self::next_event`]. Edge-triggered users must call that until it says `None`.
    pub fn event_fd(&self) -> &EventFd {
        self.events.call_fd()
    }

    /// Readable when portal messages have taken effect.
    pub fn portal_fd(&self) -> &EventFd {
        self.portal.call_fd()
    }

    /// The next message of the back-end, if there is one.
    pub fn next_event(&mut self) -> Result<Option<Event>, FrontendError> {
        let Some(message) = self.next_message()? else {
            return Ok(None);
        };
        Event::try_from(&message).map(Some)
    }

    /// The next message of the back-end as it is, if there is one.
    pub fn next_message(&mut self) -> Result<Option<Message>, FrontendError> {
        let Some(used) = self.events.reap()? else {
            return Ok(None);
        };
        let message = self.events.read_buffer(used.head)?;
        self.events.offer(used.head)?;
        self.events.kick()?;
        let expected = self.event_seq + 1;
        if message.seq.get() != expected {
            return Err(FrontendError::Protocol(format!(
                "event {} came where {expected} was expected",
                message.seq
            )));
        }
        self.event_seq = expected;
        Ok(Some(message))
    }

    /// Waits for the next message of the back-end.
    pub fn wait_event(&mut self) -> Result<Event, FrontendError> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            if let Some(event) = self.next_event()? {
                return Ok(event);
            }
            wait_for(self.events.call_fd(), deadline, "send an event")?;
        }
    }

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

    /// Fetches the state of the back-end; the rings must be stopped. Nothing changes in it.
    pub fn save(&mut self) -> Result<Vec<u8>, FrontendError> {
        self.require_stopped()?;
        let (ours, theirs) = state_pipe()?;
        let mut state = Vec::new();
        let mut ours = match self.transfer(VhostTransferStateDirection::SAVE, theirs)? {
            Some(channel) => channel,
            None => File::from(ours),
        };
        ours.read_to_end(&mut state)
            .map_err(FrontendError::system("cannot read the state"))?;
        self.check_state()?;
        Ok(state)
    }

    /// Hands a state over to the back-end; the rings must be stopped.
    pub fn load(&mut self, state: &[u8]) -> Result<(), FrontendError> {
        self.require_stopped()?;
        let (theirs, ours) = state_pipe()?;
        let mut ours = match self.transfer(VhostTransferStateDirection::LOAD, theirs)? {
            Some(channel) => channel,
            None => File::from(ours),
        };
        // The back-end may refuse the state before it has read all of it, and says so below.
        let written = ours.write_all(state);
        drop(ours);
        self.check_state()?;
        written.map_err(FrontendError::system("cannot write the state"))
    }

    /// Begins a transfer (SET_DEVICE_STATE_FD); the result is the channel that the back-end wants instead of `fd`.
    pub fn transfer(
        &mut self,
        direction: VhostTransferStateDirection,
        fd: OwnedFd,
    ) -> Result<Option<File>, FrontendError> {
        self.vhost_user
            .set_device_state_fd(direction, VhostTransferStatePhase::STOPPED, fd)
            .map_err(FrontendError::request("SET_DEVICE_STATE_FD"))
    }

    /// The result of a transfer whose channel has been closed (CHECK_DEVICE_STATE).
    pub fn check_state(&mut self) -> Result<(), FrontendError> {
        self.vhost_user
            .check_device_state()
            .map_err(FrontendError::request("CHECK_DEVICE_STATE"))
    }

    /// The portal ring.
    pub fn portal_ring(&mut self) -> &mut Ring {
        &mut self.portal
    }

    /// The event ring.
    pub fn event_ring(&mut self) -> &mut Ring {
        &mut self.events
    }

    fn require_stopped(&self) -> Result<(), FrontendError> {
        match self.stopped {
            Some(_) => Ok(()),
            None => Err(FrontendError::Rings("running")),
        }
    }

    fn free_descriptor(&mut self) -> Result<u16, FrontendError> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            self.reap()?;
            if let Some(head) = self.portal.take_free() {
                return Ok(head);
            }
            wait_for(self.portal.call_fd(), deadline, "complete a portal message")?;
        }
    }

    fn reap(&mut self) -> Result<(), FrontendError> {
        while let Some(used) = self.portal.reap()? {
            self.portal.put_free(used.head);
            self.completed += 1;
        }
        Ok(())
    }
}

/// Two empty rings and the memory that they are in.
fn new_rings(queue_size: u16) -> Result<(GuestMemoryMmap, Ring, Ring), FrontendError> {
    let (portal, middle) = Layout::at(RING_MEMORY, queue_size);
    let (events, end) = Layout::at(middle, queue_size);
    let memory = ring_memory(end.unchecked_offset_from(RING_MEMORY))?;
    let portal = Ring::new(memory.clone(), portal, Direction::ToBackend)?;
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

fn state_pipe() -> Result<(OwnedFd, OwnedFd), FrontendError> {
    pipe_with(PipeFlags::CLOEXEC).map_err(FrontendError::system("cannot create a pipe"))
}

fn wait_for(event: &EventFd, deadline: Instant, what: &'static str) -> Result<(), FrontendError> {
    let left = deadline
        .checked_duration_since(Instant::now())
        .ok_or(FrontendError::Timeout(what))?;
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    };
    let mut fds = [PollFd::from_borrowed_fd(
        sys::event_fd(event),
        PollFlags::IN,
    )];
    match poll(&mut fds, Some(&timeout)) {
        Ok(0) => Err(FrontendError::Timeout(what)),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(FrontendError::system("cannot wait for the back-end")(e)),
    }
}
