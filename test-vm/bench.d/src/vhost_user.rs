// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A connection to a vhost-user back-end, of whatever kind.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    thread,
    time::Duration,
};

use vhost::{
    vhost_user::{
        message::{
            VhostTransferStateDirection, VhostTransferStatePhase, VhostUserHeaderFlag,
            VhostUserProtocolFeatures, VhostUserVirtioFeatures,
        },
        Frontend, VhostUserFrontend,
    },
    VhostBackend, VhostUserMemoryRegionInfo, VringConfigData,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::ring::{Ring, Shared, BASE};

/// A connection.
pub struct Connection {
    /// As vhost has it.
    pub frontend: Frontend,
    features: u64,
}

/// An error of vhost.
pub fn error(e: impl std::error::Error) -> io::Error {
    io::Error::other(e.to_string())
}

impl Connection {
    /// Connects, and agrees on features.
    pub fn new(path: &Path, rings: u64, protocol: VhostUserProtocolFeatures) -> io::Result<Self> {
        // A back-end may have made its socket and not listen yet.
        let stream = loop {
            match UnixStream::connect(path) {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    thread::sleep(Duration::from_millis(1));
                }
                result => break result?,
            }
        };
        let mut frontend = Frontend::from_stream(stream, rings);
        frontend.set_owner().map_err(error)?;
        let features =
            (1 << VIRTIO_F_VERSION_1) | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let offered = frontend.get_features().map_err(error)?;
        let has = frontend.get_protocol_features().map_err(error)?;
        let protocol = protocol & has;
        frontend.set_protocol_features(protocol).map_err(error)?;
        if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        let features = features & offered;
        frontend.set_features(features).map_err(error)?;
        Ok(Connection { frontend, features })
    }

    /// RESET_DEVICE, which takes the features back.
    pub fn reset(&mut self) -> io::Result<()> {
        self.frontend.reset_device().map_err(error)?;
        self.frontend.set_features(self.features).map_err(error)
    }

    /// Starts rings, from `bases` on.
    pub fn start(&mut self, shared: &Shared, rings: &[&Ring], bases: &[u16]) -> io::Result<()> {
        let region = shared
            .memory
            .find_region(GuestAddress(BASE))
            .ok_or_else(|| io::Error::other("no region"))?;
        let region = VhostUserMemoryRegionInfo::from_guest_region(region).map_err(error)?;
        let host = region.userspace_addr;
        self.frontend.set_mem_table(&[region]).map_err(error)?;
        for (index, (ring, base)) in rings.iter().zip(bases).enumerate() {
            let addresses = VringConfigData {
                queue_max_size: ring.size,
                queue_size: ring.size,
                flags: 0,
                desc_table_addr: host + ring.places.table as u64,
                used_ring_addr: host + ring.places.used as u64,
                avail_ring_addr: host + ring.places.available as u64,
                log_addr: None,
            };
            let frontend = &mut self.frontend;
            frontend.set_vring_num(index, ring.size).map_err(error)?;
            frontend.set_vring_base(index, *base).map_err(error)?;
            frontend.set_vring_addr(index, &addresses).map_err(error)?;
            frontend.set_vring_call(index, &ring.call).map_err(error)?;
            frontend.set_vring_kick(index, &ring.kick).map_err(error)?;
            frontend.set_vring_enable(index, true).map_err(error)?;
            ring.let_calls_wait()?;
        }
        Ok(())
    }

    /// Stops rings, and says where they go on.
    pub fn stop(&mut self, rings: usize) -> io::Result<Vec<u16>> {
        (0..rings)
            .map(|index| {
                let next = self.frontend.get_vring_base(index).map_err(error)?;
                u16::try_from(next).map_err(io::Error::other)
            })
            .collect()
    }

    /// SET_DEVICE_STATE_FD.
    pub fn transfer(&mut self, save: bool, fd: OwnedFd) -> io::Result<Option<File>> {
        let direction = match save {
            true => VhostTransferStateDirection::SAVE,
            false => VhostTransferStateDirection::LOAD,
        };
        self.frontend
            .set_device_state_fd(direction, VhostTransferStatePhase::STOPPED, fd)
            .map_err(error)
    }

    /// CHECK_DEVICE_STATE.
    pub fn check(&mut self) -> io::Result<()> {
        self.frontend.check_device_state().map_err(error)
    }
}
