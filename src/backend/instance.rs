// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The back-end as its connections see it.

use std::sync::Arc;

use super::{engine::Engine, shell::Shell};
use crate::{recovery::point, state::StateVersion, wire::ConfigSpace};

/// What all connections share.
pub struct Backend {
    /// Core, channels and rings.
    pub shell: Arc<Shell>,
    /// The engine thread.
    pub engine: Engine,
    /// Whether the feature bit of that name is offered.
    pub migration_blocking: bool,
    /// Version of the state that is saved.
    pub state_version: StateVersion,
    /// Most bytes after the header of a state that fits.
    pub state_limit: u64,
}

impl Backend {
    /// What GET_CONFIG answers.
    pub fn config_space(&self) -> ConfigSpace {
        let mut config = self.shell.config_space();
        config.state_version.set(self.state_version.version);
        config.state_compat.set(self.state_version.compat);
        let layout = self.shell.recovery_layout();
        config.recovery_room.set(layout.room_units());
        config
    }

    /// Begins anew, as after the start of the process.
    pub fn reset(&self) {
        // First, or a request that has not been read yet would attach a device of the front end
        // before.
        self.engine.attach.close();
        point("reset");
        self.shell.reset();
        point("reset");
        log::info!("reset by the front end");
    }
}
