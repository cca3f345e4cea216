// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cost of the state machine, beside a floor measured in the same run.
//!
//! - `fault`: record in, event out, CMD_RESUME in, page response out; with 0, 1,023 and 4,095 other
//!   faults outstanding. `saved`: the same with each of its four steps saved in the recovery area.
//! - `command`: CMD_PRI_RESP with 64 and 60,000 other page requests outstanding; a cookie that the
//!   kernel has used again with 64 and 60,000 faults outstanding; UNHOLD(aborted) of 4,096 and
//!   65,536 faults of which the guest has answered every second, per fault. Each pair is to cost
//!   nearly the same.
//! - `submit`: SUBMIT in, REPLAY and RELEASED out, while running.
//! - `queue`: 65,536 submissions queued in a drain and replayed after it, per submission.
//! - `state`: a state with 65,536 submissions saved, and loaded.
//! - `floor/copy`: the bytes of `fault` copied, and nothing else.
//! - `floor/eventfd`: one write and one read of an eventfd, which is the least that waking another
//!   process costs.

#![allow(
    missing_docs,
    reason = "criterion_group! makes an undocumented function"
)]

use std::{hint::black_box, sync::Arc};

use criterion::{criterion_group, criterion_main, BatchSize, Criterion, Throughput};
use vhost_user_vsva::core::{Attachment, Core, Limits};
use vhost_user_vsva::recovery::{area::Area, journal::Journal, layout::Layout};
use vhost_user_vsva::state;
use vhost_user_vsva::wire::{
    DrainRequest, EventRecord, GenerationPayload, Message, MessageType, PageResponse, Payload,
    PgFault, ResponseCode, SmmuCommand, Submission, DEVICE_NONE, MESSAGE_SIZE, PAGE_RESPONSE_SIZE,
    PGFAULT_LAST_PAGE, PGFAULT_PASID_VALID, PGFAULT_SIZE, SSID_MAX, U32, U64,
};
use vm_memory::MmapRegion;
use vmm_sys_util::eventfd::EventFd;
use zerocopy::{FromZeros, IntoBytes};

const SID: u32 = 8;

struct Driver {
    core: Core,
    seq: u64,
    cookie: u32,
    journal: Option<Journal>,
}

impl Driver {
    /// One whose steps are saved.
    fn saved() -> Self {
        let mut driver = Self::new();
        let layout = Layout::new(&Limits::default());
        let room = layout.room();
        let memory = Arc::new(MmapRegion::new(usize::try_from(room).unwrap()).unwrap());
        let area = Area::new(memory, (0, room), &layout).unwrap();
        driver.core.start_saving(0, 0);
        driver.journal = Some(Journal::create(&area, layout, 1, 0));
        driver
    }

    /// A step is over.
    fn save(&mut self) {
        if let Some(journal) = &mut self.journal {
            let taken = self.core.save(journal);
            journal.commit(taken);
        }
    }

    fn new() -> Self {
        Self::with(Limits::default().max_faults, false)
    }

    /// A device that may have `max_faults` faults, and is answered by CMD_PRI_RESP if `pri`.
    fn with(max_faults: u32, pri: bool) -> Self {
        let limits = Limits {
            max_faults,
            max_device_faults: max_faults,
            ..Limits::default()
        };
        let mut core = Core::new(limits, ()).unwrap();
        let desc = Attachment {
            device: 0,
            vsid: SID,
            dev_id: 0,
            channel: 0,
            max_outstanding: 0,
            pri,
        };
        core.attach(&desc, 0).unwrap();
        Self {
            core,
            seq: 0,
            cookie: 0,
            journal: None,
        }
    }

    fn portal<P: Payload>(&mut self, kind: MessageType, device: u32, payload: &P) {
        self.seq += 1;
        let mut message = Message::new(kind, device, payload);
        message.seq = U64::new(self.seq);
        self.core.portal(black_box(&message), 0).unwrap();
        self.save();
    }

    fn emit(&mut self) -> Option<Message> {
        let mut buffer = None;
        let take = |message: &Message| {
            buffer = Some(*message);
            Ok::<(), ()>(())
        };
        self.core.emit(0, take).unwrap();
        self.save();
        black_box(buffer)
    }

