// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The core is saved in the memory that the front end keeps, and recovered from there.

use super::{now_ns, Published, SharedCore, SharedMemory};
use crate::{
    core::Recovered,
    recovery::{
        area::Area,
        error::AreaError,
        image::{instance_of, Copied, Image, SavedChannel},
        inbox::Inbox,
        journal::Journal,
        layout::{head, Layout},
        owner::Owner,
    },
};

/// No inbox is left.
#[derive(Debug)]
pub struct NoInbox;

/// What an area is good for.
pub enum Found {
    /// It has never been used.
    New,
    /// A process has ended, or this one has lost its front end. The right to the area has been
    /// taken.
    Left(Box<Image>, Owner),
}

/// An area that has been looked at, and what the front end says of it.
pub struct Offer {
    pub area: Area,
    pub layout: Layout,
    pub found: Found,
    pub event_base: u64,
    pub portal_base: u64,
    pub next_ticket: u64,
}

impl Offer {
    /// The recovery area of a memory, if there is one. `may` says whether `instance` may go on
    /// from what a process with another number, or the same, has left there.
    pub fn of(
        memory: &SharedMemory,
        layout: &Layout,
        instance: u64,
        may: impl Fn(u64) -> Result<(), AreaError>,
    ) -> Result<Option<Self>, AreaError> {
        let Some((header, memory)) = memory.recovery() else {
            return Ok(None);
        };
        let place = (header.recovery_offset.get(), header.recovery_room.get());
        let area = Area::new(memory, place, layout)?;
        let portal_base = header.portal_base.get();
        let found = if area.load(head::MAGIC) == 0 {
            may(0)?;
            Found::New
        } else {
            let before = instance_of(&area, layout)?;
            may(before)?;
            // First of all, as a process that was stopped only may be continued at any time.
            let owner = Owner::take(&area, instance);
            let mut image = Image::try_from(Copied::of(&area, layout)?)?;
            image.instance = before;
            if image.portal_taken != portal_base {
                // The front end may look again.
                owner.give_back(before);
                return Err(AreaError::PortalBase);
            }
            Found::Left(Box::new(image), owner)
        };
        Ok(Some(Self {
            area,
            layout: *layout,
            found,
            event_base: header.event_base.get(),
            portal_base,
            next_ticket: header.next_ticket.get(),
        }))
    }
}

impl SharedCore {
    /// Whether a channel is read into an inbox.
    pub fn is_saved(&self) -> bool {
        self.lock().journal.is_some()
    }

    /// Whether nothing would be lost by going on with something else.
    pub fn is_fresh(&self) -> bool {
        self.look(|core| core.is_fresh())
    }

    /// Goes on from `offer`, and saves there from now on; what the core knows is forgotten. No
    /// channel is open.
    pub fn go_on_from(&self, memory: SharedMemory, offer: Offer, instance: u64) {
        let now_ns = now_ns();
        let mut this = self.lock();
        let before = this.memory.replace(memory);
        let Offer { area, layout, .. } = offer;
        this.core.forget();
        let journal = match offer.found {
            Found::New => {
                this.core.start_saving(offer.event_base, offer.portal_base);
                this.left = Vec::new();
                Journal::create(&area, layout, instance, offer.portal_base)
            }
            Found::Left(mut image, owner) => {
                let saved: Recovered =
                    image.recovered(&layout, offer.event_base, offer.next_ticket);
                let journal = Journal::adopt(owner, layout, &image);
                this.left = image.channels;
                this.core.recover(saved);
                journal
            }
        };
        this.journal = Some(journal);
        this.complete(now_ns);
        drop(this);
        drop(before);
    }

    /// The inbox of a channel that is opened, if the core is saved, and what is left in it.
    pub fn open_inbox(
        &self,
        number: u32,
        kernel: bool,
    ) -> Result<Option<(Inbox, Option<SavedChannel>)>, NoInbox> {
        let this = &mut *self.lock();
        let Some(journal) = &mut this.journal else {
            return Ok(None);
        };
        let same = |saved: &SavedChannel| saved.number == number && saved.kernel == kernel;
        if let Some(at) = this.left.iter().position(same) {
            let saved = this.left.swap_remove(at);
            return Ok(Some((journal.reopen_inbox(saved.slot), Some(saved))));
        }
        let inbox = journal.open_inbox(number, kernel).ok_or(NoInbox)?;
        Ok(Some((inbox, None)))
    }

    /// The channel of an inbox, which is empty, has been closed.
    pub fn close_inbox(&self, slot: usize) {
        if let Some(journal) = &mut self.lock().journal {
            journal.close_inbox(slot);
        }
    }

    /// The channel could not be opened: its inbox is as it was.
    pub fn put_inbox_back(&self, saved: SavedChannel) {
        self.lock().left.push(saved);
    }

    /// The vEVENTQ of a channel is about to be read, or has been.
    pub fn records_reading(&self, slot: Option<usize>, reading: bool) {
        let Some(slot) = slot else { return };
        let this = &mut *self.lock();
        if let Some(journal) = &mut this.journal {
            journal.records_reading(slot, reading);
            this.save();
        }
    }

    /// Makes a step that takes records of an inbox, from the one with the number `at` on. It says
    /// how many.
    pub fn step_taking<R>(
        &self,
        slot: Option<usize>,
        at: usize,
        step: impl FnOnce(&mut super::LoggedCore, u64) -> (usize, R),
    ) -> (usize, R) {
        let now_ns = now_ns();
        let mut guard = self.lock();
        let this = &mut *guard;
        let (count, result) = step(&mut this.core, now_ns);
        if let (Some(journal), Some(slot)) = (&mut this.journal, slot.filter(|_| count > 0)) {
            journal.taken(slot, at, at + count);
        }
        this.complete(now_ns);
        (count, result)
    }

    /// Every device has been attached, and both rings run: what nobody has claimed is dropped.
    /// Returns whether there was anything to finish.
    pub fn finish_recovery(&self) -> bool {
        if !self.look(|core| core.is_recovering()) {
            return false;
        }
        self.step(|core, now| core.finish_recovery(now));
        let this = &mut *self.lock();
        if let Some(journal) = &mut this.journal {
            for left in std::mem::take(&mut this.left) {
                journal.reopen_inbox(left.slot).begin_anew(left.end, &[]);
                journal.close_inbox(left.slot);
            }
        }
        true
    }

    /// The connection has ended. What is saved is saved on.
    pub fn disconnected(&self) {
        if !self.is_saved() {
            self.share(None);
        }
    }
}

impl Published {
    /// A step is about to be made.
    pub(super) fn check_owner(&self) {
        if let Some(journal) = &self.journal {
            journal.check_owner();
        }
    }

    /// Saves the step that has been made.
    pub(super) fn save(&mut self) {
        let Some(journal) = &mut self.journal else {
            return;
        };
        if self.core.records_sent() {
            journal.records_sent(self.core.event_number());
        }
        let portal_taken = self.core.save(journal);
        journal.commit(portal_taken);
    }
}
