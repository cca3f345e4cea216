// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Faults on their way to the guest and back.

use std::{cell::RefCell, io};

use super::{times, Bench};
use crate::{
    floor::Relay,
    place::Cores,
    results::{by_turns, per_second, Results, Target},
    session::Session,
};

/// A floor of two threads that block in recv and read: four system calls a fault.
const F4: &str = "F4: two threads that block in recv and read";
/// The same with epoll: six system calls a fault.
const F6: &str = "F6: two threads that block in epoll_wait";
/// Faults of a round.
const TRIPS: usize = 1000;
const BURSTS: usize = 200;
const BURST: usize = 64;

/// Measures them.
pub fn measure(bench: &Bench<'_>, results: &mut Results) {
    for cores in [Cores::One, Cores::Two] {
        let (alone, bursts) = (
            format!("relay of one fault, {cores}"),
            format!("faults per CPU-second in bursts of 64, {cores}"),
        );
        if !bench.place.has(cores) {
            let why = "this process may use one core only";
            results.missing(&alone, "ns", "ratio <= 1.1", why);
            results.missing(&bursts, "1/s", "", why);
            continue;
        }
        results.case(&[(&alone, "ns")], |results| {
            relay(bench, cores, &alone, results)
        });
        let target = if cores == Cores::One { 0.6 } else { 0.8 };
        results.case(&[(&bursts, "1/s")], |results| {
            per_cpu(bench, cores, &bursts, target, results)
        });
    }
    let name = "relay of one fault by busy polling, two cores";
    if bench.place.has(Cores::Two) {
        results.case(&[(name, "ns")], |results| busy(bench, name, results));
    } else {
        let why = "this process may use one core only";
        results.missing(name, "ns", "ratio <= 0.2", why);
    }
    let name = "relay of one fault with the event log, one core";
    results.case(&[(name, "ns")], |results| event_log(bench, name, results));
    for (devices, target) in [(64, 1.05), (256, 1.05)] {
        let name = format!("relay of one fault with {devices} devices, one core");
        results.case(&[(&name, "ns")], |results| {
            many_devices(bench, devices, &name, target, results)
        });
    }
    let name = "relay of one page request with 60,000 outstanding, one core";
    results.case(&[(name, "ns")], |results| outstanding(bench, name, results));
}

fn relay(bench: &Bench<'_>, cores: Cores, name: &str, results: &mut Results) -> io::Result<()> {
    let (mut session, mut f4, mut f6) = bench.place.apart(cores, || {
        Ok((
            bench.setup.start()?,
            Relay::start("relay")?,
            Relay::start("relay-epoll")?,
        ))
    })?;
    let [ours, f4, f6] = by_turns(
        bench.rounds(20),
        [
            Box::new(|| times(TRIPS, || session.relay(0))),
            Box::new(|| times(TRIPS, || f4.burst(1))),
            Box::new(|| times(TRIPS, || f6.burst(1))),
        ],
    )?;
    let pinning = bench.place.describe(cores);
    let below = Target::Below(1.1);
    results.add(name, "ns", &ours, Some((F4, &f4)), below, pinning.clone());
    let name = format!("{name}, against epoll");
    results.add(&name, "ns", &ours, Some((F6, &f6)), Target::None, pinning);
    Ok(())
}

fn per_cpu(
    bench: &Bench<'_>,
    cores: Cores,
    name: &str,
    target: f64,
    results: &mut Results,
) -> io::Result<()> {
    let (session, f4) = bench
        .place
        .apart(cores, || Ok((bench.setup.start()?, Relay::start("relay")?)))?;
    let (session, f4) = (RefCell::new(session), RefCell::new(f4));
    let [ours, floor] = by_turns(
        bench.rounds(40),
        [
            Box::new(|| bursts(&mut session.borrow_mut()).map(|ns| vec![ns])),
            Box::new(|| {
                let relay = &mut *f4.borrow_mut();
                let before = relay.floor.process.cpu_ns()?;
                for _ in 0..BURSTS {
                    relay.burst(BURST)?;
                }
                let after = relay.floor.process.cpu_ns()?;
                Ok(vec![(after - before) as f64 / (BURSTS * BURST) as f64])
            }),
        ],
    )?;
    results.add(
        name,
        "1/s",
        &per_second(&ours),
        Some((F4, &per_second(&floor))),
        Target::Above(target),
        bench.place.describe(cores),
    );
    Ok(())
}

