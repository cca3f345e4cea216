// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the core says, and what must hold after every step.

use vhost_user_vsva::core::Phase;
use vhost_user_vsva::wire::{
    DrainFailed, Drained, EventHeader, EventRecord, Message, MessageType, EVENT_RECORD_SIZE,
};

use super::kernel::{Group, Place, Record};
use super::steps::sid;
use super::{seen, Device, Drain, Event, World, DEVICES};

impl World {
    pub fn emits(&mut self) {
        let mut sent = None;
        let _ = self.core.emit::<()>(0, |message| {
            sent = Some(*message);
            Ok(())
        });
        let Some(message) = sent else { return };
        match message.message_type() {
            Some(MessageType::SmmuEvent) => self.delivered(&message),
            Some(MessageType::Drained) => {
                let drained: Drained = message.payload();
                self.drained(drained.generation.get());
            }
            Some(MessageType::DrainFailed) => {
                let failed: DrainFailed = message.payload();
                if failed.generation.get() == self.generation && self.drain == Drain::Begun {
                    self.notes.seen |= seen::FAILED;
                    self.drain = Drain::Failed;
                }
            }
            Some(MessageType::Released | MessageType::DeviceLost) => {}
            other => self.fail(format!("{other:?} is sent")),
        }
    }

    fn delivered(&mut self, message: &Message) {
        let record: [u8; EVENT_RECORD_SIZE] = message.payload();
        if !EventHeader::decode(&record).stall {
            let due = self.due.pop_front().map(u32::from);
            if due != Some(message.device.get()) {
                self.fail("an event comes that is not the next");
            }
            return;
        }
        let Some(event) = EventRecord::decode(&record) else {
            return self.fail("an event that is none");
        };
        let at = (event.addr >> 12) & 0xf;
        let (group, record) = ((event.addr >> 16) as u8, at as u8);
        let of = self.groups.get(usize::from(group)).and_then(Option::as_ref);
        let waits = of.is_some_and(|of| {
            of.records.get(usize::from(record)) == Some(&Record::Waiting)
                && sid(usize::from(of.device)) == event.sid
        });
        if !waits {
            return self.fail("an event of a fault that does not wait");
        }
        let known = |of: &Event| of.group == group && of.record == record;
        if self.guest.iter().any(known) {
            return self.fail("an event comes twice");
        }
        if self.guest.iter().any(|of| of.stag == event.stag) {
            return self.fail("I4: a STAG is given again while its fault is outstanding");
        }
        self.guest.push(Event {
            stag: event.stag,
            group,
            record,
        });
    }

    fn drained(&mut self, generation: u64) {
        if generation != self.generation || self.drain != Drain::Begun {
            return;
        }
        self.notes.seen |= seen::DRAINED;
        self.drain = Drain::Drained;
        if let Some(waits) = self.waits() {
            self.fail(format!("DRAINED, but {waits}"));
        }
    }

    /// What a drain has to wait for.
    fn waits(&self) -> Option<&'static str> {
        let there = |device: &&Device| device.attached || device.lost;
        if self
            .devices
            .iter()
            .filter(there)
            .any(|device| !device.quiesced)
        {
            return Some("a device is not at rest");
        }
        if self.devices.iter().any(|device| device.held) {
            return Some("a page table is being replaced");
        }
        if self.groups.iter().flatten().any(|group| {
            // Of a device that is gone there can be some in the kernel for a moment.
            let there = self.devices[usize::from(group.device)] != Device::default();
            group.taken() > 0 || there && group.place != Place::Over
        }) {
            return Some("a fault is outstanding");
        }
        (!self.due.is_empty()).then_some("an event is on its way")
    }

    /// What must hold after every step.
    pub fn look(&mut self) {
        if self.notes.bad.is_some() {
            return;
        }
        let taken: u32 = self.groups.iter().flatten().map(Group::taken).sum();
        if taken != self.core.outstanding() {
            let outstanding = self.core.outstanding();
            self.fail(format!("{outstanding} outstanding, but {taken} were taken"));
        }
        if !self.due.is_empty() && !self.core.has_event() {
            self.fail("an event is not sent");
        }
        let at_rest = |device: usize| self.devices[device].quiesced;
        let late = (0..DEVICES).any(|device| at_rest(device) && !self.rests(device));
        if self.drain == Drain::Drained && late {
            self.fail("DRAINED, but a device that is at rest faults");
        }
        if !self.all_idle() {
            return;
        }
        if self.core.phase() == Phase::Draining && self.waits().is_none() {
            self.fail("a drain goes on with nothing to wait for");
        }
        self.look_at_rest();
    }
}
