// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state stream: plain data to bytes and back.
//!
//! [`StateData`] is untrusted: it only says what the bytes said. [`crate::core::Core::restore`]
//! judges it.
//!
//! A stream is read in this order: the header is checked, then as many bytes as it announces are
//! read to where they stay (memory grows with what arrives, not with what is announced), then their
//! checksum is checked, and only then anybody learns what they say.

#![forbid(unsafe_code)]

mod body;
mod decode;
mod encode;
mod error;
mod format;
#[cfg(test)]
mod tests;

pub use encode::Encoded;
pub use error::DecodeError;

use std::io::Read;

use crate::wire::Message;

/// Version of the streams written here.
pub const STATE_VERSION: u16 = 1;
/// Oldest reader that can load them.
pub const STATE_COMPAT: u16 = 1;
/// Most bytes after the header.
pub const STATE_MAX: u64 = 64 << 20;
/// Most bytes after the header of a state with so many devices and submissions. Sections that this
/// version does not know have room for as much again as everything but the submissions.
pub fn state_limit(devices: u32, pending: u32) -> u64 {
    let known = size_of::<format::SectionHeader>() * 4
        + size_of::<format::GeneralRecord>()
        + size_of::<[u64; 8]>();
    let devices = u64::from(devices) * size_of::<format::DeviceRecord>() as u64;
    let pending = u64::from(pending) * size_of::<Message>() as u64;
    pending + 2 * (devices + known as u64) + 4096
}

/// Size of the header.
pub const STATE_HEADER_SIZE: usize = size_of::<format::Header>();

/// What a state stream says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateData {
    /// GENERAL section.
    pub general: General,
    /// DEVICES section.
    pub devices: Vec<DeviceState>,
    /// PENDING section: messages of type SUBMIT.
    pub pending: Vec<Message>,
    /// COUNTERS section, in config space order.
    pub counters: Option<[u64; 8]>,
}

/// GENERAL section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct General {
    /// Generation of the last drain.
    pub generation: u64,
    /// Next ticket to be queued.
    pub next_ticket: u64,
    /// Oldest ticket not replayed.
    pub next_replay: u64,
    /// Faults read.
    pub faults_read: u64,
    /// Faults answered.
    pub faults_answered: u64,
    /// A [`crate::core::Phase`].
    pub phase: u32,
}

/// A record of the DEVICES section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceState {
    /// The device's number.
    pub device: u32,
    /// Its SID.
    pub vsid: u32,
    /// Those of its flags in ATTACH that the guest knows of.
    pub flags: u32,
}

/// Version of the streams that are written, and the newest that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateVersion {
    /// Version.
    pub version: u16,
    /// Oldest reader that can load what is written.
    pub compat: u16,
}

impl Default for StateVersion {
    fn default() -> Self {
        Self {
            version: STATE_VERSION,
            compat: STATE_COMPAT,
        }
    }
}

impl StateVersion {
    /// Makes a state stream.
    pub fn encode(&self, state: StateData) -> Encoded {
        encode::encode(self, state)
    }

    /// Reads a state stream to its end.
    pub fn decode(&self, stream: impl Read) -> Result<StateData, DecodeError> {
        self.decode_within(STATE_MAX, stream)
    }

    /// Reads a state stream to its end, unless its header announces more than `limit` bytes.
    pub fn decode_within(&self, limit: u64, stream: impl Read) -> Result<StateData, DecodeError> {
        decode::decode(self, limit.min(STATE_MAX), stream)
    }
}

/// Writes a state stream of this version.
pub fn encode(state: &StateData) -> Vec<u8> {
    StateVersion::default()
        .encode(state.clone())
        .parts()
        .concat()
}

/// Reads a state stream to its end.
pub fn decode(stream: impl Read) -> Result<StateData, DecodeError> {
    StateVersion::default().decode(stream)
}
