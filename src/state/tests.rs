// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::io::{self, Read};

use super::*;
use crate::wire::{MessageType, Submission, U32, U64};

const BODY: usize = STATE_HEADER_SIZE;
/// Where the first section's records begin.
const GENERAL: usize = BODY + 16;

fn sample() -> StateData {
    let submission = |ticket| Submission {
        region: U32::new(2),
        size: U32::new(4),
        offset: U64::new(0x40),
        ticket: U64::new(ticket),
        data: [7; 16],
        reserved: [0; 8],
    };
    StateData {
        general: General {
            generation: 3,
            next_ticket: 12,
            next_replay: 10,
            faults_read: 5,
            faults_answered: 4,
            phase: 2,
        },
        devices: vec![
            DeviceState {
                device: 0,
                vsid: 0x10,
                flags: 0,
            },
            DeviceState {
                device: 3,
                vsid: 0x18,
                flags: 1,
            },
        ],
        pending: vec![
            Message::new(MessageType::Submit, 0, &submission(10)),
            Message::new(MessageType::Submit, 3, &submission(11)),
        ],
        counters: Some([1, 2, 3, 4, 5, 6, 7, 8]),
    }
}

/// The stream of `sample` with its body changed and its checksums put right.
fn with_body(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut stream = encode(&sample());
    change(&mut stream);
    reseal(&mut stream);
    stream
}

fn reseal(stream: &mut [u8]) {
    let length = (stream.len() - BODY) as u64;
    stream[0x10..0x18].copy_from_slice(&length.to_le_bytes());
    let body = crc32c::crc32c(&stream[BODY..]);
    stream[0x18..0x1c].copy_from_slice(&body.to_le_bytes());
    reseal_header(stream);
}

fn reseal_header(stream: &mut [u8]) {
    let header = crc32c::crc32c(&stream[..0x1c]);
    stream[0x1c..0x20].copy_from_slice(&header.to_le_bytes());
}

fn append_section(stream: &mut Vec<u8>, section: u32, flags: u32, records: &[u8]) {
    stream.extend_from_slice(&section.to_le_bytes());
    stream.extend_from_slice(&flags.to_le_bytes());
    stream.extend_from_slice(&(records.len() as u64).to_le_bytes());
    stream.extend_from_slice(records);
    stream[0x0c] += 1;
}

fn error_of(stream: &[u8]) -> String {
    decode(stream).unwrap_err().to_string()
}

#[test]
fn test_decode_of_encoded_state_is_the_state() {
    let state = sample();
    let empty = StateData {
        counters: None,
        ..StateData::default()
    };

    assert_eq!(decode(&encode(&state)[..]).unwrap(), state);
    assert_eq!(decode(&encode(&empty)[..]).unwrap(), empty);
}

