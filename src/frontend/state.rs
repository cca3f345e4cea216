// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of a back-end: fetched, and handed over to another.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
};

use rustix::pipe::{pipe_with, PipeFlags};
use vhost::vhost_user::{
    message::{VhostTransferStateDirection, VhostTransferStatePhase},
    VhostUserFrontend,
};

use super::{Frontend, FrontendError};

impl Frontend {
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

    /// Begins a transfer (SET_DEVICE_STATE_FD); the result is the channel that the back-end wants
    /// instead of `fd`.
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
}

fn state_pipe() -> Result<(OwnedFd, OwnedFd), FrontendError> {
    pipe_with(PipeFlags::CLOEXEC).map_err(FrontendError::system("cannot create a pipe"))
}
