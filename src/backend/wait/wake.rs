// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A flag that other threads can wait for.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::event::{eventfd, EventfdFlags};

/// An eventfd.
pub struct Wake(OwnedFd);

impl Wake {
    /// A flag that is not set.
    pub fn new() -> io::Result<Self> {
        Ok(Wake(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    /// Another handle to the same flag.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Wake)
    }

    /// Sets the flag.
    pub fn set(&self) {
        // It can only fail with EAGAIN, when the counter is full: the flag is set then.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Clears the flag.
    pub fn clear(&self) {
        // It can only fail with EAGAIN: the flag was not set.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

#[cfg(test)]
impl From<OwnedFd> for Wake {
    fn from(eventfd: OwnedFd) -> Self {
        Wake(eventfd)
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
