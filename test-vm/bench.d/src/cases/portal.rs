// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the front end puts on the portal ring.

use std::{io, time::Instant};

use vhost_user_vsva::wire::MESSAGE_SIZE;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::{times, Bench};
use crate::{
    floor::Peer,
    place::Cores,
    results::{by_turns, per_second, Results, Target},
    ring::{Ring, Shared, BASE},
    session::RING_SIZE,
};

/// Commands for each kick.
const BATCH: usize = 32;
const KICKS: usize = 500;
/// Trapped writes of a round.
const WRITES: usize = 4096;

/// Measures it.
pub fn measure(bench: &Bench<'_>, results: &mut Results) {
    let name = "vSMMU commands per CPU-second, 32 a kick, one core";
    results.case(&[(name, "1/s")], |results| commands(bench, name, results));
    for cores in [Cores::One, Cores::Two] {
        let name = format!("trapped submissions in a drain, {cores}");
        if bench.place.has(cores) {
            results.case(&[(&name, "1/s")], |results| {
                trapped(bench, cores, &name, results)
            });
        } else {
            results.missing(&name, "1/s", "", "this process may use one core only");
        }
    }
}

/// The device's side of a ring as rust-vmm's devices have it, in this process.
struct Raw {
    ring: Ring,
    queue: Queue,
    shared: Shared,
}

impl Raw {
    fn new() -> io::Result<Self> {
        let shared = Shared::new(1)?;
        let ring = Ring::new(&shared, 0, RING_SIZE, MESSAGE_SIZE)?;
        for head in 0..RING_SIZE {
            ring.describe(head, 64, false, None);
        }
        let mut queue = Queue::new(RING_SIZE).map_err(io::Error::other)?;
        queue.set_size(RING_SIZE);
        let at = |place: usize| GuestAddress(BASE + place as u64);
        let results = [
            queue.try_set_desc_table_address(at(ring.places.table)),
            queue.try_set_avail_ring_address(at(ring.places.available)),
            queue.try_set_used_ring_address(at(ring.places.used)),
        ];
        results
            .into_iter()
            .collect::<Result<(), _>>()
            .map_err(io::Error::other)?;
        queue.set_ready(true);
        Ok(Raw {
            ring,
            queue,
            shared,
        })
    }

    /// Time for each of a batch of messages, in nanoseconds.
    fn batch(&mut self) -> io::Result<f64> {
        for head in 0..BATCH {
            let head = u16::try_from(head).map_err(io::Error::other)?;
            self.ring.write(head, &[1; MESSAGE_SIZE]);
            self.ring.offer(head);
        }
        let begin = Instant::now();
        let memory = self.shared.memory;
        let mut message = [0; MESSAGE_SIZE];
        while let Some(mut chain) = self.queue.pop_descriptor_chain(memory) {
            if let Some(descriptor) = chain.next() {
                let read = memory.read_slice(&mut message, descriptor.addr());
                read.map_err(io::Error::other)?;
            }
            std::hint::black_box(&message);
            let used = self.queue.add_used(memory, chain.head_index(), 0);
            used.map_err(io::Error::other)?;
        }
        let time = begin.elapsed();
        while self.ring.reap().is_some() {}
        Ok(time.as_nanos() as f64 / BATCH as f64)
    }
}

fn commands(bench: &Bench<'_>, name: &str, results: &mut Results) -> io::Result<()> {
    let cores = Cores::One;
    let mut session = bench.place.apart(cores, || bench.setup.start())?;
    let mut raw = Raw::new()?;
    let [ours, raw] = by_turns(
        bench.rounds(40),
        [
            Box::new(|| {
                let before = session.process()?.cpu_ns()?;
                for _ in 0..KICKS {
                    session.commands(BATCH)?;
                }
                let after = session.process()?.cpu_ns()?;
                Ok(vec![(after - before) as f64 / (KICKS * BATCH) as f64])
            }),
            Box::new(|| {
                let sum: io::Result<f64> = (0..KICKS).map(|_| raw.batch()).sum();
                Ok(vec![sum? / KICKS as f64])
            }),
        ],
    )?;
    results.add(
        name,
        "1/s",
        &per_second(&ours),
        Some((
            "virtio-queue's pop and add_used in one process",
            &per_second(&raw),
        )),
        Target::Above(0.8),
        bench.place.describe(cores),
    );
    Ok(())
}

fn trapped(bench: &Bench<'_>, cores: Cores, name: &str, results: &mut Results) -> io::Result<()> {
    let (mut session, mut sink) = bench
        .place
        .apart(cores, || Ok((bench.setup.start()?, Peer::start("sink")?)))?;
    let each = |ns: Vec<f64>| ns.into_iter().map(|ns| ns / WRITES as f64).collect();
    let [ours, floor] = by_turns(
        bench.rounds(20),
        [
            Box::new(|| {
                session.drain()?;
                let written = times(1, || {
                    for _ in 0..WRITES {
                        session.submit()?;
                        session.kick()?;
                    }
                    session.completed()
                })?;
                session.quiesced()?;
                session.drained()?;
                session.release(u32::try_from(WRITES).map_err(io::Error::other)?)?;
                Ok(each(written))
            }),
            Box::new(|| times(1, || sink.push(WRITES)).map(each)),
        ],
    )?;
    results.add(
        name,
        "1/s",
        &per_second(&ours),
        Some((
            "a ring, a kick for each, and a thread that takes them",
            &per_second(&floor),
        )),
        Target::None,
        bench.place.describe(cores),
    );
    results.note("target: four times this figure, by several writes a message; not there yet");
    Ok(())
}
