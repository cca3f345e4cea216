// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writing of state streams.

use zerocopy::IntoBytes;

use super::format::{
    DeviceRecord, GeneralRecord, Header, SectionHeader, COUNTERS, DEVICES, GENERAL, HEADER_CRC_END,
    MAGIC, PENDING, SECTION_MANDATORY,
};
use super::{StateData, StateVersion};
use crate::wire::{Message, U16, U32, U64};

/// A state as it goes into the stream: the submissions, which are nearly all of it, are not copied.
pub struct Encoded {
    before: Vec<u8>,
    pending: Vec<Message>,
    after: Vec<u8>,
}

impl Encoded {
    /// The stream, in order.
    pub fn parts(&self) -> [&[u8]; 3] {
        [&self.before, self.pending.as_bytes(), &self.after]
    }

    /// Bytes of the stream.
    pub fn length(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }

    /// Submissions in it.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }
}

pub(super) fn encode(version: &StateVersion, state: StateData) -> Encoded {
    let mut before = vec![0; size_of::<Header>()];
    let general = GeneralRecord::from(&state.general);
    add_section(&mut before, GENERAL, SECTION_MANDATORY, general.as_bytes());
    let devices: Vec<_> = state.devices.iter().map(DeviceRecord::from).collect();
    add_section(&mut before, DEVICES, SECTION_MANDATORY, devices.as_bytes());
    let pending = state.pending;
    let length = size_of_val(&pending[..]);
    add_header(&mut before, PENDING, SECTION_MANDATORY, length);
    let mut after = Vec::new();
    if let Some(counters) = state.counters {
        add_section(&mut after, COUNTERS, 0, counters.map(U64::new).as_bytes());
    }

    let (place, body) = before.split_at_mut(size_of::<Header>());
    let crc = [pending.as_bytes(), &after]
        .iter()
        .fold(crc32c::crc32c(body), |crc, part| {
            crc32c::crc32c_append(crc, part)
        });
    let mut header = Header {
        magic: MAGIC,
        version: U16::new(version.version),
        compat_version: U16::new(version.compat),
        sections: U32::new(3 + u32::from(state.counters.is_some())),
        length: U64::new((body.len() + length + after.len()) as u64),
        body_crc: U32::new(crc),
        header_crc: U32::ZERO,
        reserved: U64::ZERO,
    };
    header.header_crc = U32::new(crc32c::crc32c(&header.as_bytes()[..HEADER_CRC_END]));
    place.copy_from_slice(header.as_bytes());
    Encoded {
        before,
        pending,
        after,
    }
}

fn add_section(stream: &mut Vec<u8>, section: u32, flags: u32, records: &[u8]) {
    add_header(stream, section, flags, records.len());
    stream.extend_from_slice(records);
}

fn add_header(stream: &mut Vec<u8>, section: u32, flags: u32, length: usize) {
    let header = SectionHeader {
        section: U32::new(section),
        flags: U32::new(flags),
        length: U64::new(length as u64),
    };
    stream.extend_from_slice(header.as_bytes());
}
