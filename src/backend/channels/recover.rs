// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Faults that a former back-end has read from a fault file of the kernel and not answered.
//!
//! The kernel does not hand them out again and cannot list them. It gives their cookies, though, in
//! a known way: the lowest that is free, from 1. So they are found by answering every cookie that a
//! back-end can have held.

use std::{io, os::fd::AsFd};

use rustix::io::{write, Errno};
use zerocopy::IntoBytes;

use crate::{
    core::Limits,
    wire::{PageResponse, ResponseCode, PAGE_RESPONSE_SIZE, U32},
};

/// More than any back-end holds: its faults, and one open group for each channel.
const COOKIES: u32 = Limits::FAULTS_MAX + 2 * Limits::DEVICES_MAX;

/// Answers them INVALID and says how many there were.
pub fn abort_left_over(fault_file: impl AsFd) -> io::Result<u32> {
    let mut answered = 0;
    for cookie in 1..=COOKIES {
        let answer = PageResponse {
            cookie: U32::new(cookie),
            code: U32::new(ResponseCode::Invalid as u32),
        };
        loop {
            match write(&fault_file, answer.as_bytes()) {
                Ok(PAGE_RESPONSE_SIZE) => answered += 1,
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                // No fault has it.
                Err(Errno::INVAL) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            }
            break;
        }
    }
    Ok(answered)
}
