// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading of state streams.

use std::io::Read;

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::body::{wrong_length, Body};
use super::format::{
    section_name, DeviceRecord, GeneralRecord, Header, SectionHeader, COUNTERS, DEVICES, GENERAL,
    HEADER_CRC_END, MAGIC, PENDING, SECTION_MANDATORY,
};
use super::{DecodeError, DeviceState, General, StateData, StateVersion};
use crate::wire::U64;

pub(super) fn decode(
    version: &StateVersion,
    limit: u64,
    mut stream: impl Read,
) -> Result<StateData, DecodeError> {
    let header = read_header(&mut stream)?;
    check_header(version, limit, &header)?;
    let mut body = Body::new(stream, header.length.get());
    let parsed = parse_body(&mut body, header.sections.get());
    if let Err(DecodeError::Read(_) | DecodeError::Truncated { .. }) = parsed {
        return parsed;
    }
    // What a damaged stream seems to say means nothing: its checksum comes first.
    let computed = body.finish()?;
    let stored = header.body_crc.get();
    if computed != stored {
        return Err(DecodeError::BodyCrc { stored, computed });
    }
    parsed
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

fn parse_body(body: &mut Body<impl Read>, expected: u32) -> Result<StateData, DecodeError> {
    let mut general = None;
    let mut devices = None;
    let mut pending = None;
    let mut counters = None;
    let mut found = 0;
    while body.left() > 0 {
        let offset = body.offset();
        let truncated = || DecodeError::SectionTruncated { offset };
        if body.left() < size_of::<SectionHeader>() as u64 {
            return Err(truncated());
        }
        let mut header = SectionHeader::new_zeroed();
        body.fill(header.as_mut_bytes())?;
        let length = header.length.get();
        if length > body.left() {
            return Err(truncated());
        }
        found += 1;
        let section = header.section.get();
        match section {
            GENERAL => {
                let records = body.records::<GeneralRecord>(section, length)?;
                once(&mut general, section, parse_general(&records)?)?;
            }
            DEVICES => {
                let records = body.records::<DeviceRecord>(section, length)?;
                once(
                    &mut devices,
                    section,
                    records.iter().map(DeviceState::from).collect(),
                )?;
            }
            PENDING => once(&mut pending, section, body.records(section, length)?)?,
            COUNTERS => {
                let records = body.records::<U64>(section, length)?;
                once(&mut counters, section, parse_counters(&records))?;
            }
            _ if header.flags.get() & SECTION_MANDATORY != 0 => {
                return Err(DecodeError::UnknownSection { section, offset });
            }
            _ => body.skip(length)?,
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

fn parse_general(records: &[GeneralRecord]) -> Result<General, DecodeError> {
    match records {
        [record] => Ok(General::from(record)),
        _ => Err(wrong_length(GENERAL, size_of_val(records))),
    }
}

/// A newer writer may know more counters, an older one fewer.
fn parse_counters(records: &[U64]) -> [u64; 8] {
    let mut counters = [0; 8];
    for (counter, record) in counters.iter_mut().zip(records) {
        *counter = record.get();
    }
    counters
}
