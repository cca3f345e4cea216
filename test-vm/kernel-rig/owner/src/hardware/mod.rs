// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices whose accesses fault, and the page tables they fault on.

mod mock;
mod nested;

pub use mock::Mock;
pub use nested::{Faults, Nested};

use std::{io, os::fd::BorrowedFd};

use crate::testdev::Outcome;

/// SID of the first device as the guest knows it; the others follow.
pub const FIRST_VSID: u32 = 0x77;

/// Page-aligned addresses from here on are free for the checks.
pub const VA: u64 = 0x20_0000_0000;

/// An access of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub ssid: Option<u32>,
    pub addr: u64,
    pub write: bool,
    pub exec: bool,
    pub privileged: bool,
}

impl Access {
    /// A plain read.
    pub fn read(addr: u64) -> Self {
        Access {
            ssid: None,
            addr,
            write: false,
            exec: false,
            privileged: false,
        }
    }

    /// A plain write.
    pub fn write(addr: u64) -> Self {
        Access {
            write: true,
            ..Self::read(addr)
        }
    }

    pub fn ssid(self, ssid: u32) -> Self {
        Access {
            ssid: Some(ssid),
            ..self
        }
    }
}

/// Names an access that has been made.
#[derive(Clone, Copy, Debug)]
pub struct AccessId {
    pub device: usize,
    pub number: u64,
}

/// What the devices do after a change of their page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// The first nested page table.
    First,
    /// Another nested page table with the same tables and the same fault queue.
    Second,
    /// None.
    Detached,
}

/// Devices on one fault queue.
pub trait Hardware {
    /// The fault queue.
    fn fault_fd(&self) -> BorrowedFd<'_>;
    /// Id of the device in the records of the fault queue.
    fn device_id(&self, device: usize) -> u32;
    /// Makes an access that is not translated yet. It faults once.
    fn access(&mut self, device: usize, access: &Access) -> io::Result<AccessId>;
    /// Fills in the stage-1 translation of `access`, as a guest kernel does when it handles the
    /// fault.
    fn resolve(&mut self, access: &Access) -> io::Result<()>;
    /// The same with a page that other accesses use as well.
    fn resolve_shared(&mut self, access: &Access) -> io::Result<()>;
    /// How the access ended, as soon as it has; `None` for ever if this hardware does not tell.
    fn outcome(&mut self, id: AccessId) -> Option<Outcome>;
    /// Whether [`Self::outcome`] tells.
    fn tells_outcomes(&self) -> bool;
    /// How many accesses of the device have ended well; `None` if this hardware does not tell.
    fn completed(&self, device: usize) -> Option<u64>;
    /// How many accesses of the device have been aborted; `None` if this hardware does not tell.
    fn aborts(&self, device: usize) -> Option<u64>;
    /// Lets the device take no new work and waits until it has none. The faults of its last work
    /// are still served by whoever serves them.
    fn is_quiet(&self, device: usize) -> bool;
    /// What the kernel is asked to do when a guest rewrites its STE.
    fn attach(&mut self, device: usize, to: Attachment) -> io::Result<()>;
}

/// SID of `device` as the guest knows it.
pub fn vsid(device: usize) -> u32 {
    FIRST_VSID + u32::try_from(device).expect("few devices")
}
