// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rules of the kernel's fault queue that the back-end relies on, without the back-end.

use rustix::io::{read, write, Errno};
use vhost_user_vsva::wire::{
    PageResponse, PgFault, ResponseCode, PAGE_RESPONSE_SIZE, PGFAULT_SIZE, U32,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{common, Platform};
use crate::{
    hardware::Hardware,
    tally,
    wait::{readable, LIMIT},
};

fn answer(cookie: u32, code: ResponseCode) -> PageResponse {
    PageResponse {
        cookie: U32::new(cookie),
        code: U32::new(code as u32),
    }
}

/// Reads exactly `count` faults, waiting for each.
fn read_faults(hardware: &dyn Hardware, count: usize) -> Vec<PgFault> {
    let mut faults = Vec::new();
    while faults.len() < count {
        assert!(
            readable(hardware.fault_fd(), LIMIT),
            "{} of {count} faults came",
            faults.len()
        );
        let mut bytes = vec![0; (count - faults.len()) * PGFAULT_SIZE];
        let got = read(hardware.fault_fd(), &mut bytes).expect("read");
        assert_eq!(got % PGFAULT_SIZE, 0, "the kernel hands out whole records");
        faults.extend(
            bytes[..got]
                .chunks(PGFAULT_SIZE)
                .map(|record| PgFault::read_from_bytes(record).expect("40 bytes")),
        );
    }
    faults
}

fn cookies(faults: &[PgFault]) -> Vec<u32> {
    faults.iter().map(|fault| fault.cookie.get()).collect()
}

fn raise(hardware: &mut dyn Hardware, pages: std::ops::Range<u64>) {
    for number in pages {
        common::raise(hardware, number);
    }
}

fn abort_all(hardware: &dyn Hardware, cookies: &[u32]) {
    for cookie in cookies {
        let bytes = answer(*cookie, ResponseCode::Invalid);
        assert_eq!(
            write(hardware.fault_fd(), bytes.as_bytes()),
            Ok(PAGE_RESPONSE_SIZE)
        );
        tally::aborted(1);
    }
}

pub fn test_fault_queue_empty_reads_nothing(platform: Platform) {
    let hardware = platform.hardware(1);

    assert_eq!(read(hardware.fault_fd(), &mut [0; PGFAULT_SIZE]), Ok(0));
}

pub fn test_fault_queue_read_of_partial_record_is_refused(platform: Platform) {
    let mut hardware = platform.hardware(1);
    raise(&mut *hardware, 0..1);
    assert!(readable(hardware.fault_fd(), LIMIT));

    assert_eq!(
        read(hardware.fault_fd(), &mut [0; PGFAULT_SIZE - 1]),
        Err(Errno::SPIPE)
    );
    assert_eq!(
        write(hardware.fault_fd(), &[0; PAGE_RESPONSE_SIZE - 1]),
        Err(Errno::SPIPE)
    );

    let faults = read_faults(&*hardware, 1);
    abort_all(&*hardware, &cookies(&faults));
}

pub fn test_fault_queue_cookie_is_reused_at_once(platform: Platform) {
    let mut hardware = platform.hardware(1);
    raise(&mut *hardware, 0..3);
    let first = cookies(&read_faults(&*hardware, 3));

    abort_all(&*hardware, &first[..1]);
    raise(&mut *hardware, 3..4);
    let second = cookies(&read_faults(&*hardware, 1));

    assert_eq!(second, first[..1]);
    abort_all(&*hardware, &[first[1], first[2], second[0]]);
}

pub fn test_fault_queue_batch_with_unknown_cookie_stops_there(platform: Platform) {
    let mut hardware = platform.hardware(1);
    raise(&mut *hardware, 0..2);
    let known = cookies(&read_faults(&*hardware, 2));
    let unknown = known.iter().max().expect("two") + 1000;
    let batch = [known[0], unknown, known[1]].map(|cookie| answer(cookie, ResponseCode::Invalid));

    assert_eq!(
        write(hardware.fault_fd(), batch.as_bytes()),
        Ok(PAGE_RESPONSE_SIZE)
    );
    assert_eq!(
        write(hardware.fault_fd(), batch[1..].as_bytes()),
        Err(Errno::INVAL)
    );
    assert_eq!(
        write(hardware.fault_fd(), batch[2..].as_bytes()),
        Ok(PAGE_RESPONSE_SIZE)
    );
    tally::aborted(2);
}

pub fn test_fault_queue_second_answer_is_refused(platform: Platform) {
    let mut hardware = platform.hardware(1);
    raise(&mut *hardware, 0..1);
    let cookie = cookies(&read_faults(&*hardware, 1));

    abort_all(&*hardware, &cookie);

    let again = answer(cookie[0], ResponseCode::Invalid);
    assert_eq!(
        write(hardware.fault_fd(), again.as_bytes()),
        Err(Errno::INVAL)
    );
}
