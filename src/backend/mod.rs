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

mod attach;
mod channels;
mod connection;
mod engine;
mod events;
mod process;
mod published;
mod shell;
mod state;
mod wait;

use std::sync::Arc;

pub use process::{run, CAPABILITIES};

use self::{engine::Engine, shell::Shell};
use crate::{state::StateVersion, wire::ConfigSpace};

/// What all connections share.
struct Backend {
    shell: Arc<Shell>,
    engine: Engine,
    migration_blocking: bool,
    state_version: StateVersion,
    /// Most bytes after the header of a state that fits.
    state_limit: u64,
}

impl Backend {
    fn config_space(&self) -> ConfigSpace {
        let mut config = self.shell.config_space();
        config.state_version.set(self.state_version.version);
        config.state_compat.set(self.state_version.compat);
        config
    }

    /// Begins anew, as after the start of the process.
    fn reset(&self) {
        // First, or a request that has not been read yet would attach a device of the front end before.
        self.engine.close_attach_channel();
        self.shell.reset();
        log::info!("reset by the front end");
    }
}
