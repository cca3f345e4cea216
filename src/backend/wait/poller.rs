// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Level-triggered readiness of a set of descriptors, each known by a token.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use epoll::{ControlOptions, Event, Events};

use crate::sys;

/// Most descriptors that [`Poller::wait`] tells of at a time.
pub const BATCH: usize = 32;

/// [`Poller::wait`] ends when something is ready.
pub const FOREVER: i32 = -1;
/// It ends at once.
pub const NOW: i32 = 0;

/// An epoll instance.
pub struct Poller(OwnedFd);

/// A token and what its descriptor is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The token given to [`Poller::add`].
    pub token: u64,
    /// Bits of [`Interest`], and errors and hang-ups as both.
    pub events: Events,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Nothing but errors and hang-ups.
    Nothing,
    /// Data to read.
    Read,
    /// Room to write.
    Write,
    /// Both.
    ReadWrite,
}

impl Interest {
    /// Reading and writing as wanted.
    pub fn new(read: bool, write: bool) -> Self {
        match (read, write) {
            (false, false) => Self::Nothing,
            (true, false) => Self::Read,
            (false, true) => Self::Write,
            (true, true) => Self::ReadWrite,
        }
    }

    fn events(self) -> Events {
        match self {
            Self::Nothing => Events::empty(),
            Self::Read => Events::EPOLLIN,
            Self::Write => Events::EPOLLOUT,
            Self::ReadWrite => Events::EPOLLIN | Events::EPOLLOUT,
        }
    }
}

impl Poller {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        sys::epoll_create().map(Poller)
    }

    /// Adds `fd`, which must be removed before it is closed if a duplicate of it lives on.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(ControlOptions::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Changes what is waited for.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(ControlOptions::EPOLL_CTL_MOD, fd, token, interest)
    }

    /// Removes `fd`.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        self.control(ControlOptions::EPOLL_CTL_DEL, fd, 0, Interest::Nothing)
    }

    fn control(
        &self,
        op: ControlOptions,
        fd: impl AsFd,
        token: u64,
        interest: Interest,
    ) -> io::Result<()> {
        let event = Event::new(interest.events(), token);
        epoll::ctl(self.0.as_raw_fd(), op, fd.as_fd().as_raw_fd(), event)
    }

    /// Waits until something is ready, [`FOREVER`] or not at all.
    pub fn wait(&self, limit: i32, ready: &mut Vec<Ready>) -> io::Result<()> {
        let mut events = [Event { events: 0, data: 0 }; BATCH];
        ready.clear();
        let count = match epoll::wait(self.0.as_raw_fd(), limit, &mut events) {
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            Err(e) => return Err(e),
        };
        ready.extend(events[..count].iter().map(|event| Ready {
            token: event.data,
            events: Events::from_bits_truncate(event.events),
        }));
        Ok(())
    }
}