    /// The next fault; with a PASID and an index of a page request group that no other fault has
    /// together.
    fn record(&mut self) -> PgFault {
        self.cookie = self.cookie.wrapping_add(1);
        let mut record = PgFault::new_zeroed();
        record.flags = U32::new(PGFAULT_LAST_PAGE | PGFAULT_PASID_VALID);
        record.pasid = U32::new((self.cookie >> 9) & SSID_MAX);
        record.grpid = U32::new(self.cookie & 0x1ff);
        record.cookie = U32::new(self.cookie);
        record
    }

    fn raise(&mut self) -> u16 {
        let record = self.record();
        self.core.fault(0, black_box(&record), 0).unwrap();
        self.save();
        let event = self.emit().unwrap();
        EventRecord::decode(&event.payload()).unwrap().stag
    }

    fn answer(&mut self, stag: u16) {
        let command = SmmuCommand::Resume {
            sid: SID,
            stag,
            code: ResponseCode::Success,
        };
        self.portal(MessageType::SmmuCmd, DEVICE_NONE, &command.encode());
        let mut answers = [PageResponse::new_zeroed(); 1];
        let count = self.core.answers(0, &mut answers);
        black_box(answers);
        self.core.answers_written(0, count, 0);
        self.save();
    }

    /// Answers the page request that was raised last.
    fn respond(&mut self) {
        let command = SmmuCommand::PriResp {
            sid: SID,
            ssid: Some((self.cookie >> 9) & SSID_MAX),
            group: self.cookie & 0x1ff,
            code: ResponseCode::Success,
        };
        self.portal(MessageType::SmmuCmd, DEVICE_NONE, &command.encode());
        let mut answers = [PageResponse::new_zeroed(); 1];
        assert_eq!(self.core.answers(0, &mut answers), 1);
        self.core.answers_written(0, 1, 0);
    }

    fn submit(&mut self) {
        let mut submission = Submission::new_zeroed();
        submission.size = U32::new(8);
        submission.ticket = U64::new(self.core.next_ticket());
        self.portal(MessageType::Submit, 0, &submission);
    }

    /// Drains, and queues so many submissions.
    fn drain(&mut self, submissions: u32) {
        let request = DrainRequest {
            generation: U64::new(1),
            timeout_ms: U32::new(1000),
            reserved: U32::ZERO,
        };
        self.portal(MessageType::Drain, DEVICE_NONE, &request);
        for _ in 0..submissions {
            self.submit();
        }
        let generation = U64::new(1);
        self.portal(
            MessageType::DeviceQuiesced,
            0,
            &GenerationPayload { generation },
        );
        self.core.channel_empty(0, 0);
        while self.emit().is_some() {}
    }

    fn release(&mut self) {
        let generation = U64::new(1);
        self.portal(
            MessageType::Release,
            DEVICE_NONE,
            &GenerationPayload { generation },
        );
        while self.emit().is_some() {}
    }
}

fn bench_fault(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fault");
    group.throughput(Throughput::Elements(1));
    for others in [0, 1023, 4095] {
        let mut driver = Driver::new();
        for _ in 0..others {
            driver.raise();
        }
        group.bench_function(format!("{others}_others"), |bencher| {
            bencher.iter(|| {
                let stag = driver.raise();
                driver.answer(stag);
            });
        });
    }
    let mut driver = Driver::saved();
    group.bench_function("0_others_saved", |bencher| {
        bencher.iter(|| {
            let stag = driver.raise();
            driver.answer(stag);
        });
    });
    group.finish();
}

