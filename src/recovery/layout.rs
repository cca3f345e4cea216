// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where everything is in the area.
//!
//! All of it is 64-bit words in little-endian order.
//!
//! | Part | Words of an entry |
//! |---|---|
//! | head | see [`head`] |
//! | devices | 1 if the device is held |
//! | channels | flags and number; records taken from the inbox; vEVENTQ, see [`RECORDS_UNSENT`] |
//! | groups | flags and channel; cookie and `dev_id`; records; order |
//! | faults | flags and group; SSID and index of the page request group; address; time; order; event |
//! | undo | word, value |
//! | inboxes | records of the channel |

use crate::{
    core::Limits,
    wire::{PGFAULT_SIZE, RECOVERY_ALIGN},
};

/// Version of the layout.
pub const VERSION: u32 = 1;
/// Records that an inbox has room for: the largest group that the kernel may hand out at once.
pub const INBOX_RECORDS: usize = 4096;
/// Size of a word.
pub const WORD: usize = size_of::<u64>();

/// Words of the head, by their index.
pub mod head {
    /// "VSVARECV".
    pub const MAGIC: usize = 0;
    /// Layout version.
    pub const VERSION: usize = 1;
    /// Number of the last message of the portal ring that has taken effect.
    pub const PORTAL_TAKEN: usize = 2;
    /// The process that writes the area, a random number.
    pub const INSTANCE: usize = 3;
    /// `max_devices`, `max_faults`.
    pub const LIMITS: usize = 4;
    /// How many entries of the undo list are to be put back.
    pub const UNDO: usize = 5;
    /// None of them, if `PORTAL_TAKEN` is this.
    pub const UNDO_UNLESS: usize = 6;
    /// The counters, in the order of the config space.
    pub const COUNTERS: usize = 8;
    /// How many counters there are.
    pub const COUNTERS_LEN: usize = 8;
    /// Words of the head.
    pub const LEN: usize = 32;
}

/// [`head::UNDO_UNLESS`]: in any case.
pub const ALWAYS: u64 = u64::MAX;
/// Words of a channel.
pub const CHANNEL_WORDS: usize = 4;
/// Words of a group.
pub const GROUP_WORDS: usize = 4;
/// Words of a fault.
pub const FAULT_WORDS: usize = 8;
/// Words of them that are used.
pub const FAULT_WORDS_USED: usize = 6;
/// Number of its event, among them.
pub const FAULT_EVENT: usize = FAULT_WORDS_USED - 1;
/// Records of the vEVENTQ have been read and not been sent. Another value is the number of the
/// message by which the last was sent.
pub const RECORDS_UNSENT: u64 = u64::MAX;
/// The event of a fault has not been sent.
pub const EVENT_UNSENT: u64 = u64::MAX;

/// Bits of the first word of an entry.
pub mod flag {
    /// The entry is in use.
    pub const USED: u32 = 1 << 0;
    /// Channel: a fault file of the kernel.
    pub const KERNEL: u32 = 1 << 1;
    /// Group: its last record has not been read.
    pub const OPEN: u32 = 1 << 1;
    /// Group: further records do not reach the guest.
    pub const REFUSED: u32 = 1 << 2;
    /// Group: the answer is INVALID.
    pub const INVALID: u32 = 1 << 3;
    /// Group: answered as a whole.
    pub const PAGE_REQUEST: u32 = 1 << 4;
    /// Fault: write.
    pub const WRITE: u32 = 1 << 1;
    /// Fault: instruction fetch.
    pub const EXEC: u32 = 1 << 2;
    /// Fault: privileged.
    pub const PRIVILEGED: u32 = 1 << 3;
    /// Fault: it has an SSID.
    pub const SSID: u32 = 1 << 4;
}

/// The places of the parts, as indices of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Devices.
    pub devices_len: usize,
    /// First word of the devices.
    pub devices: usize,
    /// Channels, and inboxes.
    pub channels_len: usize,
    /// Groups.
    pub groups_len: usize,
    /// Faults.
    pub faults_len: usize,
    /// First word of the channels.
    pub channels: usize,
    /// First word of the groups.
    pub groups: usize,
    /// First word of the faults.
    pub faults: usize,
    /// First word of the undo list.
    pub undo: usize,
    /// First word of the inboxes.
    pub inboxes: usize,
    /// Entries of the undo list: every word that a step can change.
    pub undo_len: usize,
    limits: Limits,
}

impl Layout {
    /// For these limits.
    pub fn new(limits: &Limits) -> Self {
        let channels_len = limits.max_devices as usize * 2;
        let groups_len = limits.max_faults as usize + channels_len;
        let faults_len = limits.max_faults as usize;
        let devices_len = limits.max_devices as usize;
        let devices = head::LEN;
        let channels = devices + devices_len;
        let groups = channels + channels_len * CHANNEL_WORDS;
        let faults = groups + groups_len * GROUP_WORDS;
        let undo = faults + faults_len * FAULT_WORDS;
        let undo_len = undo - head::COUNTERS;
        let align = usize::try_from(RECOVERY_ALIGN).unwrap_or(1) / WORD;
        let inboxes = (undo + undo_len * 2).next_multiple_of(align);
        Self {
            devices_len,
            devices,
            channels_len,
            groups_len,
            faults_len,
            channels,
            groups,
            faults,
            undo,
            inboxes,
            undo_len,
            limits: *limits,
        }
    }

    /// Bytes of the whole area.
    pub fn room(&self) -> u64 {
        (self.inbox(self.channels_len)) as u64
    }

    /// The same in units of 64 KiB, as the config space says it.
    pub fn room_units(&self) -> u16 {
        u16::try_from(self.room().div_ceil(64 << 10)).unwrap_or(u16::MAX)
    }

    /// First byte of an inbox.
    pub fn inbox(&self, slot: usize) -> usize {
        self.inboxes * WORD + slot * INBOX_RECORDS * PGFAULT_SIZE
    }

    /// First word of a channel.
    pub fn channel(&self, slot: usize) -> usize {
        self.channels + slot * CHANNEL_WORDS
    }

    /// First word of a group.
    pub fn group(&self, index: usize) -> usize {
        self.groups + index * GROUP_WORDS
    }

    /// First word of a fault.
    pub fn fault(&self, index: usize) -> usize {
        self.faults + index * FAULT_WORDS
    }

    /// [`head::LIMITS`].
    pub fn limits_word(&self) -> u64 {
        pack(self.limits.max_devices, self.limits.max_faults)
    }
}

/// Two numbers in a word.
pub fn pack(low: u32, high: u32) -> u64 {
    u64::from(low) | (u64::from(high) << 32)
}

/// The two numbers of a word.
#[allow(clippy::cast_possible_truncation, reason = "the halves of the word")]
pub fn unpack(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}
