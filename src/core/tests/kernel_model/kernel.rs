// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's side of a fault file, and the shell's buffer before it.

use std::collections::{BTreeMap, VecDeque};

use super::super::oracle::answer_of;
pub use super::super::oracle::Fault;
use crate::wire::{
    PgFault, ResponseCode, PERM_READ, PGFAULT_LAST_PAGE, PGFAULT_PASID_VALID, U32, U64,
};

#[derive(Clone, Debug)]
pub struct Group {
    /// The device that the core takes it for: whichever has the `dev_id` when it is offered.
    pub device: u32,
    pub dev_id: u32,
    pub pasid: Option<u32>,
    pub grpid: u32,
    /// Address of its first fault; the others follow by pages.
    pub addr: u64,
    pub faults: Vec<Fault>,
    /// Given at read time.
    pub cookie: u32,
    /// The core answers it INVALID whatever the guest says.
    pub refused: bool,
    /// The kernel has aborted it behind the core's back.
    pub aborted: bool,
}

impl Group {
    pub fn record(&self, index: usize) -> PgFault {
        let last = index + 1 == self.faults.len();
        let mut flags = if last { PGFAULT_LAST_PAGE } else { 0 };
        if self.pasid.is_some() {
            flags |= PGFAULT_PASID_VALID;
        }
        PgFault {
            flags: U32::new(flags),
            dev_id: U32::new(self.dev_id),
            pasid: U32::new(self.pasid.unwrap_or(0)),
            grpid: U32::new(self.grpid),
            perm: U32::new(PERM_READ),
            reserved: U32::ZERO,
            addr: U64::new(self.addr + 0x1000 * index as u64),
            length: U32::ZERO,
            cookie: U32::new(self.cookie),
        }
    }

    /// How many of its records the core has.
    pub fn taken(&self) -> usize {
        let unread = |fault: &&Fault| **fault != Fault::Unread;
        self.faults.iter().filter(unread).count()
    }

    pub fn waiting(&self) -> usize {
        let waiting = |fault: &&Fault| **fault == Fault::Waiting;
        self.faults.iter().filter(waiting).count()
    }

    /// The answer that it must get, once it can get one.
    pub fn answer(&self) -> Option<ResponseCode> {
        answer_of(&self.faults, self.refused)
    }
}

/// Groups by their number.
#[derive(Debug, Default)]
pub struct Kernel {
    /// Not read.
    pub queue: VecDeque<u64>,
    /// Read and not answered, by cookie.
    pub given: BTreeMap<u32, u64>,
    /// Records, a number of a group and an index in it each, that the shell has read and the core
    /// has not taken.
    pub buffer: VecDeque<(u64, usize)>,
}

impl Kernel {
    /// Reads the next group: it gets the lowest free cookie, from 0.
    pub fn read(&mut self, groups: &mut BTreeMap<u64, Group>) -> bool {
        let Some(number) = self.queue.pop_front() else {
            return false;
        };
        let cookie = (0..)
            .find(|cookie| !self.given.contains_key(cookie))
            .unwrap();
        self.given.insert(cookie, number);
        let group = groups.get_mut(&number).unwrap();
        group.cookie = cookie;
        self.buffer
            .extend((0..group.faults.len()).map(|index| (number, index)));
        true
    }

    /// The page table of a device is replaced or taken away: all its faults are aborted, their
    /// cookies free.
    pub fn abort(&mut self, groups: &mut BTreeMap<u64, Group>, dev_id: u32) {
        self.queue.retain(|number| {
            let other = groups[number].dev_id != dev_id;
            if !other {
                groups.remove(number);
            }
            other
        });
        self.given.retain(|_, number| {
            let group = groups.get_mut(number).unwrap();
            group.aborted |= group.dev_id == dev_id;
            group.dev_id != dev_id
        });
    }
}
