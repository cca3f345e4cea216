// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is measured.

mod drain;
mod faults;
mod memory;
mod peers;
mod portal;
mod recovery;
mod state;

use std::{fs, io, path::Path, time::Instant};

use crate::{place::Place, results::Results, session::Setup};

/// What all cases need.
pub struct Bench<'a> {
    /// The program that is measured, with one device.
    pub setup: Setup,
    /// The cores.
    pub place: Place,
    /// Where files go.
    pub folder: &'a Path,
    /// So many times fewer rounds.
    pub quick: usize,
}

impl Bench<'_> {
    /// Rounds of a case.
    pub fn rounds(&self, full: usize) -> usize {
        full.div_ceil(self.quick)
    }
}

/// Measures everything.
pub fn measure(backend: &Path, folder: &Path, quick: usize) -> io::Result<()> {
    let bench = Bench {
        setup: Setup::new(backend, folder),
        place: Place::new()?,
        folder,
        quick,
    };
    let mut results = Results::default();
    faults::measure(&bench, &mut results);
    recovery::measure(&bench, &mut results);
    portal::measure(&bench, &mut results);
    drain::measure(&bench, &mut results);
    state::measure(&bench, &mut results);
    peers::measure(&bench, &mut results);
    memory::measure(&bench, &mut results);
    elsewhere(&mut results);
    let text = serde_json::to_string_pretty(&results.0)?;
    fs::write(folder.join("results.json"), text + "\n")
}

/// Faults, or commands, that are done at once.
const BURST: usize = 64;
/// Submissions of a drain.
const SUBMISSIONS: u32 = 200;

/// Does something so many times.
pub fn drive(socket: &Path, kind: &str, count: usize) -> io::Result<()> {
    let mut session = Setup::new(Path::new(""), Path::new("")).connect(socket)?;
    for _ in 0..count {
        match kind {
            "fault" => session.relay(0)?,
            "burst" => session.burst(BURST)?,
            "commands" => session.commands(BURST)?,
            "replay" => {
                session.drain_with(SUBMISSIONS)?;
                session.release(SUBMISSIONS)?;
            }
            "drained" => session.drain_by_answer(|_| ())?,
            other => return Err(io::Error::other(format!("what is {other}?"))),
        }
    }
    session.completed()
}

/// Makes the core's steps for so many bursts of faults, for whoever counts meanwhile.
pub fn steps(kind: &str, burst: usize, count: usize) -> io::Result<()> {
    let mut steps = recovery::Steps::new(kind == "saved")?;
    (0..count).try_for_each(|_| steps.relay(burst.min(BURST)))
}

/// What belongs to the list and is not measured by this program.
fn elsewhere(results: &mut Results) {
    let vm = "it needs a virtual machine; this program has none";
    let allocations =
        "compared by cargo test: tests/core_no_alloc.rs and tests/backend_no_alloc.rs";
    for (name, target, why) in [
        (
            "allocations for each fault, submission and replay",
            "value = 0",
            allocations,
        ),
        (
            "downtime with the device, nothing pending",
            "value <= 0.5 ms more",
            vm,
        ),
        (
            "downtime with the device, 65,536 pending",
            "value <= 2 ms more",
            vm,
        ),
        (
            "round trip of a fault in a VM",
            "ratio <= 1.2 to QEMU's own answer",
            vm,
        ),
        ("DRAINED to the vCPUs stopped", "value <= 0.3 ms", vm),
    ] {
        results.missing(name, "", target, why);
    }
}

/// How long something takes, in nanoseconds.
pub fn timed(work: impl FnOnce() -> io::Result<()>) -> io::Result<f64> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed().as_nanos() as f64)
}

/// How long something takes each time, in nanoseconds.
pub fn times(count: usize, mut work: impl FnMut() -> io::Result<()>) -> io::Result<Vec<f64>> {
    (0..count).map(|_| timed(&mut work)).collect()
}
