// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What of the core outlives its process: it is saved step by step, by whoever owns the core.

use super::{Core, Observer};
use crate::wire::{EventRecord, ResponseCode};

/// A group of faults that has not been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SavedGroup {
    /// Number of its channel.
    pub channel: u32,
    /// Names it in the answer.
    pub cookie: u32,
    /// The device, as the channel names it.
    pub dev_id: u32,
    /// Records read.
    pub records: u32,
    /// The answer, as far as it is known.
    pub code: ResponseCode,
    /// Its last record has not been read.
    pub open: bool,
    /// Its further records do not reach the guest.
    pub refused: bool,
    /// The guest answers it as a whole.
    pub page_request: bool,
    /// Groups were begun in this order.
    pub order: u64,
}

/// A fault that the guest has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SavedFault {
    /// Index of its group.
    pub group: u32,
    /// Index of its page request group.
    pub grpid: u32,
    /// What the guest is told; its `stag` is the fault's index.
    pub event: EventRecord,
    /// When it was read.
    pub read_ns: u64,
    /// Faults were read in this order.
    pub order: u64,
    /// Number of the message by which its event was sent.
    pub event_number: Option<u64>,
}

/// Where the state is saved.
pub trait Saver {
    /// The group with this index is like this now; `None`: it is gone.
    fn group(&mut self, index: u32, group: Option<&SavedGroup>);
    /// The fault with this index, which is its STAG.
    fn fault(&mut self, index: u32, fault: Option<&SavedFault>);
    /// The event of the fault with this index, of which nothing else has changed, has been sent by
    /// the message with this number.
    fn sent(&mut self, index: u32, number: u64);
    /// Whether the front end is changing the page table of a device.
    fn held(&mut self, device: u32, held: bool);
    /// The counters, in the order of the config space.
    fn counters(&mut self, counters: [u64; 8]);
}

/// The messages of all connections are numbered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Numbers {
    /// Of the last message of the event ring before this connection.
    pub(super) event_base: u64,
    /// Of the last message of the portal ring before this connection.
    pub(super) portal_base: u64,
}

/// Which records of a table have changed since they were saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Changes {
    on: bool,
    order: u64,
    marked: Box<[Change]>,
    indices: Vec<u32>,
}

/// What of a record has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Change {
    Nothing,
    /// Its event has been sent.
    Sent,
    /// Anything, or all of it.
    Any,
}

impl Changes {
    /// Begins to note changes of a table of this length; `order` is the last that was given.
    pub(super) fn start(&mut self, length: u32, order: u64) {
        *self = Self {
            on: true,
            order,
            marked: vec![Change::Nothing; length as usize].into_boxed_slice(),
            indices: Vec::with_capacity(length as usize),
        };
    }

    pub(super) fn next_order(&mut self) -> u64 {
        if self.on {
            self.order = self.order.wrapping_add(1);
        }
        self.order
    }

    pub(super) fn note(&mut self, index: u32) {
        self.mark(index, Change::Any);
    }

    /// Only its event has been sent.
    pub(super) fn note_sent(&mut self, index: u32) {
        self.mark(index, Change::Sent);
    }

    fn mark(&mut self, index: u32, change: Change) {
        if !self.on {
            return;
        }
        let marked = &mut self.marked[index as usize];
        if *marked == Change::Nothing {
            self.indices.push(index);
        }
        *marked = change.max(*marked);
    }

    fn pop(&mut self) -> Option<(u32, Change)> {
        let index = self.indices.pop()?;
        let marked = &mut self.marked[index as usize];
        Some((index, std::mem::replace(marked, Change::Nothing)))
    }
}

impl<O: Observer> Core<O> {
    /// Whether nothing has been done with it: no devices, no state.
    pub fn is_fresh(&self) -> bool {
        self.devices.len() == 0
            && self.channels.is_empty()
            && self.recovery.is_none()
            && self.drain.phase == super::Phase::Running
            && self.pending.is_empty()
            && self.pending.next_ticket() == 0
    }

    /// From now on [`Core::save`] tells what has changed. The core is fresh. The numbers are those
    /// of the last messages of both rings before this connection.
    pub fn start_saving(&mut self, event_base: u64, portal_base: u64) {
        self.start_changes(0, 0);
        self.numbers = Numbers {
            event_base,
            portal_base,
        };
    }

    pub(super) fn start_changes(&mut self, group_order: u64, fault_order: u64) {
        let groups = self.channels.groups_len();
        self.channels.changes_mut().start(groups, group_order);
        let faults = self.faults.capacity();
        self.faults.changes.start(faults, fault_order);
    }

    /// Nothing is saved any more.
    pub fn stop_saving(&mut self) {
        *self.channels.changes_mut() = super::saved::Changes::default();
        self.faults.changes = super::saved::Changes::default();
        self.numbers = Numbers::default();
    }

    /// Tells what has changed since the last time, and the number of the last message of the portal
    /// ring that has taken effect.
    pub fn save(&mut self, to: &mut impl Saver) -> u64 {
        while let Some((index, _)) = self.channels.changes_mut().pop() {
            to.group(index, self.channels.saved(index).as_ref());
        }
        while let Some((index, change)) = self.faults.changes.pop() {
            match self.faults.event_number(index) {
                Some(number) if change == Change::Sent => to.sent(index, number),
                _ => to.fault(index, self.faults.saved(index).as_ref()),
            }
        }
        if std::mem::take(&mut self.held_changed) {
            for number in 0..self.limits.max_devices {
                let device = self.devices.get(number);
                // One that is to be attached again may be held.
                if device.is_some() || self.recovery.is_none() {
                    to.held(number, device.is_some_and(|device| device.held));
                }
            }
        }
        to.counters(self.counters.to_array());
        self.numbers.portal_base.wrapping_add(self.portal_seq)
    }

    /// Number of the last message of the event ring.
    pub fn event_number(&self) -> u64 {
        self.numbers.event_base.wrapping_add(self.event_seq)
    }

    /// Whether no event of a vEVENTQ waits to be sent.
    pub fn records_sent(&self) -> bool {
        self.stage_one.is_empty()
    }

    /// The rings count from 1 again, the numbers go on.
    pub(super) fn fold_numbers(&mut self) {
        if self.channels.changes().is_on() {
            let numbers = &mut self.numbers;
            numbers.event_base = numbers.event_base.wrapping_add(self.event_seq);
            numbers.portal_base = numbers.portal_base.wrapping_add(self.portal_seq);
        }
    }
}

impl Changes {
    pub(super) fn is_on(&self) -> bool {
        self.on
    }
}
