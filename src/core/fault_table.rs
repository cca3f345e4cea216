// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The table of outstanding faults. The index of a fault is its STAG.

use std::hash::{DefaultHasher, Hash, Hasher};

use zerocopy::FromZeros;

use super::saved::{Changes, SavedFault};
use super::table::{Linked, Links, List, Table};
use crate::wire::{EventRecord, PgFault, FAULT_INFO_SSID_VALID, FAULT_INFO_VALID};

/// List of all outstanding faults, oldest first.
const BY_AGE: usize = 0;
/// List of the outstanding faults of a device.
pub(super) const BY_DEVICE: usize = 1;
/// List of the faults whose event has not been sent.
const BACKLOG: usize = 2;
/// List of the faults of one bucket of [`PageRequests`]. Only faults are in it whose event has been
/// sent.
const BY_REQUEST: usize = BACKLOG;
/// List of the faults of a group.
pub(super) const BY_GROUP: usize = 3;

/// A fault that the guest has not answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fault {
    links: [Links; 4],
    used: bool,
    /// The guest answers it by CMD_PRI_RESP, not by its STAG.
    page_request: bool,
    pub(super) delivered: bool,
    pub(super) device: u32,
    pub(super) group: u32,
    pub(super) grpid: u32,
    pub(super) read_ns: u64,
    pub(super) event: EventRecord,
    /// Place in the order in which faults were read, if it is saved.
    order: u64,
    /// Number of its event, once it has been sent, if it is saved.
    event_number: u64,
}

impl Fault {
    const BLANK: Self = Self {
        links: [Links::NONE; 4],
        used: false,
        page_request: false,
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
        order: 0,
        event_number: 0,
    };
}

impl Fault {
    fn request(&self) -> PageRequest {
        PageRequest {
            device: self.device,
            ssid: self.event.ssid,
            grpid: self.grpid,
        }
    }
}

impl Linked for Fault {
    fn links(&self) -> &[Links] {
        &self.links
    }

    fn links_mut(&mut self) -> &mut [Links] {
        &mut self.links
    }
}

/// A fault to be taken.
pub(super) struct NewFault<'a> {
    pub(super) record: &'a PgFault,
    pub(super) device: u32,
    pub(super) sid: u32,
    pub(super) group: u32,
    pub(super) page_request: bool,
}

/// The lists that a fault is in besides those of the table.
pub(super) struct Owners<'a> {
    pub(super) device: &'a mut List<BY_DEVICE>,
    pub(super) group: &'a mut List<BY_GROUP>,
}

/// What CMD_PRI_RESP names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PageRequest {
    pub(super) device: u32,
    pub(super) ssid: Option<u32>,
    pub(super) grpid: u32,
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
    requests: PageRequests,
    pub(super) changes: Changes,
}

/// The page requests that the guest has seen, found by what CMD_PRI_RESP names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PageRequests {
    buckets: Box<[List<BY_REQUEST>]>,
    /// The guest chooses SSID and index: it is not to know which of them meet in one bucket.
    seed: u64,
}

impl PageRequests {
    fn new(capacity: u32) -> Self {
        let buckets = capacity.next_power_of_two() as usize;
        Self {
            // Not touched before they are used.
            buckets: <[List<BY_REQUEST>]>::new_box_zeroed_with_elems(buckets)
                .unwrap_or_else(|_| vec![List::new(); buckets].into_boxed_slice()),
            seed: 0,
        }
    }

    fn bucket(&self, request: &PageRequest) -> usize {
        let mut hasher = DefaultHasher::new();
        (self.seed, request).hash(&mut hasher);
        let mask = self.buckets.len() as u64 - 1;
        usize::try_from(hasher.finish() & mask).unwrap_or(0)
    }
}

