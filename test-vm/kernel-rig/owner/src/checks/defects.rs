// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What provokes defects of kernels that are known. Whether one shows is seen on the console.

use rustix::thread::{sched_setaffinity, CpuSet};

use super::common::raise;
use crate::{
    checks::nested,
    hardware::{Attachment, Hardware},
    wait::{readable, until, LIMIT},
};

const ROUNDS: u64 = 400;
/// Stalls that the kernel still handles when the detach comes.
const STALLS: u64 = 256;

/// Detaches a device while it stalls, with nobody at the fault file. Every access must end all the same.
pub fn provoke_stalls_during_detach() {
    let mut hardware = nested(1);
    // The kernel handles events on the first CPU.
    let mut cpus = CpuSet::new();
    cpus.set(1);
    sched_setaffinity(None, &cpus).expect("second CPU");
    for round in 1..=ROUNDS {
        for number in 0..STALLS {
            raise(&mut hardware, number);
        }
        // The kernel handles the first of them.
        assert!(readable(hardware.fault_fd(), LIMIT), "no fault came");
        hardware.attach(0, Attachment::Detached).expect("detach");
        until("the end of every access", || {
            (hardware.aborts(0) == Some(round * STALLS)).then_some(())
        });
        hardware.attach(0, Attachment::First).expect("attach");
    }
}