#[test]
fn test_encode_layout_matches_protocol() {
    let stream = encode(&sample());

    assert_eq!(stream[..8], *b"VSVASTAT");
    assert_eq!(stream[0x08..0x10], [1, 0, 1, 0, 4, 0, 0, 0]);
    let length = 16 + 48 + 16 + 32 + 16 + 128 + 16 + 64;
    assert_eq!(stream.len(), BODY + length);
    assert_eq!(stream[0x10..0x18], (length as u64).to_le_bytes());
    assert_eq!(stream[0x20..0x28], [0; 8]);
    assert_eq!(
        stream[BODY..GENERAL],
        [1, 0, 0, 0, 1, 0, 0, 0, 48, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(stream[GENERAL..GENERAL + 8], [3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(stream[GENERAL + 40..GENERAL + 48], [2, 0, 0, 0, 0, 0, 0, 0]);
    let devices = GENERAL + 48;
    assert_eq!(stream[devices..devices + 8], [2, 0, 0, 0, 1, 0, 0, 0]);
    let pending = devices + 16 + 32;
    assert_eq!(stream[pending..pending + 8], [3, 0, 0, 0, 1, 0, 0, 0]);
    let counters = pending + 16 + 128;
    assert_eq!(stream[counters..counters + 8], [4, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn test_crc_is_castagnoli() {
    assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn test_decode_truncated_at_every_byte_is_refused() {
    let stream = encode(&sample());

    for end in 0..stream.len() {
        let error = decode(&stream[..end]).unwrap_err();
        let expected = if end < BODY {
            matches!(error, DecodeError::HeaderTruncated { found, .. } if found == end)
        } else {
            matches!(error, DecodeError::Truncated { found, .. } if found == (end - BODY) as u64)
        };
        assert!(expected, "{end}: {error}");
    }
}

#[test]
fn test_decode_with_any_bit_flipped_is_refused() {
    let stream = encode(&sample());

    for bit in 0..stream.len() * 8 {
        let mut damaged = stream.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&damaged[..]).is_err(), "bit {bit}");
    }
}

#[test]
fn test_decode_of_something_else_says_so() {
    let error = error_of(&[0x55; 100]);

    assert!(
        error.contains("does not begin with \"VSVASTAT\""),
        "{error}"
    );
}

#[test]
fn test_decode_of_newer_stream_says_what_to_do() {
    let newer = StateVersion {
        version: 3,
        compat: 2,
    };

    let error = error_of(&newer.encode(sample()).parts().concat());

    assert!(error.contains("version 3"), "{error}");
    assert!(error.contains("reader of version 2"), "{error}");
    assert!(error.contains("update vhost-user-vsva"), "{error}");
}

#[test]
fn test_decode_of_newer_but_compatible_stream_is_accepted() {
    let newer = StateVersion {
        version: 3,
        compat: 1,
    };

    assert_eq!(
        decode(&newer.encode(sample()).parts().concat()[..]).unwrap(),
        sample()
    );
}

#[test]
fn test_decode_of_older_stream_by_newer_reader_is_accepted() {
    let reader = StateVersion {
        version: 9,
        compat: 9,
    };

    assert_eq!(reader.decode(&encode(&sample())[..]).unwrap(), sample());
}

#[test]
fn test_decode_of_version_that_cannot_be_is_refused() {
    for (version, compat) in [(0, 0), (1, 0), (0, 1), (1, 2)] {
        let wrong = StateVersion { version, compat };

        let error = error_of(&wrong.encode(sample()).parts().concat());

        assert!(error.contains("versions begin with 1"), "{error}");
    }
}

#[test]
fn test_decode_of_device_with_saved_limit_ignores_it() {
    // Where a former version has saved `max_outstanding`.
    let limit = GENERAL + 48 + 16 + 12;
    let stream = with_body(|stream| stream[limit] = 64);

    assert_eq!(decode(&stream[..]).unwrap(), sample());
}

#[test]
fn test_decode_of_too_long_stream_reads_only_the_header() {
    let mut stream = encode(&sample());
    stream[0x10..0x18].copy_from_slice(&(STATE_MAX + 1).to_le_bytes());
    reseal_header(&mut stream);
    let mut reader = &stream[..];

    let error = decode(&mut reader).unwrap_err();

    assert!(matches!(error, DecodeError::TooLong { length, .. } if length == STATE_MAX + 1));
    assert_eq!(reader.len(), stream.len() - BODY);
}

#[test]
fn test_decode_of_announced_but_missing_bytes_is_refused() {
    let mut stream = encode(&sample());
    stream[0x10..0x18].copy_from_slice(&STATE_MAX.to_le_bytes());
    reseal_header(&mut stream);

    let error = decode(&stream[..]).unwrap_err();

    let found = (stream.len() - BODY) as u64;
    assert!(matches!(error, DecodeError::Truncated { found: f, .. } if f == found));
}

#[test]
fn test_decode_with_trailing_byte_is_refused() {
    let mut stream = encode(&sample());
    stream.push(0);

    assert!(matches!(
        decode(&stream[..]).unwrap_err(),
        DecodeError::TrailingBytes { .. }
    ));
}

#[test]
fn test_decode_of_unreadable_stream_keeps_the_cause() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("cable cut"))
        }
    }

    let error = decode(Broken).unwrap_err();

    assert!(matches!(error, DecodeError::Read(cause) if cause.to_string() == "cable cut"));
}

#[test]
fn test_decode_skips_unknown_optional_section() {
    let stream = with_body(|stream| append_section(stream, 77, 0, b"whatever"));

    assert_eq!(decode(&stream[..]).unwrap(), sample());
}

#[test]
fn test_decode_refuses_unknown_mandatory_section() {
    let stream = with_body(|stream| append_section(stream, 77, 1, b"whatever"));

    let error = error_of(&stream);

    assert!(error.contains("section 77"), "{error}");
    assert!(error.contains("update vhost-user-vsva"), "{error}");
}

#[test]
fn test_decode_refuses_a_section_twice() {
    let stream = with_body(|stream| append_section(stream, 2, 1, &[]));

    assert_eq!(error_of(&stream), "state stream has section DEVICES twice");
}

#[test]
fn test_decode_refuses_a_missing_section() {
    for (section, name) in [(1, "GENERAL"), (2, "DEVICES"), (3, "PENDING")] {
        let mut stream = encode(&sample());
        stream.truncate(BODY);
        stream[0x0c] = 0;
        for (present, records) in [(1, &[0; 48][..]), (2, &[]), (3, &[])] {
            if present != section {
                append_section(&mut stream, present, 1, records);
            }
        }
        reseal(&mut stream);

        assert_eq!(
            error_of(&stream),
            format!("state stream lacks section {name}")
        );
    }
}

#[test]
fn test_decode_without_counters_is_accepted() {
    let state = StateData {
        counters: None,
        ..sample()
    };

    assert_eq!(decode(&encode(&state)[..]).unwrap().counters, None);
}

#[test]
fn test_decode_of_more_or_fewer_counters_takes_those_it_knows() {
    let with_counters = |count: usize| {
        let mut stream = encode(&StateData {
            counters: None,
            ..sample()
        });
        append_section(&mut stream, 4, 0, &vec![1; count * 8]);
        reseal(&mut stream);
        decode(&stream[..]).unwrap().counters
    };
    let one = 0x0101_0101_0101_0101;

    assert_eq!(with_counters(9), Some([one; 8]));
    assert_eq!(with_counters(1), Some([one, 0, 0, 0, 0, 0, 0, 0]));
}

#[test]
fn test_decode_of_broken_record_length_names_the_section() {
    for (section, name, length) in [
        (1u32, "GENERAL", 47usize),
        (2, "DEVICES", 17),
        (3, "PENDING", 63),
        (4, "COUNTERS", 9),
    ] {
        let mut stream = encode(&sample());
        stream.truncate(BODY);
        stream[0x0c] = 0;
        append_section(&mut stream, section, 1, &vec![0; length]);
        reseal(&mut stream);

        assert_eq!(
            error_of(&stream),
            format!(
                "state stream section {name} has {length} bytes, which is no whole number of its \
                 records"
            )
        );
    }
}

#[test]
fn test_decode_of_section_beyond_the_body_is_refused() {
    for length in [49, 1 << 40, u64::MAX] {
        let stream = with_body(|stream| {
            stream.truncate(GENERAL + 48);
            stream[BODY + 8..GENERAL].copy_from_slice(&length.to_le_bytes());
        });

        assert!(matches!(
            decode(&stream[..]).unwrap_err(),
            DecodeError::SectionTruncated { offset: 0 }
        ));
    }
}

#[test]
fn test_decode_of_cut_section_header_is_refused() {
    let stream = with_body(|stream| stream.extend_from_slice(&[0; 15]));

    let offset = encode(&sample()).len() - BODY;
    let error = decode(&stream[..]).unwrap_err();
    assert!(matches!(error, DecodeError::SectionTruncated { offset: o } if o == offset));
}

#[test]
fn test_decode_of_wrong_section_count_is_refused() {
    let stream = with_body(|stream| stream[0x0c] = 5);

    assert_eq!(
        error_of(&stream),
        "state stream has 4 sections, its header announces 5"
    );
}

/// The largest state that there can be, and as much again of what this version does not know.
#[test]
fn test_state_limit_has_room_for_the_largest_state_and_little_more() {
    let sections = |devices: u64| 4 * 16 + 48 + 16 * devices + 64;
    for (devices, pending) in [(0, 0), (1, 0), (0, 1), (16, 512), (256, 65_536)] {
        let known = sections(devices.into()) + 64 * u64::from(pending);
        let unknown = sections(devices.into()) + 4096;

        assert_eq!(state_limit(devices, pending), known + unknown);
    }
}

#[test]
fn test_largest_state_is_within_its_limit() {
    let mut state = sample();
    state.devices = (0..16)
        .map(|device| DeviceState {
            device,
            vsid: device,
            flags: 0,
        })
        .collect();
    state.pending = vec![state.pending[0]; 512];

    let body = encode(&state).len() - STATE_HEADER_SIZE;

    let known = 64 * 512 + (state_limit(16, 512) - 64 * 512 - 4096) / 2;
    assert_eq!(body as u64, known);
}
