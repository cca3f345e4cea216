// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why an area cannot be used.

use thiserror::Error;

use super::layout::VERSION;

/// Why an area cannot be used. A reply has room for 44 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AreaError {
    /// It is not within the memory, or not aligned.
    #[error("no recovery area at {0:#x}")]
    Place(u64),
    /// There is too little room.
    #[error("area: {found} B, not {needed}")]
    Room {
        /// Room that there is.
        found: u64,
        /// Room needed.
        needed: u64,
    },
    /// It begins with something else.
    #[error("area: magic {0:#x}")]
    Magic(u64),
    /// It is laid out in another way.
    #[error("area: layout version {0}, not {VERSION}")]
    Version(u32),
    /// It was written with other options.
    #[error("area: made with --{name}={found}")]
    Limit {
        /// The option.
        name: &'static str,
        /// What it was.
        found: u32,
    },
    /// It contradicts itself.
    #[error("area: {what} {index}")]
    Contradiction {
        /// What is wrong.
        what: &'static str,
        /// Where.
        index: u32,
    },
    /// The front end says otherwise.
    #[error("area: portal_base is not portal_taken")]
    PortalBase,
    /// The process has devices or a state of its own.
    #[error("area of another process, but in use")]
    InUse,
    /// The process has given it up.
    #[error("area of the time before a reset")]
    GivenUp,
}
