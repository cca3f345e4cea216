// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Errors of reading a state stream.

use std::io;

use thiserror::Error;

/// A state stream cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Reading failed.
    #[error("cannot read the state stream: {0}")]
    Read(#[source] io::Error),
    /// The stream ended within the header.
    #[error("state stream ends after {found} bytes, within its header of {expected} bytes")]
    HeaderTruncated {
        /// Bytes found.
        found: usize,
        /// Bytes of a header.
        expected: usize,
    },
    /// The stream is something else.
    #[error(
        "state stream does not begin with \"VSVASTAT\": it comes from another device or is damaged"
    )]
    Magic,
    /// The header is damaged.
    #[error(
        "state stream header has CRC {computed:#010x}, it says {stored:#010x}: the stream is \
         damaged"
    )]
    HeaderCrc {
        /// CRC that the header says.
        stored: u32,
        /// CRC of the header.
        computed: u32,
    },
    /// The reserved field is not zero.
    #[error("state stream header has {value:#x} in its reserved field: the stream is damaged")]
    Reserved {
        /// Content of the field.
        value: u64,
    },
    /// No version has these numbers.
    #[error(
        "state stream says version {version}, oldest reader {compat}: versions begin with 1, and a \
         stream can be read by its own"
    )]
    Version {
        /// Version of the stream.
        version: u16,
        /// Oldest reader that may load it.
        compat: u16,
    },
    /// The stream was written by a newer version.
    #[error(
        "state stream has version {version} and needs a reader of version {compat} or newer, this \
         one is version {supported}: update vhost-user-vsva on this host"
    )]
    TooNew {
        /// Version of the stream.
        version: u16,
        /// Oldest reader that may load it.
        compat: u16,
        /// Version of this reader.
        supported: u16,
    },
    /// The stream is too long.
    #[error(
        "state stream announces {length} bytes, more than the {limit} that can be needed here; is \
         --max-pending smaller than at the source?"
    )]
    TooLong {
        /// Bytes announced.
        length: u64,
        /// Bytes that a state which fits can have.
        limit: u64,
    },
    /// The stream ended too early.
    #[error("state stream ends after {found} of {expected} bytes of its body")]
    Truncated {
        /// Bytes found.
        found: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// The stream goes on after its end.
    #[error("state stream goes on after the {length} bytes that it announces")]
    TrailingBytes {
        /// Bytes announced.
        length: u64,
    },
    /// The body is damaged.
    #[error(
        "state stream body has CRC {computed:#010x}, its header says {stored:#010x}: the stream \
         is damaged"
    )]
    BodyCrc {
        /// CRC that the header says.
        stored: u32,
        /// CRC of the body.
        computed: u32,
    },
    /// A section does not fit in the body.
    #[error("state stream section at byte {offset} of the body does not fit in what is left")]
    SectionTruncated {
        /// Where it begins.
        offset: usize,
    },
    /// The number of sections is not the announced one.
    #[error("state stream has {found} sections, its header announces {expected}")]
    SectionCount {
        /// Sections found.
        found: u32,
        /// Sections announced.
        expected: u32,
    },
    /// A section that this reader must know.
    #[error(
        "state stream section {section} at byte {offset} of the body is mandatory and unknown \
         here: update vhost-user-vsva on this host"
    )]
    UnknownSection {
        /// Its type.
        section: u32,
        /// Where it begins.
        offset: usize,
    },
    /// A section came twice.
    #[error("state stream has section {name} twice")]
    SectionTwice {
        /// Its name.
        name: &'static str,
    },
    /// A mandatory section is not there.
    #[error("state stream lacks section {name}")]
    SectionMissing {
        /// Its name.
        name: &'static str,
    },
    /// A section's length is not that of its records.
    #[error(
        "state stream section {name} has {length} bytes, which is no whole number of its records"
    )]
    SectionLength {
        /// Its name.
        name: &'static str,
        /// Its length.
        length: usize,
    },
}
