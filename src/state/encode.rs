// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writing of state streams.

use zerocopy::{Immutable, IntoBytes};

use super::format::{
    DeviceRecord, GeneralRecord, Header, SectionHeader, COUNTERS, DEVICES, GENERAL, HEADER_CRC_END,
    MAGIC, PENDING, SECTION_MANDATORY,
};
use super::{StateData, StateVersion};
use crate::wire::{U16, U32, U64};

pub(super) fn encode(version: &StateVersion, state: &StateData) -> Vec<u8> {
    let mut body = Body::default();
    let general = GeneralRecord::from(&state.general);
    body.section(GENERAL, SECTION_MANDATORY, std::iter::once(general));
    let devices = state.devices.iter().map(DeviceRecord::from);
    body.section(DEVICES, SECTION_MANDATORY, devices);
    body.section(PENDING, SECTION_MANDATORY, state.pending.iter().copied());
    if let Some(counters) = state.counters {
        body.section(COUNTERS, 0, counters.into_iter().map(U64::new));
    }

    let mut header = Header {
        magic: MAGIC,
        version: U16::new(version.version),
        compat_version: U16::new(version.compat),
        sections: U32::new(body.sections),
        length: U64::new(body.bytes.len() as u64),
        body_crc: U32::new(crc32c::crc32c(&body.bytes)),
        header_crc: U32::ZERO,
        reserved: U64::ZERO,
    };
    header.header_crc = U32::new(crc32c::crc32c(&header.as_bytes()[..HEADER_CRC_END]));
    [header.as_bytes(), &body.bytes].concat()
}

#[derive(Default)]
struct Body {
    bytes: Vec<u8>,
    sections: u32,
}

impl Body {
    fn section<R: IntoBytes + Immutable>(
        &mut self,
        section: u32,
        flags: u32,
        records: impl ExactSizeIterator<Item = R>,
    ) {
        let header = SectionHeader {
            section: U32::new(section),
            flags: U32::new(flags),
            length: U64::new((records.len() * size_of::<R>()) as u64),
        };
        self.bytes.extend_from_slice(header.as_bytes());
        for record in records {
            self.bytes.extend_from_slice(record.as_bytes());
        }
        self.sections += 1;
    }
}
