// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The end of a drain, and the replay after it.

use std::{io, time::Instant};

use super::{times, Bench};
use crate::{
    floor::{Peer, WakeUp},
    place::Cores,
    results::{by_turns, Results, Target},
};

/// Drains of a round.
const DRAINS: usize = 250;
/// Submissions that are replayed.
const PENDING: u32 = 1 << 16;

/// Measures them.
pub fn measure(bench: &Bench<'_>, results: &mut Results) {
    for cores in [Cores::One, Cores::Two] {
        let (drained, replay) = (
            format!("last answer to DRAINED seen, {cores}"),
            format!("replay of 65,536, {cores}"),
        );
        if !bench.place.has(cores) {
            let why = "this process may use one core only";
            results.missing(&drained, "ns", "ratio <= 1.1", why);
            results.missing(&replay, "ns", "", why);
            continue;
        }
        results.case(&[(&drained, "ns")], |results| {
            last_answer(bench, cores, &drained, results)
        });
        results.case(&[(&replay, "ns")], |results| {
            replayed(bench, cores, &replay, results)
        });
    }
}

fn last_answer(
    bench: &Bench<'_>,
    cores: Cores,
    name: &str,
    results: &mut Results,
) -> io::Result<()> {
    let (mut session, floor) = bench
        .place
        .apart(cores, || Ok((bench.setup.start()?, WakeUp::start()?)))?;
    let [ours, floor] = by_turns(
        bench.rounds(20),
        [
            Box::new(|| {
                let mut samples = Vec::with_capacity(DRAINS);
                for _ in 0..DRAINS {
                    let mut begin = Instant::now();
                    session.drain_by_answer(|seen| match seen {
                        false => begin = Instant::now(),
                        true => samples.push(begin.elapsed().as_nanos() as f64),
                    })?;
                }
                Ok(samples)
            }),
            Box::new(|| times(DRAINS * 4, || floor.trip())),
        ],
    )?;
    let reference = Some(("a thread that is woken, and wakes", &floor));
    let pinning = bench.place.describe(cores);
    results.add(name, "ns", &ours, reference, Target::Below(1.1), pinning);
    Ok(())
}

fn replayed(bench: &Bench<'_>, cores: Cores, name: &str, results: &mut Results) -> io::Result<()> {
    let (mut session, mut source) = bench
        .place
        .apart(cores, || Ok((bench.setup.start()?, Peer::start("source")?)))?;
    let [ours, floor] = by_turns(
        bench.rounds(10),
        [
            Box::new(|| {
                session.drain_with(PENDING)?;
                times(1, || session.release(PENDING))
            }),
            Box::new(|| times(1, || source.pull(PENDING as usize))),
        ],
    )?;
    let target = if cores == Cores::One { 1.2 } else { 1.5 };
    let reference = Some(("a loop that copies them into a ring", &floor));
    let pinning = bench.place.describe(cores);
    results.add(name, "ns", &ours, reference, Target::Below(target), pinning);
    Ok(())
}
