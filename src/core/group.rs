// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Groups of faults that the guest answers with one response.

use super::fault_table::BY_GROUP;
use super::table::{Linked, Links, List, NIL};
use crate::wire::ResponseCode;

/// List of all groups of a channel.
pub(super) const BY_CHANNEL: usize = 0;
/// List of the groups of a channel whose answer is to be written.
pub(super) const ANSWERED: usize = 1;

/// A group of faults that share one cookie and one answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Group {
    pub(super) links: [Links; 2],
    /// The next group in its bucket of the table.
    pub(super) hash_next: u32,
    pub(super) channel: u32,
    pub(super) cookie: u32,
    pub(super) dev_id: u32,
    /// Records read.
    pub(super) records: u32,
    /// The faults that the guest has not answered.
    pub(super) faults: List<BY_GROUP>,
    pub(super) code: ResponseCode,
    /// Its last record has not been read.
    pub(super) open: bool,
    /// Its further records do not reach the guest.
    pub(super) refused: bool,
    /// The guest answers it as a whole, and not before it is complete.
    pub(super) page_request: bool,
    /// Its answer may have been written by a process that has ended.
    pub(super) recovered: bool,
    /// Place in the order in which groups were begun, if it is saved.
    pub(super) order: u64,
}

impl Group {
    pub(super) const BLANK: Self = Self {
        links: [Links::NONE; 2],
        hash_next: NIL,
        channel: NIL,
        cookie: 0,
        dev_id: 0,
        records: 0,
        faults: List::new(),
        code: ResponseCode::Success,
        open: false,
        refused: false,
        page_request: false,
        recovered: false,
        order: 0,
    };
}

impl Linked for Group {
    fn links(&self) -> &[Links] {
        &self.links
    }

    fn links_mut(&mut self) -> &mut [Links] {
        &mut self.links
    }
}
