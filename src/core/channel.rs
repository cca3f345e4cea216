// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A fault channel: what it is to be read and written for.

use super::group::{ANSWERED, BY_CHANNEL};
use super::table::List;

/// A fault channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Channel {
    pub(super) number: u32,
    /// Devices attached to it.
    pub(super) devices: u32,
    /// Read until empty since the last thing that could have put something into it.
    pub(super) empty: bool,
    /// A record of it found no room: [`super::channel_table::Channels::set_blocked`].
    pub(super) blocked: Option<Blocked>,
    /// Devices of it that are held: it is neither read nor written.
    pub(super) held: u32,
    /// Its other end is the kernel, which aborts faults by itself when a page table is replaced.
    pub(super) kernel: bool,
    /// It is of the time before a reset, and so are the answers that it has yet to get.
    pub(super) left_over: bool,
    /// The group whose last record has not been read.
    pub(super) open: Option<u32>,
    pub(super) read: ReadJob,
    pub(super) write: WriteJob,
    pub(super) groups: List<BY_CHANNEL>,
    pub(super) answers: List<ANSWERED>,
}

/// Whether the channel is to be read though poll may not report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ReadJob {
    /// Only if it finds room after [`Channel::blocked`], or a drain must know whether it is empty.
    None,
    /// Yes: it was not read while its devices were held, or gone.
    Due,
    /// A thread has been told to, and has not said yet what it found.
    GivenOut,
}

/// Where the answers of a channel are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum WriteJob {
    /// Nobody has been told to write.
    None,
    /// The channel is in the list of those that are to be written.
    Due,
    /// A thread takes and writes them.
    GivenOut,
    /// The socket takes none.
    Blocked,
}

impl Channel {
    pub(super) fn new(number: u32) -> Self {
        Self {
            number,
            devices: 0,
            empty: false,
            blocked: None,
            held: 0,
            kernel: false,
            left_over: false,
            open: None,
            read: ReadJob::None,
            write: WriteJob::None,
            groups: List::new(),
            answers: List::new(),
        }
    }

    /// Nobody uses it: it has neither devices nor answers to write.
    pub(super) fn is_unused(&self) -> bool {
        self.devices == 0 && self.groups.is_empty()
    }

    /// How many answers are to be written.
    pub(super) fn answers_len(&self) -> u32 {
        self.answers.len()
    }

    /// Something may have come since the channel was read.
    pub(super) fn may_have_more(&mut self) {
        self.empty = false;
        if self.read == ReadJob::GivenOut {
            self.read = ReadJob::None;
        }
    }

    /// Whether a drain must know if something is left in it.
    pub(super) fn is_unread(&self) -> bool {
        !self.empty && self.blocked.is_none() && self.held == 0
    }
}

/// What a record found no room in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Blocked {
    /// The table of groups.
    Groups,
    /// The table of faults, or the limit of this device.
    Faults { device: u32 },
}
