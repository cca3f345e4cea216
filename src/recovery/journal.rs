// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The area is written.

use super::{
    area::Area,
    image::Image,
    inbox::Inbox,
    layout::{
        flag, head, pack, Layout, ALWAYS, EVENT_UNSENT, FAULT_EVENT, FAULT_WORDS_USED, GROUP_WORDS,
        RECORDS_UNSENT, VERSION,
    },
    owner::Owner,
    point,
};
use crate::{
    core::{SavedFault, SavedGroup, Saver},
    wire::{ResponseCode, RECOVERY_MAGIC},
};

/// Writes the area of a core, one step after the other. No system call, no allocation.
pub struct Journal {
    owner: Owner,
    layout: Layout,
    /// The words that this step changes: where, from what, to what.
    staged: Vec<(usize, u64, u64)>,
    portal_taken: u64,
    slots: Box<[Slot]>,
    /// vEVENTQs that may have records that have not been sent.
    unsent: u32,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    used: bool,
    /// Its vEVENTQ is being read.
    reading: bool,
    /// Records of its vEVENTQ may not have been sent.
    unsent: bool,
}

impl Journal {
    /// Begins to write an area that has never been used, for a core that is fresh.
    pub fn create(area: &Area, layout: Layout, instance: u64, portal_base: u64) -> Self {
        let owner = Owner::take(area, instance);
        owner.store(head::VERSION, VERSION.into());
        owner.store(head::PORTAL_TAKEN, portal_base);
        owner.store(head::LIMITS, layout.limits_word());
        owner.store(head::UNDO, 0);
        area.barrier();
        owner.store(head::MAGIC, RECOVERY_MAGIC);
        Self::over(owner, layout, portal_base)
    }

    /// Goes on with an area as `image` has found it; `owner` had the right to it before that.
    pub fn adopt(owner: Owner, layout: Layout, image: &Image) -> Self {
        // Each of these can be repeated, so the process may end anywhere in between.
        for (word, value) in &image.undo {
            owner.store(*word, *value);
        }
        owner.area().barrier();
        owner.store(head::UNDO, 0);
        for word in &image.unsent {
            owner.store(*word, EVENT_UNSENT);
        }
        owner.area().barrier();
        let mut journal = Self::over(owner, layout, image.portal_taken);
        for channel in &image.channels {
            journal.slots[channel.slot].used = true;
            if channel.records_lost {
                // Until it has been said.
                journal.records_reading(channel.slot, true);
            }
        }
        journal
    }

    fn over(owner: Owner, layout: Layout, portal_taken: u64) -> Self {
        Self {
            staged: Vec::with_capacity(layout.undo_len),
            slots: vec![Slot::default(); layout.channels_len].into_boxed_slice(),
            owner,
            layout,
            portal_taken,
            unsent: 0,
        }
    }

    /// An inbox for a new channel; `None` if there are too many.
    pub fn open_inbox(&mut self, number: u32, kernel: bool) -> Option<Inbox> {
        let slot = self.slots.iter().position(|slot| !slot.used)?;
        self.slots[slot] = Slot {
            used: true,
            ..Slot::default()
        };
        let inbox = self.reopen_inbox(slot);
        let word = self.layout.channel(slot);
        inbox.begin_anew(0, &[]);
        self.put(word + 2, 0);
        let kernel = if kernel { flag::KERNEL } else { 0 };
        self.put(word, pack(flag::USED | kernel, number));
        Some(inbox)
    }

    /// The inbox that a channel had when its process ended.
    pub fn reopen_inbox(&self, slot: usize) -> Inbox {
        Inbox::new(self.owner.clone(), &self.layout, slot)
    }

    /// Whoever makes a step has the right to the area, or the process ends here.
    #[inline]
    pub fn check_owner(&self) {
        self.owner.check();
    }

    /// Gives up an inbox that is empty.
    pub fn close_inbox(&mut self, slot: usize) {
        self.records_reading(slot, false);
        self.set_unsent(slot, false);
        let word = self.layout.channel(slot);
        self.put(word, 0);
        self.slots[slot].used = false;
    }

    /// The vEVENTQ of a channel is about to be read, or has been.
    pub fn records_reading(&mut self, slot: usize, reading: bool) {
        self.slots[slot].reading = reading;
        if reading {
            self.set_unsent(slot, true);
            self.put(self.layout.channel(slot) + 2, RECORDS_UNSENT);
        }
    }

    /// Every record of a vEVENTQ that was read is in a message, the last with this number.
    pub fn records_sent(&mut self, number: u64) {
        if self.unsent == 0 {
            return;
        }
        for slot in 0..self.slots.len() {
            if self.slots[slot].unsent && !self.slots[slot].reading {
                self.set_unsent(slot, false);
                self.put(self.layout.channel(slot) + 2, number);
            }
        }
    }

