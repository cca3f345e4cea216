// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The config space.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{figures::has_figures, Figures, U16, U32};

/// Size of the config space.
pub const CONFIG_SIZE: usize = 128;
/// [`ConfigSpace::magic`]: "VSVA".
pub const CONFIG_MAGIC: u32 = 0x4156_5356;
/// [`ConfigSpace::version`].
pub const PROTOCOL_VERSION: u16 = 1;

/// What GET_CONFIG answers.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ConfigSpace {
    /// [`CONFIG_MAGIC`].
    pub magic: U32,
    /// [`PROTOCOL_VERSION`].
    pub version: U16,
    /// Version of the state streams that are written.
    pub state_version: U16,
    /// Oldest reader that can load them.
    pub state_compat: U16,
    /// Least room for the recovery area, in units of 64 KiB.
    pub recovery_room: U16,
    /// A [`crate::core::Phase`].
    pub phase: U32,
    /// Devices that can be attached.
    pub max_devices: U32,
    /// Submissions that can be queued.
    pub max_pending: U32,
    /// Faults that can be outstanding.
    pub max_faults: U32,
    /// What the status block says as well.
    pub figures: Figures,
    /// Age of the oldest outstanding fault.
    pub oldest_age_ms: U32,
    /// [`super::FAULT_INFO_VALID`], [`super::FAULT_INFO_SSID_VALID`].
    pub oldest_flags: U32,
}

const _: () = assert!(size_of::<ConfigSpace>() == CONFIG_SIZE);
const _: () = assert!(std::mem::offset_of!(ConfigSpace, phase) == 0x0c);
const _: () = assert!(std::mem::offset_of!(ConfigSpace, oldest_flags) == 0x7c);

has_figures!(ConfigSpace);
