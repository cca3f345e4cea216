// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Records of the state stream.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{DeviceState, General};
use crate::wire::{U16, U32, U64};

pub(super) const MAGIC: [u8; 8] = *b"VSVASTAT";
/// A reader that does not know the section must refuse the stream.
pub(super) const SECTION_MANDATORY: u32 = 1 << 0;

pub(super) const GENERAL: u32 = 1;
pub(super) const DEVICES: u32 = 2;
pub(super) const PENDING: u32 = 3;
pub(super) const COUNTERS: u32 = 4;

/// Name of a section, for error texts.
pub(super) fn section_name(section: u32) -> &'static str {
    match section {
        GENERAL => "GENERAL",
        DEVICES => "DEVICES",
        PENDING => "PENDING",
        COUNTERS => "COUNTERS",
        _ => "unknown",
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub(super) magic: [u8; 8],
    pub(super) version: U16,
    pub(super) compat_version: U16,
    pub(super) sections: U32,
    pub(super) length: U64,
    pub(super) body_crc: U32,
    pub(super) header_crc: U32,
    pub(super) reserved: U64,
}

/// Bytes of the header that its checksum covers.
pub(super) const HEADER_CRC_END: usize = std::mem::offset_of!(Header, header_crc);

const _: () = assert!(size_of::<Header>() == 40);
const _: () = assert!(HEADER_CRC_END == 0x1c);

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct SectionHeader {
    pub(super) section: U32,
    pub(super) flags: U32,
    pub(super) length: U64,
}

const _: () = assert!(size_of::<SectionHeader>() == 16);

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct GeneralRecord {
    generation: U64,
    next_ticket: U64,
    next_replay: U64,
    faults_read: U64,
    faults_answered: U64,
    phase: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<GeneralRecord>() == 48);

impl From<&General> for GeneralRecord {
    fn from(general: &General) -> Self {
        Self {
            generation: U64::new(general.generation),
            next_ticket: U64::new(general.next_ticket),
            next_replay: U64::new(general.next_replay),
            faults_read: U64::new(general.faults_read),
            faults_answered: U64::new(general.faults_answered),
            phase: U32::new(general.phase),
            reserved: U32::ZERO,
        }
    }
}

impl From<&GeneralRecord> for General {
    fn from(record: &GeneralRecord) -> Self {
        Self {
            generation: record.generation.get(),
            next_ticket: record.next_ticket.get(),
            next_replay: record.next_replay.get(),
            faults_read: record.faults_read.get(),
            faults_answered: record.faults_answered.get(),
            phase: record.phase.get(),
        }
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct DeviceRecord {
    device: U32,
    vsid: U32,
    flags: U32,
    /// Once the limit of outstanding faults, which is the host's own affair.
    reserved: U32,
}

const _: () = assert!(size_of::<DeviceRecord>() == 16);

impl From<&DeviceState> for DeviceRecord {
    fn from(state: &DeviceState) -> Self {
        Self {
            device: U32::new(state.device),
            vsid: U32::new(state.vsid),
            flags: U32::new(state.flags),
            reserved: U32::ZERO,
        }
    }
}

impl From<&DeviceRecord> for DeviceState {
    fn from(record: &DeviceRecord) -> Self {
        Self {
            device: record.device.get(),
            vsid: record.vsid.get(),
            flags: record.flags.get(),
        }
    }
}
