// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The seeds of the fuzz targets, and mutations of them, as ordinary tests.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

#[path = "../fuzz/src/lib.rs"]
mod targets;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no seeds in {}", folder.display());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Changes of single bytes, by place and value.
fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)
}

fn changed(seed: &[u8], changes: &[(prop::sample::Index, u8)], from: usize) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for (place, value) in changes {
        let place = from + place.index(bytes.len() - from);
        bytes[place] = *value;
    }
    bytes
}

/// Makes the checksums of a state stream right.
fn reseal(stream: &mut [u8]) {
    let body = crc32c::crc32c(&stream[0x28..]);
    stream[0x18..0x1c].copy_from_slice(&body.to_le_bytes());
    let header = crc32c::crc32c(&stream[..0x1c]);
    stream[0x1c..0x20].copy_from_slice(&header.to_le_bytes());
}

#[test]
fn test_seeds_of_portal_hold() {
    for seed in seeds("portal") {
        targets::portal(&seed);
    }
}

#[test]
fn test_seeds_of_fault_records_hold() {
    for seed in seeds("fault_records") {
        targets::fault_records(&seed);
    }
}

#[test]
fn test_seeds_of_state_stream_hold() {
    for seed in seeds("state_stream") {
        targets::state_stream(&seed);
    }
}

proptest! {
    #[test]
    fn test_portal_any_bytes_hold(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        targets::portal(&data);
    }

    #[test]
    fn test_fault_records_any_bytes_hold(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        targets::fault_records(&data);
    }

    #[test]
    fn test_portal_changed_seeds_hold(changes in changes()) {
        for seed in seeds("portal") {
            targets::portal(&changed(&seed, &changes, 0));
        }
    }

    #[test]
    fn test_fault_records_changed_seeds_hold(changes in changes()) {
        for seed in seeds("fault_records") {
            targets::fault_records(&changed(&seed, &changes, 0));
        }
    }

    #[test]
    fn test_state_stream_changed_and_resealed_seeds_hold(changes in changes()) {
        for seed in seeds("state_stream") {
            let mut stream = changed(&seed, &changes, 0x28);
            reseal(&mut stream);
            targets::state_stream(&stream);
        }
    }
}
