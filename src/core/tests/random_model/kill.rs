// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process ends between two steps, and another core goes on from what was saved.

use std::collections::BTreeMap;
use std::sync::Arc;

use vm_memory::MmapRegion;

use super::super::oracle::Fault;
use super::super::rig::submission;
use super::world::{World, LIMITS};
use crate::core::Core;
use crate::recovery::area::Area;
use crate::recovery::image::{Copied, Image};
use crate::recovery::journal::Journal;
use crate::recovery::layout::Layout;
use crate::recovery::owner::Owner;
use crate::wire::{MessageType, DEVICE_NONE};

/// Where the core is saved.
pub struct Saved {
    area: Area,
    journal: Journal,
    /// Inboxes by the numbers of their channels. Nothing is read into them here.
    slots: BTreeMap<u32, usize>,
}

fn layout() -> Layout {
    Layout::new(&LIMITS)
}

impl Saved {
    pub fn new() -> Self {
        let room = layout().room();
        let memory = MmapRegion::new(usize::try_from(room).unwrap()).unwrap();
        let area = Area::new(Arc::new(memory), (0, room), &layout()).unwrap();
        Self {
            journal: Journal::create(&area, layout(), 1, 0),
            area,
            slots: BTreeMap::new(),
        }
    }
}

impl World {
    pub fn save_step(&mut self) {
        let saved = &mut self.saved;
        for channel in self.channels.keys() {
            let open = || saved.journal.open_inbox(*channel, true).unwrap().slot;
            saved.slots.entry(*channel).or_insert_with(open);
        }
        let taken = self.core.save(&mut saved.journal);
        saved.journal.commit(taken);
        let channels = &self.channels;
        saved.slots.retain(|channel, slot| {
            let open = channels.contains_key(channel);
            if !open {
                saved.journal.close_inbox(*slot);
            }
            open
        });
    }

    /// Everything but the core is as it was.
    pub fn kill(&mut self) {
        let lost: Vec<u32> = self.attached.keys().copied().collect();
        for device in lost {
            // They would be attached with a channel that is new.
            if self.attached[&device].is_none() {
                self.detach(device);
            }
        }
        self.save_step();
        // Nobody has their descriptors any more.
        self.channels.retain(|_, hardware| !hardware.closing);
        let owner = Owner::take(&self.saved.area, 2);
        let mut image = Image::try_from(Copied::of(&self.saved.area, &layout()).unwrap()).unwrap();
        let first = self
            .pending
            .front()
            .map_or(self.next_ticket, |(ticket, _)| *ticket);
        let recovered = image.recovered(&layout(), self.core.event_number(), first);
        self.saved.journal = Journal::adopt(owner, layout(), &image);
        let before = std::mem::replace(&mut self.core, Core::new(LIMITS, ()).unwrap());
        self.core.recover(recovered);
        for (device, channel) in self.attached.clone() {
            let desc = self.desc(device, channel.unwrap());
            self.core.attach(&desc, self.now).unwrap();
            self.core.claim(device);
            assert!(!self.core.wants_read(desc.channel));
        }
        self.core.finish_recovery(self.now);
        assert_eq!(self.core.counters(), before.counters());
        let (was, is) = (before.status(self.now), self.core.status(self.now));
        assert_eq!(is.figures.backlog, was.figures.backlog);
        assert_eq!(is.oldest_read_ns, was.oldest_read_ns);
        for (channel, hardware) in &self.channels {
            let begun = hardware.groups.iter().filter(|(_, group)| {
                let read = |fault: &Fault| *fault != Fault::Unread;
                group.faults.iter().any(read)
            });
            let begun = begun.map(|(cookie, _)| (*channel, *cookie));
            self.recovered.extend(begun);
        }
        self.portal_seq = 0;
        self.event_seq = 0;
        for ticket in first..self.next_ticket {
            let of_ticket = self.pending.iter().find(|(other, _)| *other == ticket);
            let device = of_ticket.map_or(DEVICE_NONE, |(_, device)| *device);
            self.portal(MessageType::Submit, device, &submission(ticket));
        }
        self.draining = true;
        self.outcome_seen = true;
        self.quiesced.clear();
    }
}
