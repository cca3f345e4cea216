// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writing of state streams.

use zerocopy::IntoBytes;

use super::format::{
    DeviceRecord, GeneralRecord, Header, SectionHeader, COUNTERS, DEVICES, GENERAL, HEADER_CRC_END,
    MAGIC, PENDING, SECTION_MANDATORY,
};
use super::{StateData, StateVersion};
use crate::wire::{U16, U32, U64};

pub(super) fn encode(version: &StateVersion, state: &StateData) -> Vec<u8> {
    let general = [GeneralRecord::from(&state.general)];
    let devices: Vec<_> = state.devices.iter().map(DeviceRecord::from).collect();
    let counters = state.counters.map(|counters| counters.map(U64::new));
    let mut sections = vec![
        (GENERAL, SECTION_MANDATORY, general.as_bytes()),
        (DEVICES, SECTION_MANDATORY, devices.as_bytes()),
        (PENDING, SECTION_MANDATORY, state.pending.as_bytes()),
    ];
    if let Some(counters) = &counters {
        sections.push((COUNTERS, 0, counters.as_bytes()));
    }

    let size: usize = sections
        .iter()
        .map(|(_, _, records)| size_of::<SectionHeader>() + records.len())
        .sum();
    let mut stream = Vec::with_capacity(size_of::<Header>() + size);
    stream.resize(size_of::<Header>(), 0);
    for (section, flags, records) in &sections {
        let header = SectionHeader {
            section: U32::new(*section),
            flags: U32::new(*flags),
            length: U64::new(records.len() as u64),
        };
        stream.extend_from_slice(header.as_bytes());
        stream.extend_from_slice(records);
    }

    let (place, body) = stream.split_at_mut(size_of::<Header>());
    let mut header = Header {
        magic: MAGIC,
        version: U16::new(version.version),
        compat_version: U16::new(version.compat),
        sections: U32::new(3 + u32::from(counters.is_some())),
        length: U64::new(body.len() as u64),
        body_crc: U32::new(crc32c::crc32c(body)),
        header_crc: U32::ZERO,
        reserved: U64::ZERO,
    };
    header.header_crc = U32::new(crc32c::crc32c(&header.as_bytes()[..HEADER_CRC_END]));
    place.copy_from_slice(header.as_bytes());
    stream
}
