// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The state machine's shell: vhost-user, rings, fault channels, attach channel, state transfer.
//!
//! | Thread | Does |
//! |---|---|
//! | main | waits for connections and signals, interrupts calls that a peer blocks (`guard`) |
//! | `vsva` | vhost-user requests; waits for the others only as long as what they have begun takes |
//! | `vsva-wait` | the end of a connection |
//! | `vring_worker` | messages of the portal ring, the answers and events that come of them |
//! | `vsva-engine` | faults and the events that come of them, attach channel, deadline |
//! | `vsva-save`, `vsva-load` | the bytes of one state transfer |
//! | `vsva-log`, `vsva-messages` | write the event log, and the messages on stderr |

mod adapter;
mod attach;
mod attachment;
mod channel;
mod connection;
mod device;
mod engine;
mod event_log;
mod eventfd;
mod fault_channel;
mod fd_kind;
mod guard;
mod link;
mod listener;
mod memory;
mod poller;
mod published;
mod recover;
mod rings;
mod server;
mod shared_memory;
mod state;
mod state_channel;
mod systemd;
mod transfer;
mod veventq;
mod vevents;
mod vring;
mod wake;

use std::sync::Arc;

pub use server::{run, CAPABILITIES};

use self::{device::Device, engine::Engine};
use crate::{state::StateVersion, wire::ConfigSpace};

/// What all connections share.
struct Backend {
    device: Arc<Device>,
    engine: Engine,
    migration_blocking: bool,
    state_version: StateVersion,
    /// Most bytes after the header of a state that fits.
    state_limit: u64,
}

impl Backend {
    fn config_space(&self) -> ConfigSpace {
        let mut config = self.device.config_space();
        config.state_version.set(self.state_version.version);
        config.state_compat.set(self.state_version.compat);
        config
    }

    /// Begins anew, as after the start of the process.
    fn reset(&self) {
        // First, or a request that has not been read yet would attach a device of the front end before.
        self.engine.close_attach_channel();
        self.device.reset();
        log::info!("reset by the front end");
    }
}
