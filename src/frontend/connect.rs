// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Connections are made: features, the config space, and a back-end that begins anew.

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
};

use vhost::{
    vhost_user::{
        message::{
            VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures,
            VhostUserSharedMsg, VhostUserVirtioFeatures,
        },
        Frontend as VhostUser, VhostUserFrontend,
    },
    VhostBackend,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use zerocopy::FromBytes;

use super::{run::new_rings, AttachChannel, Frontend, FrontendError, Options};
use crate::wire::{
    ConfigSpace, ATTACH_UUID, CONFIG_MAGIC, CONFIG_SIZE, NUM_RINGS, PROTOCOL_VERSION,
    VSVA_F_MIGRATION_BLOCKING,
};

#[allow(clippy::cast_possible_truncation, reason = "it is 128")]
const CONFIG_LEN: u32 = CONFIG_SIZE as u32;

impl Frontend {
    /// Connects to the socket of a back-end and starts the rings. What another front end has left
    /// there stays: [`Self::reset_backend`].
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
            portal_calls: false,
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

    /// Makes the back-end as it was when its process started, whatever this front end or one before
    /// it has left there: devices are detached, their faults answered INVALID, the queue is empty,
    /// the next ticket is 0, the phase is RUNNING. The attach channel is closed.
    ///
    /// A VMM with a new VM does this between [`Self::negotiate`] and [`Self::start`]. One that has
    /// lost its connection and goes on with the same VM must not do it. The rings must be stopped;
    /// they are new ones afterwards, and so are [`Self::event_fd`] and [`Self::portal_fd`].
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
        self.portal_calls = false;
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
}
