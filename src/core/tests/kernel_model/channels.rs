// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel and the shell do with the fault channels.

use super::kernel::{Fault, Group, Kernel};
use super::world::{channel_number, channel_of, Due, World, LIMITS, MOST, PRI};
use crate::core::FaultError;
use crate::wire::{PageResponse, ResponseCode, SSID_MAX, U32};

const NO_ANSWER: PageResponse = PageResponse {
    cookie: U32::ZERO,
    code: U32::ZERO,
};

impl World {
    pub fn raise(&mut self, device: u32, records: u32, pasid: Option<u32>) {
        let kernel = &mut self.channels[channel_of(device)];
        if kernel.queue.len() > 6 || !self.attached.contains(&device) {
            return;
        }
        let number = self.next_group;
        self.next_group += 1;
        let group = Group {
            device,
            dev_id: self.ids[device as usize].dev_id,
            pasid,
            grpid: u32::try_from(number % 512).unwrap(),
            addr: (number + 1) * 0x10_0000,
            faults: vec![Fault::Unread; records as usize],
            cookie: 0,
            refused: false,
            aborted: false,
        };
        kernel.queue.push_back(number);
        self.groups.insert(number, group);
    }

    /// What a shell does when a channel is to be read.
    pub fn read(&mut self, channel: usize, groups: u32) {
        for _ in 0..groups {
            self.offer(channel);
            if !self.core.wants_read(channel_number(channel)) {
                return;
            }
            if !self.channels[channel].read(&mut self.groups) {
                self.core.channel_empty(channel_number(channel), self.now);
                return;
            }
            self.offer(channel);
        }
    }

    /// Gives the core what was read, as far as it takes it.
    pub fn offer(&mut self, channel: usize) {
        while let Some((number, index)) = self.channels[channel].buffer.front().copied() {
            if !self.core.wants_read(channel_number(channel)) {
                return;
            }
            self.now += 1;
            let record = self.groups[&number].record(index);
            match self.core.fault(channel_number(channel), &record, self.now) {
                Ok(()) => {}
                Err(FaultError::Stale { cookie, .. }) => {
                    self.forget_stale(channel, cookie);
                    continue;
                }
                Err(FaultError::NoRoom { .. }) => return self.check_no_room(number),
                Err(error) => panic!("{error}"),
            }
            self.channels[channel].buffer.pop_front();
            self.counters.faults_read += 1;
            self.taken(number, index);
        }
    }

    pub fn device_waiting(&self, device: u32) -> usize {
        let of_device = self.groups.values().filter(|group| group.device == device);
        of_device.map(Group::waiting).sum()
    }

    pub fn check_no_room(&self, number: u64) {
        let group = &self.groups[&number];
        let owner = self.by_dev_id(channel_of(group.device), group.dev_id);
        let device = owner.unwrap_or(group.device);
        let limit = self.device_waiting(device) >= MOST[device as usize];
        let table = self.waiting.len() >= LIMITS.max_faults as usize;
        let unwritten = |group: &Group| group.taken() > 0 && group.waiting() == 0;
        assert!(
            limit || table || self.groups.values().any(unwritten),
            "there was room"
        );
    }

    /// The attached device of a channel that has this `dev_id`.
    pub fn by_dev_id(&self, channel: usize, dev_id: u32) -> Option<u32> {
        let here = |device: &u32| channel_of(*device) == channel;
        let mut attached = self.attached.iter().copied().filter(here);
        attached.find(|device| self.ids[*device as usize].dev_id == dev_id)
    }

    pub fn taken(&mut self, number: u64, index: usize) {
        let group = &self.groups[&number];
        let owner = self.by_dev_id(channel_of(group.device), group.dev_id);
        let device = owner.unwrap_or(group.device);
        let full = self.device_waiting(device) >= MOST[device as usize];
        let group = self.groups.get_mut(&number).unwrap();
        group.device = device;
        let too_large = group.pasid.is_some_and(|pasid| pasid > SSID_MAX);
        if too_large || group.refused || owner.is_none() {
            group.refused = true;
            group.faults[index] = Fault::Answered(ResponseCode::Invalid);
            return;
        }
        if full {
            // It has no room only because of itself, and nobody would ever answer it.
            assert!(device == PRI && group.waiting() == MOST[PRI as usize]);
            group.refused = true;
            group.faults[index] = Fault::Answered(ResponseCode::Invalid);
            self.abort_device(device);
            return;
        }
        assert!(self.waiting.len() < LIMITS.max_faults as usize);
        group.faults[index] = Fault::Waiting;
        self.waiting.push((self.now, number, index));
        self.due.push_back(Due::Fault {
            group: number,
            index,
        });
    }

    /// One fault is answered, or forgotten.
    pub fn answer(&mut self, number: u64, index: usize, code: ResponseCode) {
        let group = self.groups.get_mut(&number).unwrap();
        assert_eq!(group.faults[index], Fault::Waiting);
        group.faults[index] = Fault::Answered(code);
        self.waiting
            .retain(|(_, of, at)| (*of, *at) != (number, index));
        self.guest.retain(|_, of| *of != (number, index));
        let due = Due::Fault {
            group: number,
            index,
        };
        self.due.retain(|other| *other != due);
    }

    pub fn abort_device(&mut self, device: u32) -> usize {
        let groups = &self.groups;
        let of_device = |(_, number, _): &&(u64, u64, usize)| groups[number].device == device;
        let waiting: Vec<_> = self.waiting.iter().filter(of_device).copied().collect();
        for (_, number, index) in &waiting {
            self.answer(*number, *index, ResponseCode::Invalid);
        }
        waiting.len()
    }

