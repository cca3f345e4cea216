// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The table of outstanding faults. The index of a fault is its STAG.

use super::table::{Linked, Links, List, Table};
use crate::wire::{EventRecord, PgFault, FAULT_INFO_SSID_VALID, FAULT_INFO_VALID};

/// List of all outstanding faults, oldest first.
const BY_AGE: usize = 0;
/// List of the outstanding faults of a device.
pub(super) const BY_DEVICE: usize = 1;
/// List of the faults whose event has not been sent.
const BACKLOG: usize = 2;

/// A fault that the guest has not answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fault {
    links: [Links; 3],
    used: bool,
    pub(super) delivered: bool,
    pub(super) device: u32,
    pub(super) group: u32,
    pub(super) grpid: u32,
    pub(super) read_ns: u64,
    pub(super) event: EventRecord,
}

impl Fault {
    const BLANK: Self = Self {
        links: [Links::NONE; 3],
        used: false,
        delivered: false,
        device: 0,
        group: 0,
        grpid: 0,
        read_ns: 0,
        event: EventRecord {
            sid: 0,
            ssid: None,
            stag: 0,
            write: false,
            exec: false,
            privileged: false,
            addr: 0,
        },
    };
}

impl Linked for Fault {
    fn links(&self) -> &[Links] {
        &self.links
    }

    fn links_mut(&mut self) -> &mut [Links] {
        &mut self.links
    }
}

/// What reports say of the oldest outstanding fault; all 0 if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct OldestFault {
    pub(super) sid: u32,
    pub(super) ssid: u32,
    pub(super) addr: u64,
    pub(super) age_ms: u32,
    pub(super) read_ns: u64,
    pub(super) flags: u32,
}

/// The outstanding faults.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FaultTable {
    table: Table<Fault>,
    capacity: u32,
    by_age: List<BY_AGE>,
    backlog: List<BACKLOG>,
}

impl FaultTable {
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            table: Table::new(capacity, Fault::BLANK),
            capacity,
            by_age: List::new(),
            backlog: List::new(),
        }
    }

    /// Nothing of the past is left in free records.
    #[cfg(feature = "model")]
    pub(super) fn scrub(&mut self) {
        self.table.scrub(&Fault::BLANK);
    }

    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(super) fn free_len(&self) -> u32 {
        self.table.free_len()
    }

    pub(super) fn backlog_len(&self) -> u32 {
        self.backlog.len()
    }

    /// Takes a fault of `device`, whose list of faults is `of_device`. Returns its STAG, or `None` if the table is full.
    pub(super) fn insert(
        &mut self,
        record: &PgFault,
        device: u32,
        sid: u32,
        group: u32,
        of_device: &mut List<BY_DEVICE>,
        now_ns: u64,
    ) -> Option<u16> {
        let index = self.table.alloc()?;
        let stag = u16::try_from(index).ok()?;
        self.by_age.push_back(&mut self.table, index);
        self.backlog.push_back(&mut self.table, index);
        of_device.push_back(&mut self.table, index);
        let fault = self.table.get_mut(index);
        fault.used = true;
        fault.delivered = false;
        fault.device = device;
        fault.group = group;
        fault.grpid = record.grpid.get();
        fault.read_ns = now_ns;
        fault.event = EventRecord::from_fault(record, sid, stag);
        Some(stag)
    }

    /// Forgets an answered fault and frees its STAG.
    pub(super) fn remove(&mut self, stag: u16, of_device: &mut List<BY_DEVICE>) {
        let index = u32::from(stag);
        self.by_age.remove(&mut self.table, index);
        of_device.remove(&mut self.table, index);
        let fault = self.table.get_mut(index);
        fault.used = false;
        if !fault.delivered {
            self.backlog.remove(&mut self.table, index);
        }
        self.table.release(index);
    }

    pub(super) fn get(&self, stag: u16) -> Option<&Fault> {
        self.table
            .lookup(u32::from(stag))
            .filter(|fault| fault.used)
    }

    /// First of a device's faults.
    pub(super) fn first(&self, of_device: &List<BY_DEVICE>) -> Option<&Fault> {
        of_device.front().map(|index| self.table.get(index))
    }

    /// The fault that follows `stag` in its device's list.
    pub(super) fn after(&self, stag: u16) -> Option<&Fault> {
        List::<BY_DEVICE>::next(&self.table, u32::from(stag)).map(|index| self.table.get(index))
    }

    /// The fault whose event is to be sent next.
    pub(super) fn next_event(&self) -> Option<&Fault> {
        self.backlog.front().map(|index| self.table.get(index))
    }

    /// The event of the fault was sent.
    pub(super) fn delivered(&mut self, stag: u16) {
        let index = u32::from(stag);
        self.backlog.remove(&mut self.table, index);
        self.table.get_mut(index).delivered = true;
    }

    pub(super) fn oldest(&self, now_ns: u64) -> OldestFault {
        let Some(index) = self.by_age.front() else {
            return OldestFault::default();
        };
        let fault = self.table.get(index);
        let age_ms = now_ns.saturating_sub(fault.read_ns) / 1_000_000;
        let ssid_flag = fault.event.ssid.map_or(0, |_| FAULT_INFO_SSID_VALID);
        OldestFault {
            sid: fault.event.sid,
            ssid: fault.event.ssid.unwrap_or(0),
            addr: fault.event.addr,
            age_ms: u32::try_from(age_ms).unwrap_or(u32::MAX),
            read_ns: fault.read_ns,
            flags: FAULT_INFO_VALID | ssid_flag,
        }
    }
}
