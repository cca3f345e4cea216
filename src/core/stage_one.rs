// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Events that are no faults to be answered: what a vEVENTQ of the kernel brings, on its way to the
//! guest's event queue.

use std::collections::VecDeque;

use super::{Core, FaultError, Observation, Observer};
use crate::wire::{EventHeader, EVENT_RECORD_SIZE};

/// Entries that wait for room in the event ring. The kernel keeps what does not fit, and counts
/// what it cannot keep.
const CAPACITY: usize = 1024;
/// A record can need two entries: itself, and the events lost before it.
const ENTRIES_PER_RECORD: usize = 2;

/// What waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Entry {
    /// An event record as the guest will see it.
    Record([u8; EVENT_RECORD_SIZE]),
    /// The kernel had no room for so many events at this place.
    Lost(u32),
}

/// An entry, the device that it is sent for, and when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StageOneEvent {
    pub(super) device: u32,
    pub(super) read_ns: u64,
    pub(super) entry: Entry,
}

/// The queue, in the kernel's order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct StageOneEvents {
    queue: VecDeque<StageOneEvent>,
    /// There was no room, and nobody has been told yet that there is.
    full: bool,
}

impl StageOneEvents {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::with_capacity(CAPACITY),
            full: false,
        }
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.queue.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn front(&self) -> Option<&StageOneEvent> {
        self.queue.front()
    }

    pub(super) fn pop(&mut self) {
        self.queue.pop_front();
    }

    fn free(&self) -> usize {
        CAPACITY - self.queue.len()
    }

    fn room(&self) -> usize {
        self.free() / ENTRIES_PER_RECORD
    }

    /// Says once that there is room again.
    pub(super) fn take_room(&mut self) -> bool {
        let room = self.full && self.room() > 0;
        self.full &= !room;
        room
    }

    fn push(&mut self, event: StageOneEvent) {
        self.queue.push_back(event);
        self.full |= self.room() == 0;
    }

    /// The last entry, if it is a loss of this device: then more of it need no entry.
    fn last_loss(&mut self, device: u32) -> Option<&mut u32> {
        let last = self.queue.back_mut().filter(|last| last.device == device)?;
        match &mut last.entry {
            Entry::Lost(count) => Some(count),
            Entry::Record(_) => None,
        }
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }

    /// Drops the records of a device. What the kernel has lost may be another one's.
    pub(super) fn drop_records(&mut self, device: u32) {
        self.queue
            .retain(|event| event.device != device || matches!(event.entry, Entry::Lost(_)));
    }

    /// Drops what there is of a device that goes away. `heir`: who is told of the losses instead.
    pub(super) fn drop_device(&mut self, device: u32, heir: Option<u32>) {
        self.drop_records(device);
        match heir {
            None => self.queue.retain(|event| event.device != device),
            Some(heir) => {
                for event in &mut self.queue {
                    if event.device == device {
                        event.device = heir;
                    }
                }
            }
        }
    }
}

impl<O: Observer> Core<O> {
    /// How many records of a vEVENTQ, each with a gap before it, find room now.
    pub fn event_room(&self) -> usize {
        self.stage_one.room()
    }

    /// Takes a record of the vEVENTQ of `channel`, and the number of events that the kernel lost
    /// before it. The record goes to the guest as it is; one that does not belong to an attached
    /// device, or that claims to be a stall, is dropped. A loss is told for one of the channel's
    /// devices; losses that follow each other are one. Only call this for as many records as
    /// [`Core::event_room`] says.
    pub fn stage_one_event(
        &mut self,
        channel: u32,
        record: Option<&[u8; EVENT_RECORD_SIZE]>,
        lost: u32,
        now_ns: u64,
    ) -> Result<(), FaultError> {
        let index = self.channels.find(channel);
        let told = index.and_then(|index| self.devices.on_channel(index).next());
        let told = told.map(|(device, _)| device).filter(|_| lost > 0);
        let begins = told.is_some_and(|device| self.stage_one.last_loss(device).is_none());
        if self.stage_one.free() < usize::from(begins) + usize::from(record.is_some()) {
            return Err(FaultError::NoRoom { channel });
        }
        if let Some(device) = told {
            self.observe(
                now_ns,
                Observation::EventsLost {
                    device,
                    count: lost,
                },
            );
            match self.stage_one.last_loss(device) {
                Some(count) => *count = count.saturating_add(lost),
                None => self.stage_one.push(StageOneEvent {
                    device,
                    read_ns: now_ns,
                    entry: Entry::Lost(lost),
                }),
            }
        }
        if let Some(record) = record {
            let header = EventHeader::decode(record);
            let device = self.devices.by_sid(header.sid).filter(|_| !header.stall);
            self.observe(
                now_ns,
                Observation::StageOneEvent {
                    sid: header.sid,
                    kind: header.kind,
                    dropped: device.is_none(),
                },
            );
            if let Some(device) = device {
                self.stage_one.push(StageOneEvent {
                    device,
                    read_ns: now_ns,
                    entry: Entry::Record(*record),
                });
            }
        }
        self.disturb_drained(now_ns);
        Ok(())
    }
}
