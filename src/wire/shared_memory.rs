// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is in the memory that both sides share.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{figures::has_figures, Figures, Payload, U32, U64};

/// [`MemoryHeader::magic`]: "VSVAMEM" and NUL.
pub const MEMORY_MAGIC: u64 = u64::from_le_bytes(*b"VSVAMEM\0");
/// [`MemoryHeader::version`].
pub const MEMORY_VERSION: u32 = 1;
/// Size of the header.
pub const MEMORY_HEADER_SIZE: usize = 128;
/// Size of the header of a front end that knows nothing of recovery.
pub const MEMORY_HEADER_SIZE_MIN: usize = 64;
/// Smallest memory.
pub const MEMORY_SIZE_MIN: u64 = 4096;
/// Largest memory.
pub const MEMORY_SIZE_MAX: u64 = 1 << 30;
/// The status block begins at a multiple of this, and so much room it has in whole.
pub const STATUS_ALIGN: u32 = 64;
/// Least room for the status block.
pub const STATUS_ROOM_MIN: u32 = 256;
/// Size of the status block of this version.
pub const STATUS_SIZE: u32 = 0x90;

/// What a recovery area begins with, once it has been used: "VSVARECV".
pub const RECOVERY_MAGIC: u64 = u64::from_le_bytes(*b"VSVARECV");
/// A recovery area begins at a multiple of this.
pub const RECOVERY_ALIGN: u64 = 4096;

/// Payload of SHARED_MEMORY.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct SharedMemoryRequest {
    /// Size of the memory in bytes.
    pub size: U64,
    /// Generation of the memory.
    pub generation: U64,
}

impl Payload for SharedMemoryRequest {}

/// What the memory begins with, written by the front end.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct MemoryHeader {
    /// [`MEMORY_MAGIC`].
    pub magic: U64,
    /// [`MEMORY_VERSION`].
    pub version: U32,
    /// Size of this header in bytes.
    pub header_size: U32,
    /// Size of the memory in bytes.
    pub total_size: U64,
    /// Chosen by the front end.
    pub generation: U64,
    /// Where the status block begins, in bytes from the start of the memory.
    pub status_offset: U32,
    /// Room for the status block, in bytes.
    pub status_room: U32,
    /// Where the recovery area begins, in bytes from the start of the memory; 0: there is none.
    pub recovery_offset: U64,
    /// Room for it, in bytes.
    pub recovery_room: U64,
    /// Reserved, zero.
    pub reserved: U64,
    /// Number of the last message of the event ring that the front end has taken.
    pub event_base: U64,
    /// Number of the last message of the portal ring before this connection.
    pub portal_base: U64,
    /// The ticket that the first SUBMIT of this connection will have.
    pub next_ticket: U64,
    /// Reserved, zero.
    pub reserved2: [u8; 40],
}

/// What the front end reads of a recovery area.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct AreaHead {
    /// [`RECOVERY_MAGIC`], or 0.
    pub magic: U64,
    /// Version of the layout.
    pub version: U32,
    /// Reserved, zero.
    pub reserved: U32,
    /// Number of the last message of the portal ring that has taken effect.
    pub portal_taken: U64,
}

const _: () = assert!(size_of::<MemoryHeader>() == MEMORY_HEADER_SIZE);

/// What the back-end is doing, written by the back-end at the end of each step.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct StatusBlock {
    /// Odd while the block is being written.
    pub seq: U32,
    /// Bytes that the back-end writes, [`STATUS_SIZE`].
    pub size: U32,
    /// CLOCK_MONOTONIC of the step.
    pub heartbeat_ns: U64,
    /// Generation of the last drain.
    pub generation: U64,
    /// A [`crate::core::Phase`].
    pub phase: U32,
    /// What the config space says as well.
    pub figures: Figures,
    /// CLOCK_MONOTONIC when it was read.
    pub oldest_read_ns: U64,
    /// [`super::FAULT_INFO_VALID`], [`super::FAULT_INFO_SSID_VALID`].
    pub oldest_flags: U32,
    /// Devices attached.
    pub devices: U32,
    /// Most faults of a device that is attached with `max_outstanding` 0.
    pub fault_share: U32,
    /// Channels that are not read for want of room.
    pub blocked: U32,
}

const _: () = assert!(size_of::<StatusBlock>() == STATUS_SIZE as usize);
const _: () = assert!(std::mem::offset_of!(StatusBlock, heartbeat_ns) == 0x08);
const _: () = assert!(std::mem::offset_of!(StatusBlock, phase) == 0x18);
const _: () = assert!(std::mem::offset_of!(StatusBlock, oldest_read_ns) == 0x78);
const _: () = assert!(std::mem::offset_of!(StatusBlock, oldest_flags) == 0x80);
const _: () = assert!(std::mem::offset_of!(StatusBlock, blocked) == 0x8c);

has_figures!(StatusBlock);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_memory_header_layout_matches_protocol() {
        let header = MemoryHeader {
            magic: U64::new(MEMORY_MAGIC),
            version: U32::new(1),
            header_size: U32::new(128),
            total_size: U64::new(4096),
            generation: U64::new(7),
            status_offset: U32::new(0x40),
            status_room: U32::new(0x100),
            recovery_offset: U64::new(0x1000),
            recovery_room: U64::new(0x2000),
            reserved: U64::ZERO,
            event_base: U64::new(11),
            portal_base: U64::new(12),
            next_ticket: U64::new(13),
            reserved2: [0; 40],
        };

        let words: Vec<u32> = header.as_bytes()[8..0x58]
            .chunks(4)
            .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
            .collect();

        assert_eq!(header.as_bytes()[..8], *b"VSVAMEM\0");
        assert_eq!(MEMORY_MAGIC, 0x004d_454d_4156_5356);
        assert_eq!(
            words,
            [
                1, 128, 4096, 0, 7, 0, 0x40, 0x100, 0x1000, 0, 0x2000, 0, 0, 0, 11, 0, 12, 0, 13,
                0,
            ]
        );
    }
}
