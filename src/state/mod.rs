// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state stream: bytes to plain data and back.
//!
//! [`StateData`] is untrusted: it only says what the bytes said. [`crate::core::Core::restore`] judges it.

#![forbid(unsafe_code)]

use std::io::Read;

use thiserror::Error;

use crate::wire::Message;

/// Version of the streams written here.
pub const STATE_VERSION: u16 = 1;
/// Oldest reader that can load them.
pub const STATE_COMPAT: u16 = 1;
/// Most bytes after the header.
pub const STATE_MAX: u64 = 64 << 20;

/// What a state stream says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateData {
    /// GENERAL section.
    pub general: General,
    /// DEVICES section.
    pub devices: Vec<DeviceState>,
    /// PENDING section: messages of type SUBMIT.
    pub pending: Vec<Message>,
    /// COUNTERS section.
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
    /// Its flags, as in ATTACH.
    pub flags: u32,
    /// Its limit of outstanding faults.
    pub max_outstanding: u32,
}

/// A state stream cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Reading failed.
    #[error("cannot read the state stream")]
    Read(#[source] std::io::Error),
}

/// Writes a state stream.
pub fn encode(_state: &StateData) -> Vec<u8> {
    todo!()
}

/// Reads a state stream to its end.
pub fn decode(_stream: impl Read) -> Result<StateData, DecodeError> {
    todo!()
}
