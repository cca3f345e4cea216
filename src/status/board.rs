// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the service writes and whoever shows its status reads.
//!
//! All of it is there from the start and made of atomic words: a writer never waits for a reader,
//! and neither allocates nor calls the system.

use std::sync::{
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    Arc,
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{cell::Cell, estimate::LastMinute, histogram::Histogram};
use crate::{
    core::{DeviceFigures, Limits},
    trace::recent::Recent,
    wire::StatusBlock,
};

const BLOCK_WORDS: usize = size_of::<StatusBlock>() / 8;

/// What became of the last drain; 0 if there was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum DrainState {
    /// It is under way.
    Draining = 1,
    /// Everything was drained.
    Drained = 2,
    /// It failed.
    Failed = 3,
    /// RELEASE or a reset has ended it.
    GivenUp = 4,
}

/// The last drain, as it is kept in a [`Cell`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Drain {
    /// A [`DrainState`].
    pub state: u64,
    /// Its generation.
    pub generation: u64,
    /// When it began, and when it ended.
    pub begun_ns: u64,
    pub ended_ns: u64,
    /// Of DRAINED: faults answered meanwhile.
    pub answered: u64,
    /// Of DRAIN_FAILED: why, faults that were outstanding, answers that devices did not take and
    /// the number and one of them.
    pub reason: u64,
    pub outstanding: u64,
    pub untaken: u64,
    pub untaken_device: u64,
    pub timeout_ms: u64,
}

/// The step between two moments in the life of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// From reading it to its event on the event ring.
    ReadToEvent,
    /// From the event to the guest's answer.
    EventToAnswer,
    /// From the last answer of its group to the response's being written.
    AnswerToWritten,
    /// From reading the first fault of the group to the response's being written.
    Whole,
}

/// A device.
#[derive(Debug, Default)]
pub struct DeviceRow {
    pub attached: AtomicBool,
    pub lost: AtomicBool,
    pub held: AtomicBool,
    pub sid: AtomicU32,
    pub channel: AtomicU32,
    /// Faults that the guest has not answered, and the most of them.
    pub unanswered: AtomicU32,
    pub fault_limit: AtomicU32,
    pub max_outstanding: AtomicU32,
    pub pending: AtomicU32,
    pub faults: AtomicU64,
    pub submissions: AtomicU64,
}

impl DeviceRow {
    fn publish(&self, figures: &DeviceFigures) {
        self.unanswered.store(figures.unanswered, Relaxed);
        self.fault_limit.store(figures.fault_limit, Relaxed);
        self.max_outstanding.store(figures.max_outstanding, Relaxed);
        self.pending.store(figures.pending, Relaxed);
    }
}

/// Devices whose figures a step may have changed: a bit for each.
#[derive(Debug, Default)]
struct Touched([AtomicU64; TOUCHED_WORDS]);

const TOUCHED_WORDS: usize = Limits::DEVICES_MAX.div_ceil(u64::BITS) as usize;

impl Touched {
    fn set(&self, device: u32) {
        if let Some(word) = self.0.get((device / u64::BITS) as usize) {
            let bits = word.load(Relaxed) | (1 << (device % u64::BITS));
            word.store(bits, Relaxed);
        }
    }

    fn set_all(&self) {
        self.0.iter().for_each(|word| word.store(u64::MAX, Relaxed));
    }

    /// Each of them, once.
    fn take(&self, mut each: impl FnMut(u32)) {
        for (first, word) in (0..).step_by(u64::BITS as usize).zip(&self.0) {
            let mut bits = word.load(Relaxed);
            if bits == 0 {
                continue;
            }
            word.store(0, Relaxed);
            while bits != 0 {
                each(first + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
    }
}

/// Counters that the config space does not have.
#[derive(Debug, Default)]
pub struct Counts {
    pub refused: AtomicU64,
    pub aborted: AtomicU64,
    pub saves: AtomicU64,
    pub saves_failed: AtomicU64,
    pub loads: AtomicU64,
    pub loads_failed: AtomicU64,
    pub resets: AtomicU64,
    pub connections: AtomicU64,
}

/// All of it.
pub struct Board {
    pub limits: Limits,
    pub since_ns: u64,
    pub connected: AtomicBool,
    block: Cell<BLOCK_WORDS>,
    drain: Cell<10>,
    /// SID, SSID, address, age and flags of the oldest fault when the last drain failed.
    failed_oldest: Cell<5>,
    drain_failed: AtomicBool,
    pub steps: [Histogram; 4],
    pub drains: Histogram,
    pub devices: Box<[DeviceRow]>,
    touched: Touched,
    pub counts: Counts,
    pub last_minute: Arc<LastMinute>,
    pub recent: Recent,
}

impl Board {
    /// An empty one.
    pub fn new(limits: Limits, now_ns: u64) -> Self {
        Board {
            limits,
            since_ns: now_ns,
            connected: AtomicBool::new(false),
            block: Cell::default(),
            drain: Cell::default(),
            failed_oldest: Cell::default(),
            drain_failed: AtomicBool::new(false),
            steps: Default::default(),
            drains: Histogram::default(),
            devices: (0..limits.max_devices)
                .map(|_| DeviceRow::default())
                .collect(),
            touched: Touched::default(),
            counts: Counts::default(),
            last_minute: Arc::default(),
            recent: Recent::default(),
        }
    }

    /// What the state machine says of itself after a step, and of the devices that it concerned.
    pub fn publish(&self, status: &StatusBlock, figures: impl Fn(u32) -> Option<DeviceFigures>) {
        self.block.store(&zerocopy::transmute!(*status));
        self.touched.take(|device| {
            let row = self.devices.get(device as usize);
            if let (Some(row), Some(figures)) = (row, figures(device)) {
                row.publish(&figures);
            }
        });
        if self.drain_failed.load(Relaxed) {
            self.drain_failed.store(false, Relaxed);
            let read_ns = match status.oldest_flags.get() {
                0 => status.heartbeat_ns.get(),
                _ => status.oldest_read_ns.get(),
            };
            self.failed_oldest.store(&[
                status.oldest_sid.get().into(),
                status.oldest_ssid.get().into(),
                status.oldest_addr.get(),
                status.heartbeat_ns.get().saturating_sub(read_ns),
                status.oldest_flags.get().into(),
            ]);
        }
    }

    /// A step has changed what a device has. Like [`Self::publish`] it is called by one thread at a
    /// time.
    pub(super) fn touch(&self, device: u32) {
        self.touched.set(device);
    }

    /// The same of all devices.
    pub(super) fn touch_all(&self) {
        self.touched.set_all();
    }

    pub(super) fn put_drain(&self, drain: Drain) {
        self.drain.store(&zerocopy::transmute!(drain));
        // The oldest fault follows with the block of this step.
        let failed = drain.state == DrainState::Failed as u64;
        self.drain_failed.store(failed, Relaxed);
    }

    pub(super) fn block(&self) -> Option<StatusBlock> {
        self.block.load().map(|words| zerocopy::transmute!(words))
    }

    pub(super) fn drain(&self) -> Option<Drain> {
        self.drain.load().map(|words| zerocopy::transmute!(words))
    }

    pub(super) fn failed_oldest(&self) -> Option<[u64; 5]> {
        self.failed_oldest.load()
    }

    pub(super) fn step(&self, step: Step) -> &Histogram {
        &self.steps[step as usize]
    }
}