/// Processor time of the back-end for each fault of bursts.
pub fn bursts(session: &mut Session) -> io::Result<f64> {
    let before = session.process()?.cpu_ns()?;
    for _ in 0..BURSTS {
        session.burst(BURST)?;
    }
    let after = session.process()?.cpu_ns()?;
    Ok((after - before) as f64 / (BURSTS * BURST) as f64)
}

fn busy(bench: &Bench<'_>, name: &str, results: &mut Results) -> io::Result<()> {
    let cores = Cores::Two;
    let (mut session, mut floor) = bench.place.apart(cores, || {
        let option = ["--busy-poll-us", "1000"];
        Ok((
            bench.setup.clone().with(&option).start()?,
            Relay::start("relay")?,
        ))
    })?;
    session.poll_busily()?;
    let [ours, floor] = by_turns(
        bench.rounds(20),
        [
            Box::new(|| times(TRIPS, || session.relay(0))),
            Box::new(|| times(TRIPS, || floor.burst(1))),
        ],
    )?;
    let reference = Some(("F4, which sleeps", &floor));
    let pinning = bench.place.describe(cores);
    results.add(name, "ns", &ours, reference, Target::Below(0.2), pinning);
    Ok(())
}

fn event_log(bench: &Bench<'_>, name: &str, results: &mut Results) -> io::Result<()> {
    let cores = Cores::One;
    let log = bench.folder.join("events.jsonl");
    let option = ["--event-log", &log.to_string_lossy()];
    let (mut with, mut without) = bench.place.apart(cores, || {
        Ok((
            bench.setup.clone().with(&option).start()?,
            bench.setup.start()?,
        ))
    })?;
    let [with, without] = by_turns(
        bench.rounds(10),
        [
            Box::new(|| times(TRIPS, || with.relay(0))),
            Box::new(|| times(TRIPS, || without.relay(0))),
        ],
    )?;
    let reference = Some(("the same without it", &without));
    let pinning = bench.place.describe(cores);
    results.add(name, "ns", &with, reference, Target::None, pinning);
    std::fs::remove_file(log)
}

fn many_devices(
    bench: &Bench<'_>,
    devices: u32,
    name: &str,
    target: f64,
    results: &mut Results,
) -> io::Result<()> {
    let cores = Cores::One;
    let mut many = bench.setup.clone().with(&["--max-devices", "256"]);
    many.devices = devices;
    let (mut many, mut one) = bench
        .place
        .apart(cores, || Ok((many.start()?, bench.setup.start()?)))?;
    let mut device = 0;
    let [ours, one] = by_turns(
        bench.rounds(20),
        [
            Box::new(|| {
                times(TRIPS, || {
                    device = (device + 1) % devices;
                    many.relay(device)
                })
            }),
            Box::new(|| times(TRIPS, || one.relay(0))),
        ],
    )?;
    let reference = Some(("the same with one device", &one));
    let pinning = bench.place.describe(cores);
    results.add(name, "ns", &ours, reference, Target::Below(target), pinning);
    Ok(())
}

fn outstanding(bench: &Bench<'_>, name: &str, results: &mut Results) -> io::Result<()> {
    let cores = Cores::One;
    let limits = ["--max-faults", "65536", "--max-device-faults", "65536"];
    let mut setup = bench.setup.clone().with(&limits);
    setup.pri = true;
    let (mut full, mut empty) = bench
        .place
        .apart(cores, || Ok((setup.start()?, setup.start()?)))?;
    full.leave(60_000)?;
    let [full, empty] = by_turns(
        bench.rounds(20),
        [
            Box::new(|| times(TRIPS, || full.relay(0))),
            Box::new(|| times(TRIPS, || empty.relay(0))),
        ],
    )?;
    let reference = Some(("the same with none outstanding", &empty));
    let pinning = bench.place.describe(cores);
    results.add(name, "ns", &full, reference, Target::Below(1.1), pinning);
    Ok(())
}
