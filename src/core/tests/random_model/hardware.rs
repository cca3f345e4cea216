// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The hardware's side of the fault channels, and what a shell does with them.

use std::collections::{BTreeMap, VecDeque};

use super::super::oracle::{answer_of, Fault};
use super::super::rig::dev_id;
use super::world::{Event, World, LIMITS};
use crate::core::FaultError;
use crate::wire::{
    PageResponse, PgFault, ResponseCode, PERM_READ, PGFAULT_LAST_PAGE, PGFAULT_PASID_VALID, U32,
    U64,
};

#[derive(Debug)]
pub struct Group {
    pub device: u32,
    pub faults: Vec<Fault>,
    /// Aborted as a whole: what is still to be read does not reach the guest.
    pub refused: bool,
}

impl Group {
    /// The answer it must get, once it can get one.
    pub fn answer(&self) -> Option<ResponseCode> {
        answer_of(&self.faults, false)
    }

    /// Answers what was read INVALID; nothing more of the group reaches the guest.
    pub fn abort(&mut self) {
        self.refused = true;
        for fault in &mut self.faults {
            if *fault == Fault::Waiting {
                *fault = Fault::Answered(ResponseCode::Invalid);
            }
        }
    }
}

/// The hardware's side of a fault channel.
#[derive(Debug, Default)]
pub struct Hardware {
    pub unread: VecDeque<PgFault>,
    pub groups: BTreeMap<u32, Group>,
    /// No device is left; the core only writes its answers.
    pub closing: bool,
}

impl Hardware {
    pub fn lowest_free_cookie(&self) -> u32 {
        (1..).find(|c| !self.groups.contains_key(c)).unwrap()
    }

    pub fn is_busy(&self, device: u32) -> bool {
        self.groups.values().any(|group| group.device == device)
    }

    pub fn has_read_group(&self) -> bool {
        self.groups
            .values()
            .any(|group| group.faults.iter().any(|f| *f != Fault::Unread))
    }
}

impl World {
    pub fn waiting(&self, of: impl Fn(&Group) -> bool) -> usize {
        let groups = self.channels.values().flat_map(|h| h.groups.values());
        let faults = groups.filter(|group| of(group)).flat_map(|g| &g.faults);
        faults.filter(|fault| **fault == Fault::Waiting).count()
    }

    /// Whether there is room for a record, by the rules of the protocol.
    pub fn has_room(&self, channel: u32, record: &PgFault) -> bool {
        let begun = |group: &&Group| group.faults.iter().any(|f| *f != Fault::Unread);
        let groups = |hardware: &Hardware| hardware.groups.values().filter(begun).count();
        let event = self.faults[&record.addr.get()];
        let group = &self.channels[&channel].groups[&event.cookie];
        let on_channel = self.attached.iter().filter(|(_, of)| **of == Some(channel));
        let of_channel: usize = on_channel.map(|(device, _)| self.limit(*device)).sum();
        let all_groups: usize = self.channels.values().map(groups).sum();
        let most_groups = (LIMITS.max_faults + 2 * LIMITS.max_devices) as usize;
        let opens = !begun(&group);
        if opens && (groups(&self.channels[&channel]) > of_channel || all_groups >= most_groups) {
            return false;
        }
        let gone = self.attached.get(&event.device) != Some(&Some(channel));
        gone || group.refused
            || self.waiting(|_| true) < LIMITS.max_faults as usize
                && self.waiting(|group| group.device == event.device) < self.limit(event.device)
    }

    pub fn raise(&mut self, device: u32, records: u32) {
        let Some(channel) = self.channel_of(device) else {
            return;
        };
        if self.draining && self.quiesced.contains(&device) {
            return;
        }
        let hardware = self.channels.get_mut(&channel).unwrap();
        if hardware.unread.len() > 20 {
            return;
        }
        let cookie = hardware.lowest_free_cookie();
        for index in 0..records {
            self.next_addr += 0x1000;
            let last = if index + 1 == records {
                PGFAULT_LAST_PAGE
            } else {
                0
            };
            hardware.unread.push_back(PgFault {
                flags: U32::new(PGFAULT_PASID_VALID | last),
                dev_id: U32::new(dev_id(device)),
                pasid: U32::new(7),
                grpid: U32::new(cookie),
                perm: U32::new(PERM_READ),
                reserved: U32::ZERO,
                addr: U64::new(self.next_addr),
                length: U32::ZERO,
                cookie: U32::new(cookie),
            });
            let event = Event {
                device,
                channel,
                cookie,
                index: index as usize,
            };
            self.faults.insert(self.next_addr, event);
        }
        let group = Group {
            device,
            faults: vec![Fault::Unread; records as usize],
            refused: false,
        };
        hardware.groups.insert(cookie, group);
    }

