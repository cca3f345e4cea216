// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The state: saved, loaded, decoded.

use std::{
    fs::{self, File},
    hint::black_box,
    io::{self, Read, Write},
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::pipe::{pipe_with, PipeFlags};
use vhost_user_vsva::state;

use super::{timed, times, Bench};
use crate::{
    floor::Floor,
    place::Cores,
    results::{by_turns, Figures, Results, Target},
    session::Session,
};

/// Submissions that are pending.
const PENDING: u32 = 1 << 16;
/// As QEMU reads.
const CHUNK: usize = 1 << 20;

/// Measures it.
pub fn measure(bench: &Bench<'_>, results: &mut Results) {
    for cores in [Cores::One, Cores::Two] {
        let save = format!("SAVE of 65,536 pending, {cores}");
        let load = format!("LOAD of 65,536 pending, {cores}");
        if !bench.place.has(cores) {
            let why = "this process may use one core only";
            results.missing(&save, "ns", "ratio <= 1.1", why);
            results.missing(&load, "ns", "ratio <= 1.2", why);
            continue;
        }
        let names = [(&save[..], "ns"), (&load[..], "ns")];
        results.case(&names, |results| moved(bench, cores, &save, &load, results));
    }
    let names = [
        "memory of a SAVE of 65,536 pending",
        "memory of a LOAD of 65,536 pending",
    ];
    results.case(&names.map(|name| (name, "bytes")), |results| {
        let stream = memory_of_save(bench, names[0], results)?;
        memory_of_load(bench, names[1], &stream, results)?;
        decoded(bench, "decode of 65,536 records", &stream, results)
    });
}

/// A back-end with all that is pending, and stopped rings.
fn full(bench: &Bench<'_>) -> io::Result<Session> {
    let mut session = bench.setup.start()?;
    session.drain_with(PENDING)?;
    session.stop()?;
    Ok(session)
}

fn moved(
    bench: &Bench<'_>,
    cores: Cores,
    save_name: &str,
    load_name: &str,
    results: &mut Results,
) -> io::Result<()> {
    let file = bench.folder.join("state");
    let (mut session, mut floor) = bench.place.apart(cores, || {
        let mut session = full(bench)?;
        let length = save(&mut session, &mut Vec::new())?;
        fs::write(&file, vec![0; length])?;
        let floor = Floor::start("state", &[File::open(&file)?.as_raw_fd()])?;
        Ok((session, floor))
    })?;
    let stream = saved(bench, cores, save_name, &mut session, &mut floor, results)?;
    loaded(
        bench,
        cores,
        load_name,
        &mut session,
        &mut floor,
        &stream,
        results,
    )?;
    fs::remove_file(file)
}

fn memory_of_save(bench: &Bench<'_>, name: &str, results: &mut Results) -> io::Result<Vec<u8>> {
    // A process that has not saved before: what a former one has left would hide it.
    let mut fresh = full(bench)?;
    let mut stream = Vec::new();
    let used = grown(&mut fresh, |fresh| save(fresh, &mut stream).map(|_| ()))?;
    add_memory(name, used, stream.len(), results);
    Ok(stream)
}

fn memory_of_load(
    bench: &Bench<'_>,
    name: &str,
    stream: &[u8],
    results: &mut Results,
) -> io::Result<()> {
    // What the core keeps of it has been touched once.
    let mut fresh = full(bench)?;
    fresh.renew()?;
    let used = grown(&mut fresh, |fresh| load(fresh, stream))?;
    add_memory(name, used, stream.len(), results);
    Ok(())
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

/// Reads as QEMU does; the bytes replace those of `stream`.
fn read_all(ours: OwnedFd, stream: &mut Vec<u8>) -> io::Result<()> {
    let mut file = File::from(ours);
    let mut at = 0;
    loop {
        if stream.len() < at + CHUNK {
            stream.resize(at + CHUNK, 0);
        }
        match file.read(&mut stream[at..at + CHUNK])? {
            0 => break,
            count => at += count,
        }
    }
    stream.truncate(at);
    Ok(())
}

fn save(session: &mut Session, stream: &mut Vec<u8>) -> io::Result<usize> {
    let (ours, theirs) = pipe()?;
    session.connection.transfer(true, theirs)?;
    read_all(ours, stream)?;
    session.connection.check()?;
    Ok(stream.len())
}

fn load(session: &mut Session, stream: &[u8]) -> io::Result<()> {
    let (theirs, ours) = pipe()?;
    session.connection.transfer(false, theirs)?;
    File::from(ours).write_all(stream)?;
    session.connection.check()
}

fn saved(
    bench: &Bench<'_>,
    cores: Cores,
    name: &str,
    session: &mut Session,
    floor: &mut Floor,
    results: &mut Results,
) -> io::Result<Vec<u8>> {
    let mut stream = Vec::with_capacity(2 * CHUNK * 4);
    let mut other = Vec::with_capacity(2 * CHUNK * 4);
    let [ours, raw] = by_turns(
        bench.rounds(20),
        [
            Box::new(|| times(10, || save(session, &mut stream).map(|_| ()))),
            Box::new(|| {
                times(10, || {
                    let (ours, theirs) = pipe()?;
                    floor.transfer(theirs)?;
                    read_all(ours, &mut other)?;
                    floor.check()
                })
            }),
        ],
    )?;
    let reference = Some(("the same bytes through a pipe", &raw));
    let pinning = bench.place.describe(cores);
    results.add(name, "ns", &ours, reference, Target::Below(1.1), pinning);
    Ok(stream)
}

/// By how much a process is larger while something is done.
fn grown(
    session: &mut Session,
    work: impl FnOnce(&mut Session) -> io::Result<()>,
) -> io::Result<u64> {
    session.process()?.reset_peak()?;
    let before = session.process()?.kb("status", "VmHWM:")?;
    work(session)?;
    Ok(session
        .process()?
        .kb("status", "VmHWM:")?
        .saturating_sub(before))
}

fn add_memory(name: &str, used: u64, stream: usize, results: &mut Results) {
    let single = |value: f64| Figures {
        value,
        rounds: vec![value],
    };
    results.add(
        name,
        "bytes",
        &single(used as f64),
        Some(("the length of the stream", &single(stream as f64))),
        Target::Below(1.2),
        String::new(),
    );
}

fn loaded(
    bench: &Bench<'_>,
    cores: Cores,
    name: &str,
    session: &mut Session,
    floor: &mut Floor,
    stream: &[u8],
    results: &mut Results,
) -> io::Result<()> {
    let [ours, raw] = by_turns(
        bench.rounds(20),
        [
            Box::new(|| {
                (0..10)
                    .map(|_| {
                        session.renew()?;
                        timed(|| load(session, stream))
                    })
                    .collect()
            }),
            Box::new(|| {
                times(10, || {
                    let (theirs, ours) = pipe()?;
                    floor.transfer(theirs)?;
                    File::from(ours).write_all(stream)?;
                    floor.check()
                })
            }),
        ],
    )?;
    let reference = Some(("the same bytes through a pipe", &raw));
    let pinning = bench.place.describe(cores);
    results.add(name, "ns", &ours, reference, Target::Below(1.2), pinning);
    Ok(())
}

fn decoded(bench: &Bench<'_>, name: &str, stream: &[u8], results: &mut Results) -> io::Result<()> {
    let [ours, copy] = by_turns(
        bench.rounds(20),
        [
            Box::new(|| {
                times(10, || {
                    let decoded = state::decode(black_box(stream));
                    black_box(decoded).map(|_| ()).map_err(io::Error::other)
                })
            }),
            Box::new(|| {
                times(10, || {
                    let copy = black_box(stream).to_vec();
                    black_box(crc32c::crc32c(&copy));
                    Ok(())
                })
            }),
        ],
    )?;
    let reference = Some(("a copy and a CRC32C", &copy));
    let pinning = bench.place.describe(Cores::One);
    results.add(name, "ns", &ours, reference, Target::Below(1.2), pinning);
    Ok(())
}
