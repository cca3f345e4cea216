// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The end of a connection of which the back-end survives, and the next connection.

use vhost_user_vsva::core::Core;

use super::world::{attachment, back_end, seen, World};

/// Of the tables only what is in use counts: free records can be in another order.
fn same(one: &Core<()>, other: &Core<()>) -> bool {
    let seen = |core: &Core<()>| {
        let figures = (
            core.phase(),
            core.generation(),
            core.next_ticket(),
            core.pending(),
        );
        let waits = (core.outstanding(), core.has_event(), core.deadline());
        (core.snapshot().ok(), figures, waits, core.counters())
    };
    seen(one) == seen(other)
}

impl World {
    /// The connection ends; the back-end keeps everything.
    pub fn disconnect(&mut self) {
        // What is in used buffers has arrived.
        while !self.events.is_empty() && self.notes.bad.is_none() {
            self.front_end_takes();
        }
        let untaken = std::mem::take(&mut self.portal);
        self.front.keep(untaken);
        let lost = self.front.lost();
        if let Some(executed) = self.check(lost) {
            self.recovered(&executed);
        }
    }

    /// A new connection: to the same back-end, or (`anew`) to one that has nothing of this front
    /// end.
    pub fn connect(&mut self, anew: bool) {
        // Whoever was told that the VM may be stopped is told of the loss.
        self.asked = false;
        let pending = self.front.copies().pending() > 0;
        let connected = if anew {
            self.begins_anew();
            self.front.connects_anew()
        } else {
            self.core.rings_reset();
            self.front.connects_again()
        };
        if pending {
            self.notes.seen |= if anew { seen::ANEW } else { seen::AGAIN };
        }
        self.check(connected);
    }

    /// Another process, or RESET_DEVICE and ATTACH: there must be no difference.
    fn begins_anew(&mut self) {
        if std::mem::take(&mut self.ended) {
            self.core = back_end(self.left.functions, self.devices());
        } else {
            self.core.reset(0);
            self.settle();
            let mut attached = true;
            for device in self.devices() {
                attached &= self.core.attach(&attachment(device), 0).is_ok();
            }
            let new = back_end(self.left.functions, self.devices());
            if !attached || !same(&self.core, &new) {
                self.fail("a back-end that was reset is not as a new one");
            }
        }
        self.deferred.clear();
        for (ticket, queued) in (0..).zip(&mut self.queue) {
            queued.0 = ticket;
        }
        self.expired = None;
    }
}
