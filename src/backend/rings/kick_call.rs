// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The two eventfds of a ring: the front end's kicks, and calls to it.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{fcntl_getfl, fcntl_setfl, OFlags},
    io::{fcntl_setfd, preadv2, Errno, FdFlags, ReadWriteFlags},
};

use super::fd_kind;
use crate::backend::wait::guard;

/// Where a file without positions is read.
const NO_OFFSET: u64 = u64::MAX;

/// The front end says that there are chains.
pub struct Kick(OwnedFd);

/// The front end is told that chains have been used.
pub struct Call(OwnedFd);

fn eventfd(file: File) -> io::Result<OwnedFd> {
    let fd = OwnedFd::from(file);
    fd_kind::require_eventfd(&fd)?;
    // A descriptor that was received is not close-on-exec.
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

impl Kick {
    /// Takes over what came with SET_VRING_KICK.
    pub fn new(file: File) -> io::Result<Self> {
        let kick = Kick(eventfd(file)?);
        // Whether it can be read at all; a kick that is taken here is made up for at the start.
        kick.take()?;
        Ok(kick)
    }

    /// Takes the kicks there are, without waiting: whoever shares the file may have been faster.
    pub fn take(&self) -> io::Result<()> {
        let mut count = [0; 8];
        loop {
            let mut buffer = [IoSliceMut::new(&mut count)];
            match preadv2(&self.0, &mut buffer, NO_OFFSET, ReadWriteFlags::NOWAIT) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsFd for Kick {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Call {
    /// Takes over what came with SET_VRING_CALL.
    pub fn new(file: File) -> io::Result<Self> {
        let fd = eventfd(file)?;
        // The front end can clear it again; that is what the guard is for.
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        Ok(Call(fd))
    }

    /// Tells the front end. Must not be called with a lock held.
    pub fn notify(&self) -> io::Result<()> {
        match guard::bounded(|| rustix::io::write(&self.0, &1u64.to_ne_bytes())) {
            // The counter is full: the front end has been told and has not looked yet.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(Errno::INTR) => Err(io::Error::other(
                "its counter is full, and the front end has made writing to it block",
            )),
            Err(e) => Err(e.into()),
        }
    }
}
