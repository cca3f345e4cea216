// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory: of faults, of submissions, of back-ends that do nothing.

use std::io;

use super::Bench;
use crate::results::{Figures, Results, Target};

const FAULTS: usize = 60_000;
const PENDING: u32 = 1 << 16;
const BACKENDS: usize = 1000;

/// Measures it.
pub fn measure(bench: &Bench<'_>, results: &mut Results) {
    let name = "memory for each outstanding fault";
    results.case(&[(name, "bytes")], |results| {
        let limits = ["--max-faults", "65536", "--max-device-faults", "65536"];
        let mut session = bench.setup.clone().with(&limits).start()?;
        session.burst(64)?;
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
    let target = "ratio <= 1.1 of its cost with 65,536";
    let socket = bench.folder.join("large.sock");
    let why = match bench
        .setup
        .clone()
        .with(&["--max-pending", "1000000"])
        .spawn(&socket)
    {
        Ok(_) => "the option is taken now: this program has to measure it".to_owned(),
        Err(e) => format!("--max-pending 1000000 is refused: {e}"),
    };
    results.missing(name, "ns", target, &why);
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
