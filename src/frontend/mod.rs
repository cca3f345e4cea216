// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A front end: what a VMM does to use a vhost-user-vsva back-end.
//!
//! The VMM is the virtio driver of both rings, which live in a memfd of this module: the back-end
//! never sees guest memory. A typical life:
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
//!     let device = Attachment {
//!         device: 0,
//!         vsid: 8,
//!         dev_id: 1,
//!         channel: 0,
//!         max_outstanding: 0,
//!         pri: false,
//!     };
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
//! Nothing here waits for the guest. What waits for the back-end is bounded by
//! [`Options::timeout`].

#![forbid(unsafe_code)]

mod attach_channel;
mod connect;
mod error;
mod event;
mod messages;
mod ring;
mod run;
mod shared_memory;
mod stage_two;
mod state;

use std::time::{Duration, Instant};

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
};
use vhost::vhost_user::Frontend as VhostUser;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

pub use self::{
    attach_channel::{AttachChannel, Attachment, Companions},
    error::FrontendError,
    event::Event,
    ring::{Direction, Layout, Ring, Used},
    shared_memory::SharedMemory,
    stage_two::{StageTwoFilter, Verdict},
};
use crate::{sys, wire::NUM_RINGS};

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
    /// Somebody waits for [`Self::portal_fd`].
    portal_calls: bool,
}

impl Frontend {
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
