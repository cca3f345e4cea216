// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is kept of one drain: how it went, what was told meanwhile, and what came of it.

use super::{
    faults::Fault,
    log::{Kind, Lane},
    runs::Runs,
};
use crate::{printable, wire::DrainFailedReason};

const TEXT_MAX: usize = 80;

/// What has become of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The log does not say.
    Open,
    /// So many faults were answered meanwhile.
    Drained { answered: u32 },
    /// So many were still outstanding.
    Failed {
        reason: DrainFailedReason,
        outstanding: u32,
        untaken_device: Option<u32>,
    },
    /// RELEASE or a reset has ended it.
    GivenUp,
}

/// A drain.
#[derive(Clone, Debug)]
pub struct Drain {
    pub generation: u64,
    pub timeout_ms: u32,
    pub begin_us: u64,
    pub end_us: Option<u64>,
    pub outcome: Outcome,
    /// Devices that have come to rest.
    pub quiesced: Vec<(u64, u32)>,
}

/// A state that was written.
#[derive(Clone, Copy, Debug)]
pub struct Save {
    pub t_us: u64,
    pub bytes: usize,
    pub pending: usize,
}

/// A VM that has come.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub log: usize,
    pub generation: u64,
    pub load_us: Option<u64>,
    pub release_us: Option<u64>,
    pub released_us: Option<u64>,
    pub replayed: Runs,
    /// Each ticket was above the one before it.
    pub in_order: bool,
    pub last_ticket: Option<u64>,
}

/// Somebody has told somebody something.
#[derive(Clone, Debug)]
pub struct Mark {
    pub t_us: u64,
    pub from: Lane,
    pub to: Lane,
    pub text: String,
    pub kind: Kind,
    pub step: Option<u8>,
}

/// Something has lasted.
#[derive(Clone, Debug)]
pub struct Span {
    pub text: String,
    pub kind: Kind,
    pub begin_us: u64,
    pub end_us: u64,
}

/// What belongs to one drain, or between two sections of a log.
#[derive(Clone, Debug, Default)]
pub struct Part {
    pub title: String,
    pub note: String,
    pub begin_us: u64,
    pub drain: Option<Drain>,
    /// The fault that was outstanding longest.
    pub fault: Option<Fault>,
    pub queued: Runs,
    pub save: Option<Save>,
    pub released_us: Option<u64>,
    pub marks: Vec<Mark>,
    pub spans: Vec<Span>,
    /// At the other host, or in the same log later.
    pub arrival: Option<Arrival>,
    /// The log that it is of.
    pub log: usize,
    /// What comes next is not of it.
    pub over: bool,
}

impl Part {
    /// Begins; texts are cut.
    pub fn new(title: &str, note: &str, begin_us: u64, log: usize) -> Self {
        Part {
            title: short(title),
            note: short(note),
            begin_us,
            log,
            ..Part::default()
        }
    }

    /// A fault of it: the longest is kept.
    pub fn saw(&mut self, fault: Fault, now_us: u64) {
        let length = |fault: &Fault| {
            let end_us = fault.written_us.unwrap_or(now_us);
            end_us.saturating_sub(fault.read_us)
        };
        if self
            .fault
            .is_none_or(|known| length(&fault) > length(&known))
        {
            self.fault = Some(fault);
        }
    }
}

/// A text of a log, cut and fit to be drawn.
pub fn short(text: &str) -> String {
    printable::beginning(text, TEXT_MAX)
}
