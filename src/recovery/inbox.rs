// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the records of a fault channel are read to. A record that is all 0 is none.

use std::io;

use vm_memory::VolatileSlice;

use super::{
    area::Area,
    layout::{Layout, INBOX_RECORDS, WORD},
    owner::Owner,
};
use crate::wire::PGFAULT_SIZE;

/// Bytes of an inbox.
pub const INBOX_SIZE: usize = INBOX_RECORDS * PGFAULT_SIZE;

/// The inbox of one channel. Whoever reads the channel has it.
pub struct Inbox {
    /// Whoever reads into it has the right to the area.
    pub owner: Owner,
    /// Its number.
    pub slot: usize,
    offset: usize,
    taken: usize,
}

impl Inbox {
    pub(super) fn new(owner: Owner, layout: &Layout, slot: usize) -> Self {
        Self {
            offset: layout.inbox(slot),
            taken: layout.channel(slot) + 1,
            owner,
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
        let bytes = self
            .owner
            .area()
            .bytes(self.offset + start, buf.len() - start);
        let bytes = bytes.ok_or_else(|| io::Error::other("no inbox"))?;
        super::point("read");
        self.owner.check();
        let count = read(&bytes)?;
        super::point("has read");
        if count > 0 {
            self.owner.check_after_read(count / PGFAULT_SIZE);
        }
        // A copy, or what is checked could change afterwards.
        if let Some(come) = buf.get_mut(start..start + count) {
            bytes.copy_to(come);
        }
        Ok(count)
    }

    /// Everything before `end` has been taken but for `rest`, which is not a whole record. The
    /// next record is the first again.
    pub fn begin_anew(&self, end: usize, rest: &[u8]) {
        self.owner.check();
        self.erase(0, end);
        self.owner.area().barrier();
        self.owner.store(self.taken, 0);
        if let Some(bytes) = self.owner.area().bytes(self.offset, rest.len()) {
            bytes.copy_from(rest);
        }
    }

    /// Makes records to none, from one byte to another.
    pub fn erase(&self, start: usize, end: usize) {
        let first = (self.offset + start) / WORD;
        let last = (self.offset + end).div_ceil(WORD);
        let area = self.owner.writer();
        for word in first..last {
            area.store(word, 0);
        }
    }
}

/// What is in the inbox of `slot`, up to the last record.
pub(super) fn contents(area: &Area, layout: &Layout, slot: usize) -> Vec<u8> {
    let mut all = vec![0; INBOX_SIZE];
    if let Some(bytes) = area.bytes(layout.inbox(slot), INBOX_SIZE) {
        bytes.copy_to(&mut all);
    }
    // Most of it is none.
    const PIECE: usize = 64 * PGFAULT_SIZE;
    let used = all
        .chunks(PIECE)
        .rposition(|piece| *piece != [0; PIECE][..piece.len()]);
    all.truncate(used.map_or(0, |at| (at + 1) * PIECE));
    let end = all.iter().rposition(|byte| *byte != 0);
    all.truncate(end.map_or(0, |at| (at + 1).next_multiple_of(PGFAULT_SIZE)));
    all
}
