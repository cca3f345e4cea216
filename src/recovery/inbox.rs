// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the records of a fault channel are read to. A record that is all 0 is none.

use std::io;

use vm_memory::VolatileSlice;

use super::{
    area::Area,
    layout::{Layout, INBOX_RECORDS, WORD},
};
use crate::wire::PGFAULT_SIZE;

/// Bytes of an inbox.
pub const INBOX_SIZE: usize = INBOX_RECORDS * PGFAULT_SIZE;

/// The inbox of one channel. Whoever reads the channel has it.
pub struct Inbox {
    area: Area,
    /// Its number.
    pub slot: usize,
    offset: usize,
    taken: usize,
}

impl Inbox {
    pub(super) fn new(area: Area, layout: &Layout, slot: usize) -> Self {
        Self {
            offset: layout.inbox(slot),
            taken: layout.channel(slot) + 1,
            area,
            slot,
        }
    }

    /// Reads into the bytes from `start` to the end of `buf`, and copies what has come to there.
    pub fn fill(
        &self,
        start: usize,
        buf: &mut [u8],
        read: impl FnOnce(&VolatileSlice<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let bytes = self.area.bytes(self.offset + start, buf.len() - start);
        let bytes = bytes.ok_or_else(|| io::Error::other("no inbox"))?;
        super::point("read");
        let count = read(&bytes)?;
        super::point("has read");
        // A copy, or what is checked could change afterwards.
        if let Some(come) = buf.get_mut(start..start + count) {
            bytes.copy_to(come);
        }
        Ok(count)
    }

    /// Everything before `end` has been taken but for `rest`, which is not a whole record. The
    /// next record is the first again.
    pub fn begin_anew(&self, end: usize, rest: &[u8]) {
        self.erase(0, end);
        self.area.barrier();
        self.area.store(self.taken, 0);
        if let Some(bytes) = self.area.bytes(self.offset, rest.len()) {
            bytes.copy_from(rest);
        }
    }

    /// Makes records to none, from one byte to another.
    pub fn erase(&self, start: usize, end: usize) {
        let first = (self.offset + start) / WORD;
        let last = (self.offset + end).div_ceil(WORD);
        for word in first..last {
            self.area.store(word, 0);
        }
    }

    /// What is in it, up to the last record.
    pub(super) fn contents(&self) -> Vec<u8> {
        let mut all = vec![0; INBOX_SIZE];
        if let Some(bytes) = self.area.bytes(self.offset, INBOX_SIZE) {
            bytes.copy_to(&mut all);
        }
        let end = all.iter().rposition(|byte| *byte != 0);
        all.truncate(end.map_or(0, |at| (at + 1).next_multiple_of(PGFAULT_SIZE)));
        all
    }
}
