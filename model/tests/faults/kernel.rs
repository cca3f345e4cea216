// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's side of a fault file: a queue, and cookies given at read time.

use std::collections::VecDeque;

/// Where the kernel has a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Nobody has read it.
    Queued,
    /// It was read, with this cookie.
    Given(u32),
    /// Answered, or aborted by the kernel itself: the kernel has it no more.
    Over,
}

/// What has become of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Record {
    /// The core does not have it.
    Untaken,
    Waiting,
    Answered {
        invalid: bool,
    },
}

/// A group of faults.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    pub device: u8,
    pub place: Place,
    /// The cookie by which the core knows it; it was aborted by the kernel if that has given it to
    /// another group.
    pub cookie: u32,
    pub records: Vec<Record>,
    /// The core answers it INVALID whatever the guest says.
    pub refused: bool,
}

impl Group {
    pub fn new(device: u8, records: u8) -> Self {
        Self {
            device,
            place: Place::Queued,
            cookie: 0,
            records: vec![Record::Untaken; usize::from(records)],
            refused: false,
        }
    }

    /// How many of its records the core has.
    pub fn taken(&self) -> u32 {
        self.count(|record| record != Record::Untaken)
    }

    pub fn waiting(&self) -> u32 {
        self.count(|record| record == Record::Waiting)
    }

    fn count(&self, is: impl Fn(Record) -> bool) -> u32 {
        self.records
            .iter()
            .map(|record| u32::from(is(*record)))
            .sum()
    }

    /// What is left is answered INVALID.
    pub fn abort(&mut self) {
        for record in &mut self.records {
            if *record == Record::Waiting {
                *record = Record::Answered { invalid: true };
            }
        }
    }

    /// Whether its answer is INVALID.
    pub fn is_invalid(&self) -> bool {
        let invalid = Record::Answered { invalid: true };
        self.refused || self.records.contains(&invalid)
    }
}

/// A fault file, and what the shell has read from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct File {
    pub queue: VecDeque<u8>,
    /// Group and record, read and not taken by the core.
    pub buffer: VecDeque<(u8, u8)>,
}