impl FaultTable {
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            table: Table::new(capacity, Fault::BLANK),
            capacity,
            by_age: List::new(),
            backlog: List::new(),
            requests: PageRequests::new(capacity),
            changes: Changes::default(),
        }
    }

    /// Without page requests in the table only.
    pub(super) fn set_seed(&mut self, seed: u64) {
        self.requests.seed = seed;
    }

    pub(super) fn seed(&self) -> u64 {
        self.requests.seed
    }

    /// Nothing of the past is left in free records.
    #[cfg(feature = "model")]
    pub(super) fn scrub(&mut self) {
        self.table.scrub();
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

    /// Takes a fault. Returns its STAG, or `None` if the table is full.
    pub(super) fn insert(
        &mut self,
        new: &NewFault<'_>,
        owners: &mut Owners<'_>,
        now_ns: u64,
    ) -> Option<u16> {
        let index = self.table.alloc()?;
        let stag = u16::try_from(index).ok()?;
        let fault = SavedFault {
            group: new.group,
            grpid: new.record.grpid.get(),
            event: EventRecord::from_fault(new.record, new.sid, stag),
            read_ns: now_ns,
            order: self.changes.next_order(),
            event_number: None,
        };
        let whose = (new.device, new.sid);
        self.install(index, &fault, whose, new.page_request, owners);
        self.changes.note(index);
        Some(stag)
    }

    /// Forgets an answered fault and frees its STAG.
    pub(super) fn remove(&mut self, stag: u16, owners: &mut Owners<'_>) {
        let index = u32::from(stag);
        self.by_age.remove(&mut self.table, index);
        owners.device.remove(&mut self.table, index);
        owners.group.remove(&mut self.table, index);
        self.changes.note(index);
        let fault = self.table.get_mut(index);
        fault.used = false;
        if !fault.delivered {
            self.backlog.remove(&mut self.table, index);
        } else if fault.page_request {
            let bucket = self.requests.bucket(&fault.request());
            self.requests.buckets[bucket].remove(&mut self.table, index);
        }
        self.table.release(index);
    }

    pub(super) fn get(&self, stag: u16) -> Option<&Fault> {
        self.table
            .lookup(u32::from(stag))
            .filter(|fault| fault.used)
    }

    /// The first fault of a list.
    pub(super) fn first<const K: usize>(&self, list: &List<K>) -> Option<&Fault> {
        list.front().map(|index| self.table.get(index))
    }

    /// The first fault of a page request that the guest has seen.
    pub(super) fn requested(&self, request: &PageRequest) -> Option<&Fault> {
        self.requests.buckets[self.requests.bucket(request)]
            .iter(&self.table)
            .map(|index| self.table.get(index))
            .find(|fault| fault.request() == *request)
    }

    /// The fault whose event is to be sent next.
    pub(super) fn next_event(&self) -> Option<&Fault> {
        self.backlog.front().map(|index| self.table.get(index))
    }

    /// The event of the fault was sent, as the message with this number.
    pub(super) fn delivered(&mut self, stag: u16, event_number: u64) {
        let index = u32::from(stag);
        self.backlog.remove(&mut self.table, index);
        self.changes.note_sent(index);
        let fault = self.table.get_mut(index);
        fault.delivered = true;
        fault.event_number = event_number;
        if fault.page_request {
            let bucket = self.requests.bucket(&fault.request());
            self.requests.buckets[bucket].push_back(&mut self.table, index);
        }
    }

    /// Number of the event of a fault, if there is the fault and it has been sent.
    pub(super) fn event_number(&self, index: u32) -> Option<u64> {
        let fault = self.table.lookup(index)?;
        (fault.used && fault.delivered).then_some(fault.event_number)
    }

    /// What is saved of a fault.
    pub(super) fn saved(&self, index: u32) -> Option<SavedFault> {
        let fault = self.table.lookup(index).filter(|fault| fault.used)?;
        Some(SavedFault {
            group: fault.group,
            grpid: fault.grpid,
            event: fault.event,
            read_ns: fault.read_ns,
            order: fault.order,
            event_number: fault.delivered.then_some(fault.event_number),
        })
    }

    /// Keeps a STAG for a fault that was saved.
    pub(super) fn reserve(&mut self, index: u32) {
        self.table.alloc_at(index);
    }

    /// Gives up a STAG that was kept.
    pub(super) fn give_up(&mut self, index: u32) {
        self.changes.note(index);
        self.table.release(index);
    }

    /// Puts a fault into its place: one that was saved into the place that was kept for it.
    pub(super) fn install(
        &mut self,
        index: u32,
        saved: &SavedFault,
        (device, sid): (u32, u32),
        page_request: bool,
        owners: &mut Owners<'_>,
    ) {
        self.by_age.push_back(&mut self.table, index);
        self.backlog.push_back(&mut self.table, index);
        owners.device.push_back(&mut self.table, index);
        owners.group.push_back(&mut self.table, index);
        let fault = self.table.get_mut(index);
        fault.used = true;
        fault.delivered = false;
        fault.page_request = page_request;
        fault.device = device;
        fault.group = saved.group;
        fault.grpid = saved.grpid;
        fault.read_ns = saved.read_ns;
        fault.event = EventRecord { sid, ..saved.event };
        fault.order = saved.order;
        if let Some(number) = saved.event_number {
            let stag = fault.event.stag;
            self.delivered(stag, number);
        }
    }

    /// Puts the faults that wait into the order in which they were read.
    pub(super) fn sort(&mut self) {
        sort_list(&mut self.table, &mut self.by_age);
        sort_list(&mut self.table, &mut self.backlog);
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

fn sort_list<const K: usize>(table: &mut Table<Fault>, list: &mut List<K>) {
    let mut all: Vec<u32> = list.iter(table).collect();
    for index in &all {
        list.remove(table, *index);
    }
    all.sort_by_key(|index| table.get(*index).order);
    for index in all {
        list.push_back(table, index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a command costs besides its answers is the length of one bucket.
    #[test]
    fn test_buckets_of_page_requests_stay_short_with_60000_faults() {
        let mut requests = PageRequests::new(65536);
        requests.seed = 0x5eed;
        let mut lengths = vec![0; requests.buckets.len()];

        for n in 0..60_000 {
            let request = PageRequest {
                device: 0,
                ssid: Some(n / 512),
                grpid: n % 512,
            };
            lengths[requests.bucket(&request)] += 1;
        }

        assert_eq!(lengths.iter().sum::<u32>(), 60_000);
        assert!(lengths.iter().all(|length| *length <= 24));
    }

    #[test]
    fn test_set_seed_changes_where_a_request_is_found() {
        let mut table = FaultTable::new(1024);
        let request = |n| PageRequest {
            device: 0,
            ssid: Some(n),
            grpid: 0,
        };
        let before: Vec<_> = (0..8).map(|n| table.requests.bucket(&request(n))).collect();

        table.set_seed(1);

        let after = (0..8).map(|n| table.requests.bucket(&request(n)));
        assert_ne!(after.collect::<Vec<_>>(), before);
    }

    #[test]
    fn test_requests_that_meet_in_one_bucket_do_not_with_another_seed() {
        let [mut one, mut other] = [PageRequests::new(1024), PageRequests::new(1024)];
        (one.seed, other.seed) = (1, 2);
        let request = |n| PageRequest {
            device: 0,
            ssid: Some(n),
            grpid: 0,
        };
        let meet: Vec<_> = (0..65_536)
            .map(request)
            .filter(|request| one.bucket(request) == 0)
            .collect();

        let again = meet.iter().filter(|request| other.bucket(request) == 0);

        assert!(meet.len() > 32);
        assert!(again.count() < meet.len() / 4);
    }
}
