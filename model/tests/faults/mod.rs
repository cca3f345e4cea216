// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The back-end's core with two devices and their fault files of the kernel: cookies, page tables
//! that are replaced, page request groups, vEVENTQs. The front end only drains and releases here;
//! the rest of it is in the other model.

mod actions;
mod check;
mod core;
mod kernel;
mod shell;
mod steps;

use std::collections::VecDeque;

use vhost_user_vsva::core::Core;

use crate::checker::Notes;
pub use actions::Action;
use kernel::{File, Group};
use shell::Doing;

pub const DEVICES: usize = 2;

/// What the other sides of the core keep; all of it by [`Rules::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// Section 5: HOLD and UNHOLD enclose what makes the kernel abort faults.
    pub holds: bool,
    /// Section 5: UNHOLD tells that the kernel has aborted the faults.
    pub tells_aborted: bool,
    /// Section 2.1: DEVICE_QUIESCED only of a device that has no DMA in flight.
    pub quiesced_at_rest: bool,
    /// Section 4.2: a cookie that comes again is another fault's.
    pub forgets_stale: bool,
    /// The shell writes, reads and closes what the core wants written, read and closed.
    pub writes: bool,
    pub reads: bool,
    pub closes: bool,
}

impl Rules {
    pub const ALL: Self = Self {
        holds: true,
        tells_aborted: true,
        quiesced_at_rest: true,
        forgets_stale: true,
        writes: true,
        reads: true,
        closes: true,
    };
}

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Setup {
    /// Both devices are on one channel.
    pub shared: bool,
    /// Records of a group, by device.
    pub records: [u8; DEVICES],
    /// Device 0 has page request groups.
    pub pri: bool,
    pub max_faults: u32,
    /// Of each device, 0 for a fair share.
    pub max_outstanding: u32,
    /// The two threads of the shell do their jobs part by part, else each is done with all of its
    /// jobs at once.
    pub threads: bool,
}

/// How often things may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    pub faults: [u8; DEVICES],
    /// The guest answers INVALID.
    pub invalid: u8,
    pub holds: u8,
    pub events: u8,
    pub resets: u8,
    pub terms: u8,
    pub detaches: u8,
    pub attaches: u8,
    pub losses: u8,
    pub drains: u8,
    pub deadlines: u8,
}

/// A device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Device {
    pub attached: bool,
    /// Its channel was lost.
    pub lost: bool,
    pub held: bool,
    /// The page table was replaced while it was held.
    pub replaced: bool,
    pub quiesced: bool,
}

/// What the front end waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drain {
    None,
    Begun,
    Drained,
    Failed,
}

/// An event that the guest has, and of which record it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    pub stag: u16,
    pub group: u8,
    pub record: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub rules: Rules,
    pub setup: Setup,
    pub left: Budget,
    pub core: Core<()>,
    pub files: [File; DEVICES],
    /// Faults that the kernel or the core has.
    pub groups: [Option<Group>; 4],
    pub devices: [Device; DEVICES],
    pub threads: [Option<Doing>; 2],
    /// The channels that the shell has, and those that it waits for.
    pub open: [bool; DEVICES],
    pub watched: [bool; DEVICES],
    /// A device whose DETACH has not been answered.
    pub leaves: Option<usize>,
    /// What the guest has to answer.
    pub guest: Vec<Event>,
    /// Devices of the records of the vEVENTQs that the guest does not have yet.
    pub due: VecDeque<u8>,
    pub drain: Drain,
    pub generation: u64,
    pub notes: Notes,
}

/// What has been reached, as bits of [`Notes::seen`].
pub mod seen {
    pub const DRAINED: u32 = 1;
    pub const FAILED: u32 = 1 << 1;
    pub const HELD_DRAINING: u32 = 1 << 2;
    pub const REPLACED: u32 = 1 << 3;
    pub const COOKIE_AGAIN: u32 = 1 << 4;
    pub const NO_ROOM: u32 = 1 << 5;
    pub const REFUSED: u32 = 1 << 6;
    pub const ABORTED_ANSWER: u32 = 1 << 7;
    pub const DISTURBED: u32 = 1 << 8;
    pub const ALL: [(u32, &str); 9] = [
        (DRAINED, "drained"),
        (FAILED, "a drain failed"),
        (HELD_DRAINING, "held while draining"),
        (REPLACED, "a page table was replaced"),
        (COOKIE_AGAIN, "a cookie came again"),
        (NO_ROOM, "no room for a fault"),
        (REFUSED, "a page request is larger than the limit"),
        (ABORTED_ANSWER, "the kernel had aborted what is answered"),
        (DISTURBED, "DRAINED was taken back before it was sent"),
    ];
}
