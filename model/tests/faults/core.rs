// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The core's fault channels: what is read from them, offered to the core, and written to them.

use vhost_user_vsva::core::FaultError;
use vhost_user_vsva::wire::{
    PageResponse, PgFault, ResponseCode, PERM_READ, PGFAULT_LAST_PAGE, PGFAULT_PASID_VALID, U32,
    U64,
};

use super::kernel::{Place, Record};
use super::{seen, World};

impl World {
    pub fn channel_of(&self, device: usize) -> usize {
        if self.setup.shared {
            0
        } else {
            device
        }
    }

    pub fn wants_read(&self, channel: usize) -> bool {
        self.core.wants_read(number(channel))
    }

    /// The kernel hands out a group: it gets the lowest cookie that is free.
    pub fn gives(&mut self, channel: usize, index: u8) {
        let used = |cookie: &u32| {
            self.groups.iter().flatten().any(|group| {
                group.place == Place::Given(*cookie)
                    && self.channel_of(usize::from(group.device)) == channel
            })
        };
        let cookie = (0..).find(|cookie| !used(cookie)).unwrap_or(0);
        let Some(group) = &mut self.groups[usize::from(index)] else {
            return;
        };
        group.place = Place::Given(cookie);
        group.cookie = cookie;
        let records = 0..u8::try_from(group.records.len()).unwrap_or(0);
        let records = records.map(|record| (index, record));
        self.files[channel].buffer.extend(records);
    }

    /// Gives the core what was read, as far as it takes it.
    pub fn offers(&mut self, channel: usize) {
        while let Some((index, at)) = self.files[channel].buffer.front().copied() {
            if !self.wants_read(channel) || self.notes.bad.is_some() {
                return;
            }
            let Some(group) = self.groups[usize::from(index)].clone() else {
                self.fail("what is offered is gone");
                return;
            };
            let record = record(index, at, &group);
            match self.core.fault(number(channel), &record, 0) {
                Ok(()) => {}
                Err(FaultError::NoRoom { .. }) => {
                    self.notes.seen |= seen::NO_ROOM;
                    return;
                }
                Err(FaultError::Stale { cookie, .. }) if self.rules.forgets_stale => {
                    self.notes.seen |= seen::COOKIE_AGAIN;
                    self.core.forget_stale(number(channel), cookie, 0);
                    self.forgotten(channel, |group, place| {
                        group == cookie && place == Place::Over
                    });
                    continue;
                }
                Err(error) => {
                    self.fail(format!("a fault is refused: {error}"));
                    return;
                }
            }
            self.files[channel].buffer.pop_front();
            self.taken(index, at);
        }
    }

    fn taken(&mut self, index: u8, at: u8) {
        let device = self.groups[usize::from(index)]
            .as_ref()
            .map_or(0, |group| usize::from(group.device));
        let attached = self.devices[device].attached;
        let limit = self.limit();
        let full = self.waiting_of(device) >= limit;
        let Some(group) = &mut self.groups[usize::from(index)] else {
            return;
        };
        if !attached || group.refused || full {
            // Only a page request that fills the limit alone is taken beyond it.
            let alone = self.setup.pri && device == 0 && group.waiting() == limit;
            if attached && !group.refused && !alone {
                return self.fail("a fault is taken beyond the limit");
            }
            if attached && !group.refused {
                self.notes.seen |= seen::REFUSED;
            }
            group.refused = true;
            group.records[usize::from(at)] = Record::Answered { invalid: true };
            if full {
                self.aborts(device);
            }
            return;
        }
        group.records[usize::from(at)] = Record::Waiting;
    }

    /// The most faults that a device may have outstanding.
    fn limit(&self) -> u32 {
        let attached = self.devices.iter().filter(|of| of.attached || of.lost);
        let attached = u32::try_from(attached.count()).unwrap_or(0);
        match self.setup.max_outstanding {
            0 => (self.setup.max_faults / (attached + 1)).max(1),
            limit => limit.min(self.setup.max_faults),
        }
    }

    fn waiting_of(&self, device: usize) -> u32 {
        let groups = self.groups.iter().flatten();
        groups
            .filter(|group| usize::from(group.device) == device)
            .map(|group| group.waiting())
            .sum()
    }