    /// What a shell does when a channel has something to read.
    pub fn read(&mut self, channel: u32, records: u32) {
        for _ in 0..records {
            if !self.core.wants_read(channel) {
                return;
            }
            let Some(record) = self.channels[&channel].unread.front().copied() else {
                self.core.channel_empty(channel, self.now);
                return;
            };
            let has_room = self.has_room(channel, &record);
            match self.core.fault(channel, &record, self.now) {
                Ok(()) => assert!(has_room, "taken without room"),
                Err(FaultError::NoRoom { .. }) => return assert!(!has_room, "refused with room"),
                Err(error) => panic!("{error}"),
            }
            let hardware = self.channels.get_mut(&channel).unwrap();
            let event = self.faults[&record.addr.get()];
            let group = hardware.groups.get_mut(&event.cookie).unwrap();
            let device_gone = self.attached.get(&event.device) != Some(&Some(channel));
            group.refused |= device_gone;
            group.faults[event.index] = if group.refused {
                Fault::Answered(ResponseCode::Invalid)
            } else {
                Fault::Waiting
            };
            hardware.unread.pop_front();
        }
    }

    pub fn write_answers(&mut self, channel: u32, count: usize) {
        let mut answers = [PageResponse {
            cookie: U32::ZERO,
            code: U32::ZERO,
        }; 4];
        let count = self.core.answers(channel, &mut answers[..count.min(4)]);
        for answer in &answers[..count] {
            self.answered(channel, answer.cookie.get(), answer.code.get());
        }
        self.core.answers_written(channel, count, self.now);
        self.reap(channel);
    }

    /// The hardware gets an answer: it must be one that it waits for, with the right code.
    pub fn answered(&mut self, channel: u32, cookie: u32, code: u32) {
        let hardware = self.channels.get_mut(&channel).unwrap();
        let group = hardware.groups.remove(&cookie).expect("answered once");
        self.recovered.remove(&(channel, cookie));
        let expected = group.answer().expect("all of it was answered");
        assert_eq!(code, expected as u32);
    }

    pub fn abort_answer(&mut self, channel: u32) {
        let mut answer = [PageResponse {
            cookie: U32::ZERO,
            code: U32::ZERO,
        }];
        if self.core.answers(channel, &mut answer) == 1 {
            let cookie = answer[0].cookie.get();
            let hardware = self.channels.get_mut(&channel).unwrap();
            hardware.groups.remove(&cookie).expect("answered once");
            // One that a process before may have written counts as written.
            let again = self.recovered.remove(&(channel, cookie));
            self.aborted_answers += u64::from(!again);
            self.core.answer_aborted(channel, self.now);
            self.reap(channel);
        }
    }

    /// The core has done with a channel that has no devices: everything of it must have been
    /// answered.
    pub fn reap(&mut self, channel: u32) {
        if !self.core.channel_in_use(channel) {
            let hardware = self.channels.remove(&channel).unwrap();
            assert!(hardware.closing && hardware.groups.is_empty());
        }
    }

    /// No device is left on a channel. As the kernel does: there is nothing to translate for, so
    /// what was not read is aborted.
    pub fn close(&mut self, channel: u32) {
        let hardware = self.channels.get_mut(&channel).unwrap();
        hardware.closing = true;
        hardware.unread.clear();
        hardware
            .groups
            .retain(|_, group| group.faults.iter().any(|f| *f != Fault::Unread));
        for group in hardware.groups.values_mut() {
            for fault in &mut group.faults {
                if *fault == Fault::Unread {
                    *fault = Fault::Answered(ResponseCode::Invalid);
                }
            }
        }
        self.reap(channel);
    }

    pub fn fault_of(&mut self, event: &Event, change: impl FnOnce(&mut Fault)) {
        let hardware = self.channels.get_mut(&event.channel).unwrap();
        let group = hardware.groups.get_mut(&event.cookie).unwrap();
        change(&mut group.faults[event.index]);
    }

    pub fn probe(&mut self) {
        while let Some(channel) = self.core.next_probe() {
            let unread = self.channels[&channel].unread.len();
            self.read(channel, u32::try_from(unread + 1).unwrap());
        }
    }
}
