// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading of state streams.

use std::io::Read;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::format::{
    section_name, DeviceRecord, GeneralRecord, Header, SectionHeader, COUNTERS, DEVICES, GENERAL,
    HEADER_CRC_END, MAGIC, PENDING, SECTION_MANDATORY,
};
use super::{DecodeError, DeviceState, General, StateData, StateVersion};
use crate::wire::{Message, U64};

pub(super) fn decode(
    version: &StateVersion,
    limit: u64,
    mut stream: impl Read,
) -> Result<StateData, DecodeError> {
    let header = read_header(&mut stream)?;
    check_header(version, limit, &header)?;
    let body = read_body(stream, header.length.get())?;
    let computed = crc32c::crc32c(&body);
    let stored = header.body_crc.get();
    if computed != stored {
        return Err(DecodeError::BodyCrc { stored, computed });
    }
    parse_body(&body, header.sections.get())
}

fn read_header(stream: &mut impl Read) -> Result<Header, DecodeError> {
    let mut bytes = Vec::with_capacity(size_of::<Header>());
    stream
        .take(size_of::<Header>() as u64)
        .read_to_end(&mut bytes)
        .map_err(DecodeError::Read)?;
    Header::read_from_bytes(&bytes).map_err(|_| DecodeError::HeaderTruncated {
        found: bytes.len(),
        expected: size_of::<Header>(),
    })
}

fn check_header(reader: &StateVersion, limit: u64, header: &Header) -> Result<(), DecodeError> {
    if header.magic != MAGIC {
        return Err(DecodeError::Magic);
    }
    let computed = crc32c::crc32c(&header.as_bytes()[..HEADER_CRC_END]);
    let stored = header.header_crc.get();
    if computed != stored {
        return Err(DecodeError::HeaderCrc { stored, computed });
    }
    // The one field that no checksum covers.
    if header.reserved.get() != 0 {
        return Err(DecodeError::Reserved {
            value: header.reserved.get(),
        });
    }
    let (version, compat) = (header.version.get(), header.compat_version.get());
    if compat == 0 || compat > version {
        return Err(DecodeError::Version { version, compat });
    }
    if compat > reader.version {
        return Err(DecodeError::TooNew {
            version,
            compat,
            supported: reader.version,
        });
    }
    let length = header.length.get();
    if length > limit {
        return Err(DecodeError::TooLong { length, limit });
    }
    Ok(())
}

/// Reads to the end of the stream. Memory grows with what arrives.
fn read_body(mut stream: impl Read, length: u64) -> Result<Vec<u8>, DecodeError> {
    let mut body = Vec::new();
    stream
        .by_ref()
        .take(length)
        .read_to_end(&mut body)
        .map_err(DecodeError::Read)?;
    let found = body.len() as u64;
    if found < length {
        return Err(DecodeError::Truncated {
            found,
            expected: length,
        });
    }
    let mut rest = Vec::new();
    stream
        .take(1)
        .read_to_end(&mut rest)
        .map_err(DecodeError::Read)?;
    if !rest.is_empty() {
        return Err(DecodeError::TrailingBytes { length });
    }
    Ok(body)
}

fn parse_body(body: &[u8], expected: u32) -> Result<StateData, DecodeError> {
    let mut general = None;
    let mut devices = None;
    let mut pending = None;
    let mut counters = None;
    let mut rest = body;
    let mut found = 0;
    while !rest.is_empty() {
        let offset = body.len() - rest.len();
        let truncated = || DecodeError::SectionTruncated { offset };
        let (header, after) = SectionHeader::read_from_prefix(rest).map_err(|_| truncated())?;
        let length = usize::try_from(header.length.get()).map_err(|_| truncated())?;
        let (records, after) = after.split_at_checked(length).ok_or_else(truncated)?;
        rest = after;
        found += 1;
        let section = header.section.get();
        match section {
            GENERAL => once(&mut general, section, parse_general(records)?)?,
            DEVICES => {
                let records = records_of::<DeviceRecord>(section, records)?;
                once(
                    &mut devices,
                    section,
                    records.iter().map(DeviceState::from).collect(),
                )?;
            }
            PENDING => {
                let records = records_of::<Message>(section, records)?;
                once(&mut pending, section, records.to_vec())?;
            }
            COUNTERS => once(&mut counters, section, parse_counters(records)?)?,
            _ if header.flags.get() & SECTION_MANDATORY != 0 => {
                return Err(DecodeError::UnknownSection { section, offset });
            }
            _ => {}
        }
    }
    if found != expected {
        return Err(DecodeError::SectionCount { found, expected });
    }
    Ok(StateData {
        general: present(general, GENERAL)?,
        devices: present(devices, DEVICES)?,
        pending: present(pending, PENDING)?,
        counters,
    })
}

fn once<T>(slot: &mut Option<T>, section: u32, value: T) -> Result<(), DecodeError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(DecodeError::SectionTwice {
            name: section_name(section),
        }),
    }
}

fn present<T>(slot: Option<T>, section: u32) -> Result<T, DecodeError> {
    slot.ok_or(DecodeError::SectionMissing {
        name: section_name(section),
    })
}

fn wrong_length(section: u32, bytes: &[u8]) -> DecodeError {
    DecodeError::SectionLength {
        name: section_name(section),
        length: bytes.len(),
    }
}

fn records_of<R: FromBytes + Immutable + KnownLayout + Unaligned>(
    section: u32,
    bytes: &[u8],
) -> Result<&[R], DecodeError> {
    <[R]>::ref_from_bytes(bytes).map_err(|_| wrong_length(section, bytes))
}

fn parse_general(bytes: &[u8]) -> Result<General, DecodeError> {
    GeneralRecord::ref_from_bytes(bytes)
        .map(General::from)
        .map_err(|_| wrong_length(GENERAL, bytes))
}

/// A newer writer may know more counters, an older one fewer.
fn parse_counters(bytes: &[u8]) -> Result<[u64; 8], DecodeError> {
    let records = records_of::<U64>(COUNTERS, bytes)?;
    let mut counters = [0; 8];
    for (counter, record) in counters.iter_mut().zip(records) {
        *counter = record.get();
    }
    Ok(counters)
}
