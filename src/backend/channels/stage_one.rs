// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The vEVENTQ of a channel: its records go to the guest as they are.

use std::{io, os::fd::OwnedFd, sync::atomic::Ordering};

use super::{
    channel::{Channel, Watched},
    veventq::EventQueue,
};
use crate::{
    backend::{shell::Shell, wait::poller::Interest},
    lock::lock,
};

/// A vEVENTQ that came with a device of a channel, and lives as long as the channel.
pub struct Events {
    pub queue: Watched<EventQueue>,
    pub device: u32,
}

impl Shell {
    pub fn new_events(&self, device: u32, fd: OwnedFd) -> io::Result<Events> {
        Ok(Events {
            queue: Watched {
                token: self.new_token(),
                fd: EventQueue::new(fd)?,
            },
            device,
        })
    }

    /// Reads a channel's vEVENTQ as far as there is room.
    pub fn read_events(&self, channel: &Channel) {
        let Some(events) = lock(&channel.events).clone() else {
            return;
        };
        let room = self.lock().event_room();
        let result = events.queue.fd.read(room, |entry| {
            self.step(|core, now| {
                let record = entry.record.as_ref();
                // There is room, as only this thread reads vEVENTQs.
                let _ = core.stage_one_event(events.device, record, entry.lost, now);
            });
            if entry.lost > 0 {
                log::warn!(
                    "fault channel {}: the kernel had no room for {} events of its vEVENTQ",
                    channel.number,
                    entry.lost
                );
            }
        });
        match result {
            Ok(_) if self.lock().event_room() == 0 => {
                self.watch_events(&events, Interest::Nothing);
                self.events_blocked.store(true, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(e) => {
                log::error!(
                    "fault channel {}: the vEVENTQ is given up: {e}",
                    channel.number
                );
                *lock(&channel.events) = None;
                self.forget(&events.queue.fd);
            }
        }
    }

    /// Waits for vEVENTQs again whose events found no room.
    pub fn unblock_events(&self) {
        if !self.events_blocked.load(Ordering::Relaxed) || self.lock().event_room() == 0 {
            return;
        }
        self.events_blocked.store(false, Ordering::Relaxed);
        for channel in self.channels().values() {
            if let Some(events) = &*lock(&channel.events) {
                self.watch_events(events, Interest::Read);
            }
        }
    }

    fn watch_events(&self, events: &Events, interest: Interest) {
        let queue = &events.queue;
        if let Err(e) = self.poller.modify(&queue.fd, queue.token, interest) {
            log::error!("vEVENTQ: epoll: {e}");
        }
    }
}