    /// The core forgets a group that the kernel has aborted.
    pub fn forget(&mut self, number: u64) {
        for index in 0..self.groups[&number].faults.len() {
            if self.groups[&number].faults[index] == Fault::Waiting {
                self.answer(number, index, ResponseCode::Invalid);
            }
        }
        if self.groups[&number].taken() > 0 {
            self.counters.answers_aborted += 1;
        }
        self.groups.remove(&number);
    }

    pub fn forget_stale(&mut self, channel: usize, cookie: u32) {
        let stale = |(_, group): &(&u64, &Group)| {
            let here = channel_of(group.device) == channel;
            group.aborted && group.cookie == cookie && here && group.taken() > 0
        };
        let number = *self
            .groups
            .iter()
            .find(stale)
            .expect("its cookie came again")
            .0;
        self.forget(number);
        self.core
            .forget_stale(channel_number(channel), cookie, self.now);
    }

    pub fn write_answers(&mut self, channel: usize, count: usize) {
        let mut answers = [NO_ANSWER; 4];
        let count = self
            .core
            .answers(channel_number(channel), &mut answers[..count.min(4)]);
        assert!(
            count == 0 || !self.held_channel(channel),
            "a held channel is not written"
        );
        for answer in &answers[..count] {
            let cookie = answer.cookie.get();
            let of_core = |(_, group): &(&u64, &Group)| {
                let same = group.cookie == cookie && channel_of(group.device) == channel;
                same && group.taken() > 0
            };
            let number = *self
                .groups
                .iter()
                .find(of_core)
                .expect("known to the core")
                .0;
            let group = self.groups.remove(&number).unwrap();
            let expected = group.answer().expect("all of it was answered");
            assert_eq!(answer.code.get(), expected as u32);
            if group.aborted {
                assert_ne!(self.channels[channel].given.get(&cookie), Some(&number));
                self.counters.answers_aborted += 1;
                self.core.answer_aborted(channel_number(channel), self.now);
            } else {
                assert_eq!(self.channels[channel].given.remove(&cookie), Some(number));
                let faults = u32::try_from(group.faults.len()).unwrap();
                self.counters.faults_answered += u64::from(faults);
                self.answered += faults;
                self.core
                    .answers_written(channel_number(channel), 1, self.now);
            }
        }
    }

    pub fn hold(&mut self, device: u32) {
        let result = self.core.hold(device, self.now);
        let can = self.attached.contains(&device) && !self.held.contains_key(&device);
        assert_eq!(result.is_ok(), can);
        if can {
            self.held.insert(device, false);
        }
    }

    pub fn replace(&mut self, device: u32) {
        if let Some(replaced) = self.held.get_mut(&device) {
            *replaced = true;
            self.kernel_aborts(device);
        }
    }

    pub fn kernel_aborts(&mut self, device: u32) {
        let dev_id = self.ids[device as usize].dev_id;
        self.channels[channel_of(device)].abort(&mut self.groups, dev_id);
    }

    pub fn unhold(&mut self, device: u32) {
        let Some(replaced) = self.held.remove(&device) else {
            let result = self.core.unhold(device, true, self.now);
            return assert!(result.is_err(), "it is not held");
        };
        if replaced {
            let groups = &self.groups;
            let dev_id = self.ids[device as usize].dev_id;
            let of_device = |group: &Group| {
                group.dev_id == dev_id && channel_of(group.device) == channel_of(device)
            };
            let channel = &mut self.channels[channel_of(device)];
            channel
                .buffer
                .retain(|(number, _)| !of_device(&groups[number]));
            let gone = |(_, group): &(&u64, &Group)| of_device(group) && group.aborted;
            let gone: Vec<u64> = groups
                .iter()
                .filter(gone)
                .map(|(number, _)| *number)
                .collect();
            for number in gone {
                self.forget(number);
            }
        }
        self.core.unhold(device, replaced, self.now).unwrap();
        self.offer(channel_of(device));
    }

    /// What was read must have been taken: else its answer could meet a cookie that was given
    /// again.
    pub fn replace_without_hold(&mut self, device: u32) {
        let channel = channel_of(device);
        let attached = self.attached.contains(&device);
        let held = self.held.contains_key(&device);
        if self.channels[channel].buffer.is_empty() && attached && !held {
            self.kernel_aborts(device);
        }
    }

    /// All that is left of a device is answered; then it is taken from its page table, and the
    /// kernel aborts what nobody has answered.
    pub fn taken_away(&mut self, device: u32) {
        let channel = channel_of(device);
        let mut others = self.attached.iter();
        let last = !others.any(|other| channel_of(*other) == channel);
        if last {
            // Nobody waits for the rest of a group.
            self.channels[channel].buffer.clear();
            for group in self.groups.values_mut() {
                let begun = channel_of(group.device) == channel && group.taken() > 0;
                if begun {
                    group.faults.retain(|fault| *fault != Fault::Unread);
                }
            }
        }
        while self.answers_wait(channel) {
            self.write_answers(channel, 4);
        }
        self.kernel_aborts(device);
        if last {
            assert!(!self.core.channel_in_use(channel_number(channel)));
            self.channels[channel] = Kernel::default();
            self.groups
                .retain(|_, group| channel_of(group.device) != channel);
        }
    }

    fn answers_wait(&self, channel: usize) -> bool {
        let mut answers = [NO_ANSWER; 1];
        self.core.answers(channel_number(channel), &mut answers) > 0
    }
}