    /// All faults of the device that the core has are answered INVALID.
    pub fn aborts(&mut self, device: usize) {
        for group in self.groups.iter_mut().flatten() {
            if usize::from(group.device) == device {
                group.abort();
            }
        }
        let groups = &self.groups;
        self.guest.retain(|event| {
            groups[usize::from(event.group)]
                .as_ref()
                .is_some_and(|group| usize::from(group.device) != device)
        });
    }

    /// The next answer of the channel is written; whether there was one.
    pub fn writes_answer(&mut self, channel: usize) -> bool {
        let mut answer = [PageResponse {
            cookie: U32::ZERO,
            code: U32::ZERO,
        }];
        if self.core.next_answers(number(channel), &mut answer) == 0 {
            return false;
        }
        let cookie = answer[0].cookie.get();
        let invalid = answer[0].code.get() != ResponseCode::Success as u32;
        let held = self
            .devices
            .iter()
            .enumerate()
            .any(|(device, state)| state.held && self.channel_of(device) == channel);
        if held {
            self.fail("a channel that is held is written");
        }
        let of_channel = |device: u8| self.channel_of(usize::from(device)) == channel;
        let meant = self
            .find(|group| of_channel(group.device) && group.cookie == cookie && group.taken() > 0);
        let met =
            self.find(|group| of_channel(group.device) && group.place == Place::Given(cookie));
        let Some(meant) = meant else {
            self.fail("a fault is answered twice");
            return false;
        };
        let group = self.groups[meant].clone();
        if let Some(group) = group {
            let whole = group.waiting() == 0 && group.taken() as usize == group.records.len();
            let gone = !self.devices[usize::from(group.device)].attached;
            if !whole && !gone {
                self.fail("a group is answered before its last fault");
            }
            if group.is_invalid() != invalid {
                self.fail(format!("the answer is INVALID: {invalid}"));
            }
        }
        match met {
            Some(met) if met != meant => self.fail("an answer meets another fault"),
            Some(_) => self.core.answers_written(number(channel), 1, 0),
            None => {
                self.notes.seen |= seen::ABORTED_ANSWER;
                self.core.answer_aborted(number(channel), 0);
            }
        }
        self.groups[meant] = None;
        let index = u8::try_from(meant).unwrap_or(0);
        if self.guest.iter().any(|event| event.group == index) {
            self.fail("a group is answered before the guest has answered");
        }
        // What the core does not want of it any more.
        self.files[channel]
            .buffer
            .retain(|(group, _)| *group != index);
        true
    }

    fn find(&self, is: impl Fn(&super::kernel::Group) -> bool) -> Option<usize> {
        self.groups
            .iter()
            .position(|group| group.as_ref().is_some_and(&is))
    }

    /// The core has forgotten groups that the kernel has aborted: the guest can answer them in
    /// vain.
    pub fn forgotten(&mut self, channel: usize, is: impl Fn(u32, Place) -> bool) {
        for index in 0..self.groups.len() {
            let Some(group) = &self.groups[index] else {
                continue;
            };
            let here = self.channel_of(usize::from(group.device)) == channel;
            if here && group.place == Place::Over && is(group.cookie, group.place) {
                self.forget(index);
            }
        }
    }

    pub fn forget(&mut self, index: usize) {
        let number = u8::try_from(index).unwrap_or(0);
        self.guest.retain(|event| event.group != number);
        for file in &mut self.files {
            file.buffer.retain(|(group, _)| *group != number);
            file.queue.retain(|group| *group != number);
        }
        self.groups[index] = None;
    }
}

pub fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(0)
}

fn record(index: u8, at: u8, group: &super::kernel::Group) -> PgFault {
    let last = usize::from(at) + 1 == group.records.len();
    let flags = if last { PGFAULT_LAST_PAGE } else { 0 };
    PgFault {
        flags: U32::new(flags | PGFAULT_PASID_VALID),
        dev_id: U32::new(10 + u32::from(group.device)),
        pasid: U32::new(1),
        grpid: U32::new(u32::from(index)),
        perm: U32::new(PERM_READ),
        reserved: U32::ZERO,
        addr: U64::new((u64::from(index) << 16) | (u64::from(at) << 12)),
        length: U32::ZERO,
        cookie: U32::new(group.cookie),
    }
}