    fn set_unsent(&mut self, slot: usize, unsent: bool) {
        let was = std::mem::replace(&mut self.slots[slot].unsent, unsent);
        self.unsent = self.unsent + u32::from(unsent) - u32::from(was);
    }

    /// This step takes the records of an inbox up to `after`.
    pub fn taken(&mut self, slot: usize, before: usize, after: usize) {
        let word = self.layout.channel(slot) + 1;
        self.staged.push((word, before as u64, after as u64));
    }

    /// Completes a step.
    pub fn commit(&mut self, portal_taken: u64) {
        let portal = portal_taken != self.portal_taken;
        let area = self.owner.writer();
        if let ([(word, _, value)], false) = (&self.staged[..], portal) {
            // One store is a whole step.
            point("one");
            area.store(*word, *value);
            self.staged.clear();
            return;
        }
        if !self.staged.is_empty() {
            let places = (self.layout.undo..).step_by(2);
            for (at, (word, before, _)) in places.zip(&self.staged) {
                area.store(at, *word as u64);
                area.store(at + 1, *before);
            }
            let unless = if portal { portal_taken } else { ALWAYS };
            area.store(head::UNDO_UNLESS, unless);
            self.owner.area().barrier();
            area.store(head::UNDO, self.staged.len() as u64);
            self.owner.area().barrier();
            point("step");
            for (word, _, value) in &self.staged {
                area.store(*word, *value);
            }
            self.owner.area().barrier();
        }
        if portal {
            point("portal");
            area.store(head::PORTAL_TAKEN, portal_taken);
            self.portal_taken = portal_taken;
            self.owner.area().barrier();
        }
        if !self.staged.is_empty() {
            point("stepped");
            area.store(head::UNDO, 0);
            self.staged.clear();
        }
    }

    /// Stores a word outside of any step.
    fn put(&mut self, word: usize, value: u64) {
        let area = self.owner.writer();
        if area.load(word) != value {
            area.store(word, value);
        }
    }

    /// An entry of a table becomes `words`, the first of which is 0 if it is not used.
    ///
    /// What was there before is read from the area. Whoever else has written there changes what a
    /// later process finds, and nothing of this one.
    fn entry(&mut self, at: usize, words: &[u64]) {
        let area = self.owner.writer();
        let Some((first, rest)) = words.split_first() else {
            return;
        };
        let before = area.load(at);
        if *first != 0 && before == 0 {
            // Nobody looks at it before the first word says so.
            area.store_all(at + 1, rest);
        } else if *first != 0 {
            for (word, value) in (at + 1..).zip(rest) {
                let before = area.load(word);
                if before != *value {
                    self.staged.push((word, before, *value));
                }
            }
        }
        if before != *first {
            self.staged.push((at, before, *first));
        }
    }

    fn stage(&mut self, word: usize, value: u64) {
        let before = self.owner.writer().load(word);
        if before != value {
            self.staged.push((word, before, value));
        }
    }
}

impl Saver for Journal {
    fn group(&mut self, index: u32, group: Option<&SavedGroup>) {
        let mut words = [0; GROUP_WORDS];
        if let Some(group) = group {
            let set = |is, flag| if is { flag } else { 0 };
            let flags = flag::USED
                | set(group.open, flag::OPEN)
                | set(group.refused, flag::REFUSED)
                | set(group.code == ResponseCode::Invalid, flag::INVALID)
                | set(group.page_request, flag::PAGE_REQUEST);
            words = [
                pack(flags, group.channel),
                pack(group.cookie, group.dev_id),
                group.records.into(),
                group.order,
            ];
        }
        self.entry(self.layout.group(index as usize), &words);
    }

    fn fault(&mut self, index: u32, fault: Option<&SavedFault>) {
        let mut words = [0; FAULT_WORDS_USED];
        if let Some(fault) = fault {
            let event = &fault.event;
            let set = |is, flag| if is { flag } else { 0 };
            let flags = flag::USED
                | set(event.write, flag::WRITE)
                | set(event.exec, flag::EXEC)
                | set(event.privileged, flag::PRIVILEGED)
                | set(event.ssid.is_some(), flag::SSID);
            words = [
                pack(flags, fault.group),
                pack(event.ssid.unwrap_or(0), fault.grpid),
                event.addr,
                fault.read_ns,
                fault.order,
                fault.event_number.unwrap_or(EVENT_UNSENT),
            ];
        }
        self.entry(self.layout.fault(index as usize), &words);
    }

    fn sent(&mut self, index: u32, number: u64) {
        self.stage(self.layout.fault(index as usize) + FAULT_EVENT, number);
    }

    fn held(&mut self, device: u32, held: bool) {
        self.stage(self.layout.devices + device as usize, held.into());
    }

    fn counters(&mut self, counters: [u64; head::COUNTERS_LEN]) {
        let area = self.owner.writer();
        for (word, counter) in (head::COUNTERS..).zip(counters) {
            let before = area.load(word);
            if before != counter {
                self.staged.push((word, before, counter));
            }
        }
    }
}
