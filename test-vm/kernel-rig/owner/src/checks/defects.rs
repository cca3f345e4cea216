// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What provokes defects of kernels that are known. Whether one shows is seen on the console.

use std::time::{Duration, Instant};

use rustix::thread::{sched_setaffinity, CpuSet};

use super::common::raise;
use crate::{
    checks::nested,
    hardware::{Attachment, Hardware},
    wait::{readable, LIMIT},
};

/// Tries end here, or earlier on a slow machine.
const ROUNDS: u64 = 400;
/// Stalls that the kernel still handles when the detach comes.
const STALLS: u64 = 256;
/// No round begins later than this; the rest of the check's time is for the last one.
const TRYING: Duration = Duration::from_secs(60);

/// Detaches a device while it stalls, with nobody at the fault file. Every access must end all the
/// same; a stall that does not is the defect, and the host is told of it.
pub fn provoke_stalls_during_detach() {
    let mut hardware = nested(1);
    // The kernel handles events on the first CPU.
    let mut cpus = CpuSet::new();
    cpus.set(1);
    sched_setaffinity(None, &cpus).expect("second CPU");
    let (started, mut round) = (Instant::now(), 0);
    while round < ROUNDS && started.elapsed() < TRYING {
        round += 1;
        for number in 0..STALLS {
            raise(&mut hardware, number);
        }
        // The kernel handles the first of them.
        assert!(readable(hardware.fault_fd(), LIMIT), "no fault came");
        hardware.attach(0, Attachment::Detached).expect("detach");
        if !all_aborted(&hardware, round * STALLS) {
            assert!(
                !hardware.is_quiet(0),
                "accesses ended otherwise than by an abort: {:?} of {} were aborted",
                hardware.aborts(0),
                round * STALLS
            );
            println!("vsva-rig: sign stall without end");
            break;
        }
        hardware.attach(0, Attachment::First).expect("attach");
    }
    println!("vsva-rig: figure rounds={round}");
}

/// Waits until `wanted` accesses have been aborted, as long as their number grows.
fn all_aborted(hardware: &dyn Hardware, wanted: u64) -> bool {
    let (mut aborts, mut since) = (None, Instant::now());
    while since.elapsed() < LIMIT {
        let now = hardware.aborts(0);
        if now == Some(wanted) {
            return true;
        }
        if now != aborts {
            (aborts, since) = (now, Instant::now());
        }
        std::thread::yield_now();
    }
    false
}