fn bench_command(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("command");
    group.throughput(Throughput::Elements(1));
    for others in [64, 60_000] {
        let mut driver = Driver::with(Limits::FAULTS_MAX, true);
        for _ in 0..others {
            driver.raise();
        }
        group.bench_function(format!("pri_resp_{others}_others"), |bencher| {
            bencher.iter(|| {
                driver.raise();
                driver.respond();
            });
        });
    }
    for others in [64, 60_000] {
        let mut driver = Driver::with(Limits::FAULTS_MAX, false);
        driver.core.set_kernel_channel(0);
        for _ in 0..=others {
            driver.raise();
        }
        let mut record = driver.record();
        record.cookie = U32::new(others);
        group.bench_function(format!("stale_cookie_{others}_others"), |bencher| {
            bencher.iter(|| {
                driver.core.forget_stale(0, others, 0);
                driver.core.fault(0, black_box(&record), 0).unwrap();
                driver.emit()
            });
        });
    }
    group.sample_size(10);
    for faults in [4096, Limits::FAULTS_MAX] {
        group.throughput(Throughput::Elements(u64::from(faults)));
        group.bench_function(format!("unhold_aborted_{faults}"), |bencher| {
            bencher.iter_batched_ref(
                || half_answered(faults),
                |driver| driver.core.unhold(0, true, 0).unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// A held device with so many faults; the guest has answered every second one.
fn half_answered(faults: u32) -> Driver {
    let mut driver = Driver::with(faults, false);
    driver.core.set_kernel_channel(0);
    let stags: Vec<_> = (0..faults).map(|_| driver.raise()).collect();
    driver.core.hold(0, 0).unwrap();
    for stag in stags.into_iter().step_by(2) {
        driver.answer(stag);
    }
    driver
}

fn bench_submit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("submit");
    group.throughput(Throughput::Elements(1));
    let mut driver = Driver::new();
    group.bench_function("running", |bencher| {
        bencher.iter(|| {
            driver.submit();
            while driver.emit().is_some() {}
        });
    });
    group.finish();
}

fn bench_queue(criterion: &mut Criterion) {
    let submissions = Limits::default().max_pending;
    let mut group = criterion.benchmark_group("queue");
    group.throughput(Throughput::Elements(u64::from(submissions)));
    group.sample_size(20);
    let mut driver = Driver::new();
    group.bench_function("drain_and_release", |bencher| {
        bencher.iter(|| {
            driver.drain(submissions);
            driver.release();
        });
    });
    group.finish();
}

fn bench_state(criterion: &mut Criterion) {
    let submissions = Limits::default().max_pending;
    let mut group = criterion.benchmark_group("state");
    group.sample_size(20);
    let mut driver = Driver::new();
    driver.drain(submissions);
    let stream = state::encode(&driver.core.snapshot().unwrap());
    group.throughput(Throughput::Bytes(stream.len() as u64));
    group.bench_function("save", |bencher| {
        bencher.iter(|| state::encode(&driver.core.snapshot().unwrap()));
    });
    group.bench_function("load", |bencher| {
        bencher.iter_batched_ref(
            Driver::new,
            |driver| {
                let loaded = state::decode(black_box(&stream[..])).unwrap();
                driver.core.restore(&loaded, 0).unwrap();
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn bench_floor(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("floor");
    group.throughput(Throughput::Elements(1));
    let record = PgFault::new_zeroed();
    let message = Message::new(MessageType::SmmuCmd, DEVICE_NONE, &[0u8; 16]);
    let response = PageResponse::new_zeroed();
    let mut memory = [0u8; PGFAULT_SIZE + 2 * MESSAGE_SIZE + PAGE_RESPONSE_SIZE];
    group.bench_function("copy", |bencher| {
        bencher.iter(|| {
            let mut rest = &mut memory[..];
            for bytes in [
                record.as_bytes(),
                message.as_bytes(),
                message.as_bytes(),
                response.as_bytes(),
            ] {
                let (place, after) = rest.split_at_mut(bytes.len());
                place.copy_from_slice(black_box(bytes));
                rest = after;
            }
            black_box(&mut memory);
        });
    });
    let eventfd = EventFd::new(0).unwrap();
    group.bench_function("eventfd", |bencher| {
        bencher.iter(|| {
            eventfd.write(1).unwrap();
            eventfd.read().unwrap()
        });
    });
    group.finish();
}

criterion_group!(
    benches,
    bench_floor,
    bench_fault,
    bench_command,
    bench_submit,
    bench_queue,
    bench_state
);
criterion_main!(benches);
