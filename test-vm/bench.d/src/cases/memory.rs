// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory: of faults, of submissions, of back-ends that do nothing.

use std::io;

use super::{timed, Bench};
use crate::{
    place::Cores,
    results::{by_turns, Figures, Results, Target},
    session::Session,
};

const FAULTS: usize = 60_000;
const PENDING: u32 = 1 << 16;
const MOST_PENDING: u32 = 1_000_000;
const LAST_EVENTS: usize = 32_768;
const BACKENDS: usize = 1000;

/// Measures it.
pub fn measure(bench: &Bench<'_>, results: &mut Results) {
    let name = "memory for each outstanding fault";
    results.case(&[(name, "bytes")], |results| {
        let limits = ["--max-faults", "65536", "--max-device-faults", "65536"];
        let mut session = bench.setup.clone().with(&limits).start()?;
        warm_up(&mut session)?;
        let before = session.process()?.kb("smaps_rollup", "Private_Dirty:")?;
        session.leave(FAULTS)?;
        let after = session.process()?.kb("smaps_rollup", "Private_Dirty:")?;
        let each = (after - before) as f64 / FAULTS as f64;
        add(results, name, each, Target::Below(64.0));
        Ok(())
    });
    let name = "memory for each pending submission";
    results.case(&[(name, "bytes")], |results| {
        let mut session = bench.setup.start()?;
        warm_up(&mut session)?;
        let before = session.process()?.kb("smaps_rollup", "Private_Dirty:")?;
        session.drain_with(PENDING)?;
        let after = session.process()?.kb("smaps_rollup", "Private_Dirty:")?;
        let each = (after - before) as f64 / f64::from(PENDING);
        add(results, name, each, Target::Below(48.0));
        Ok(())
    });
    let count = BACKENDS / bench.quick;
    let name = format!("PSS of each of {count} idle back-ends");
    results.case(&[(&name, "bytes")], |results| {
        idle(bench, count, &name, results)
    });
    let name = "cost of a submission with 1,000,000 pending";
    results.case(&[(name, "ns")], |results| many(bench, name, results));
}

/// Fills what is kept of the last events: it is there once, however much is outstanding.
fn warm_up(session: &mut Session) -> io::Result<()> {
    (0..LAST_EVENTS / 4 / 64).try_for_each(|_| session.burst(64))
}

/// A submission queued and replayed, with so many before it.
fn many(bench: &Bench<'_>, name: &str, results: &mut Results) -> io::Result<()> {
    let cores = Cores::One;
    let (mut most, mut usual) = bench.place.apart(cores, || {
        let large = ["--max-pending", "1000000"];
        Ok((
            bench.setup.clone().with(&large).start()?,
            bench.setup.start()?,
        ))
    })?;
    let each = |session: &mut Session, count: u32| {
        let whole = timed(|| {
            session.drain_with(count)?;
            session.release(count)
        });
        whole.map(|ns| vec![ns / f64::from(count)])
    };
    let [most, usual] = by_turns(
        bench.rounds(10),
        [
            Box::new(|| each(&mut most, MOST_PENDING)),
            Box::new(|| each(&mut usual, PENDING)),
        ],
    )?;
    let reference = Some(("its cost with 65,536", &usual));
    let pinning = bench.place.describe(cores);
    results.add(name, "ns", &most, reference, Target::Below(1.1), pinning);
    Ok(())
}

fn add(results: &mut Results, name: &str, value: f64, target: Target) {
    let rounds = vec![value];
    let figures = Figures { value, rounds };
    results.add(name, "bytes", &figures, None, target, String::new());
}

fn idle(bench: &Bench<'_>, count: usize, name: &str, results: &mut Results) -> io::Result<()> {
    bench.place.anywhere()?;
    let mut backends = Vec::with_capacity(count);
    for number in 0..count {
        let socket = bench.folder.join(format!("idle{number}.sock"));
        backends.push(bench.setup.spawn(&socket)?);
    }
    let pss = |backend: &crate::process::Process| backend.kb("smaps_rollup", "Pss:");
    let sum: io::Result<u64> = backends.iter().map(pss).sum();
    add(
        results,
        name,
        sum? as f64 / count as f64,
        Target::Below(400_000.0),
    );
    drop(backends);
    for number in 0..count {
        // It may have removed it by itself.
        let _ = std::fs::remove_file(bench.folder.join(format!("idle{number}.sock")));
    }
    Ok(())
}
