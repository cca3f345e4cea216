// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What it costs that each step of the core is saved, without system calls and wake-ups: in this
//! process, as the back-end makes the steps.

use std::{hint::black_box, io, sync::Arc};

use vhost_user_vsva::{
    core::{Attachment, Core, Limits},
    recovery::{area::Area, journal::Journal, layout::Layout},
    wire::{
        EventRecord, Message, MessageType, PageResponse, PgFault, ResponseCode, SmmuCommand,
        DEVICE_NONE, PGFAULT_LAST_PAGE, U32, U64,
    },
};
use vm_memory::MmapRegion;
use zerocopy::FromZeros;

use super::{times, Bench, BURST};
use crate::results::{by_turns, Results, Target};

const SID: u32 = 8;
/// Faults of a sample.
const FAULTS: usize = 64 * 64;

/// A core whose steps are saved, or not.
pub struct Steps {
    core: Core,
    journal: Option<Journal>,
    seq: u64,
    cookie: u32,
    now_ns: u64,
}

impl Steps {
    /// One with a device.
    pub fn new(saved: bool) -> io::Result<Self> {
        let limits = Limits::default();
        let mut core = Core::new(limits, ()).map_err(io::Error::other)?;
        let journal = saved.then(|| journal(&limits)).transpose()?;
        if saved {
            core.start_saving(0, 0);
        }
        let device = Attachment {
            device: 0,
            vsid: SID,
            dev_id: 0,
            channel: 0,
            max_outstanding: 0,
            pri: false,
        };
        core.attach(&device, 0).map_err(io::Error::other)?;
        Ok(Steps {
            core,
            journal,
            seq: 0,
            cookie: 0,
            now_ns: 1,
        })
    }

    /// A step is over.
    fn save(&mut self) {
        self.now_ns += 1000;
        if let Some(journal) = &mut self.journal {
            let taken = self.core.save(journal);
            journal.commit(taken);
        }
    }

    /// Faults, their events, the guest's answers and the responses: a step for each of the four.
    pub fn relay(&mut self, count: usize) -> io::Result<()> {
        for _ in 0..count {
            self.cookie = self.cookie.wrapping_add(1);
            let mut record = PgFault::new_zeroed();
            record.flags = U32::new(PGFAULT_LAST_PAGE);
            record.addr = U64::new(u64::from(self.cookie) << 12);
            record.cookie = U32::new(self.cookie);
            let taken = self.core.fault(0, black_box(&record), self.now_ns);
            taken.map_err(io::Error::other)?;
        }
        self.save();
        let mut stags = [0; BURST];
        for stag in &mut stags[..count] {
            let sent = self.core.emit(self.now_ns, |message| {
                let event = EventRecord::decode(&message.payload());
                *stag = event.map_or(0, |event| event.stag);
                Ok::<(), io::Error>(())
            });
            sent?;
        }
        self.save();
        for stag in &stags[..count] {
            let command = SmmuCommand::Resume {
                sid: SID,
                stag: *stag,
                code: ResponseCode::Success,
            };
            self.seq += 1;
            let mut message = Message::new(MessageType::SmmuCmd, DEVICE_NONE, &command.encode());
            message.seq = U64::new(self.seq);
            let taken = self.core.portal(black_box(&message), self.now_ns);
            taken.map_err(io::Error::other)?;
        }
        self.save();
        let mut answers = [PageResponse::new_zeroed(); BURST];
        let count = self.core.next_answers(0, &mut answers[..count]);
        black_box(answers);
        self.core.answers_written(0, count, self.now_ns);
        self.core.next_answers(0, &mut answers);
        self.save();
        Ok(())
    }
}

fn journal(limits: &Limits) -> io::Result<Journal> {
    let layout = Layout::new(limits);
    let room = layout.room();
    let size = usize::try_from(room).map_err(io::Error::other)?;
    let memory = Arc::new(MmapRegion::new(size).map_err(io::Error::other)?);
    let area = Area::new(memory, (0, room), &layout).map_err(io::Error::other)?;
    Ok(Journal::create(&area, layout, 1, 0))
}

/// Measures it.
pub fn measure(bench: &Bench<'_>, results: &mut Results) {
    for (burst, name) in [
        (1, "steps of one fault, saved"),
        (BURST, "steps of a fault in bursts of 64, saved"),
    ] {
        results.case(&[(name, "ns")], |results| {
            compare(bench, burst, name, results)
        });
    }
}

fn compare(bench: &Bench<'_>, burst: usize, name: &str, results: &mut Results) -> io::Result<()> {
    bench.place.apart(crate::place::Cores::One, || Ok(()))?;
    let (mut saved, mut plain) = (Steps::new(true)?, Steps::new(false)?);
    let round = |steps: &mut Steps| {
        let samples = times(20, || {
            (0..FAULTS / burst).try_for_each(|_| steps.relay(burst))
        });
        let each = |ns: f64| ns / FAULTS as f64;
        samples.map(|samples| samples.into_iter().map(each).collect())
    };
    let [saved, plain] = by_turns(
        bench.rounds(40),
        [
            Box::new(|| round(&mut saved)),
            Box::new(|| round(&mut plain)),
        ],
    )?;
    let reference = Some(("the same steps without", &plain));
    let pinning = bench.place.describe(crate::place::Cores::One);
    results.add(name, "ns", &saved, reference, Target::Below(1.05), pinning);
    Ok(())
}
