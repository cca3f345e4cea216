// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faults are answered, and the answers of their groups written to the channels.

use super::channel::WriteJob;
use super::fault_table::Owners;
use super::group::Group;
use super::{Core, GuestCommand, Observation, Observer};
use crate::wire::{PageResponse, ResponseCode, U32};

impl<O: Observer> Core<O> {
    /// Answers a fault.
    pub(super) fn answer_fault(
        &mut self,
        stag: u16,
        code: ResponseCode,
        by: Option<GuestCommand>,
        now_ns: u64,
    ) {
        let Some(fault) = self.faults.get(stag) else {
            return;
        };
        let (number, group, sid) = (fault.device, fault.group, fault.event.sid);
        let age_ns = now_ns.saturating_sub(fault.read_ns);
        let Some(device) = self.devices.get_mut(number) else {
            return;
        };
        let cookie = self.channels.group(group).cookie;
        let mut owners = Owners {
            device: &mut device.faults,
            group: self.channels.faults_mut(group),
        };
        self.faults.remove(stag, &mut owners);
        let channel = self.channels.answer_one(group, code);
        self.observe(
            now_ns,
            match by {
                Some(command) => Observation::GuestAnswered {
                    device: number,
                    sid,
                    stag,
                    channel,
                    cookie,
                    code,
                    command,
                    age_ns,
                },
                None => Observation::FaultAborted {
                    device: number,
                    sid,
                    stag,
                    channel,
                    cookie,
                },
            },
        );
    }

    /// Answers all faults of a device INVALID and returns how many there were.
    pub(super) fn answer_all(&mut self, number: u32, by: Option<GuestCommand>, now_ns: u64) -> u32 {
        let mut answered = 0;
        while let Some(stag) = self
            .devices
            .get(number)
            .and_then(|device| self.faults.first(&device.faults))
            .map(|fault| fault.event.stag)
        {
            self.answer_fault(stag, ResponseCode::Invalid, by, now_ns);
            answered += 1;
        }
        answered
    }

    /// Copies the next answers for `channel` to `out` and returns how many. They stay until they
    /// were written.
    pub fn answers(&self, channel: u32, out: &mut [PageResponse]) -> usize {
        let Some(index) = self.channels.find(channel) else {
            return 0;
        };
        if self.channels.get(index).is_some_and(|slot| slot.held > 0) {
            return 0;
        }
        let mut count = 0;
        for (slot, group) in out.iter_mut().zip(self.channels.answers(index)) {
            slot.cookie = U32::new(group.cookie);
            slot.code = U32::new(group.code as u32);
            count += 1;
        }
        count
    }

    /// Copies the next answers for `channel` to `out`, for the thread that has been told to write
    /// them, and returns how many. With none its job is done.
    pub fn next_answers(&mut self, channel: u32, out: &mut [PageResponse]) -> usize {
        let count = self.answers(channel, out);
        if count == 0 {
            let index = self.channels.find(channel);
            let slot = index.and_then(|index| self.channels.get_mut(index));
            if let Some(slot) = slot.filter(|slot| slot.write == WriteJob::GivenOut) {
                slot.write = WriteJob::None;
            }
        }
        count
    }

    /// The next `count` answers of `channel` were written. They are not given out again.
    pub fn answers_written(&mut self, channel: u32, count: usize, now_ns: u64) {
        let counted = !self.is_left_over(channel);
        for _ in 0..count {
            let Some(group) = self.take_answer(channel) else {
                break;
            };
            if counted {
                self.count_answered(group.records);
            }
            self.answer_known(channel, &group, now_ns);
        }
        self.end_drain_if_drained(now_ns);
    }

    pub(super) fn count_answered(&mut self, records: u32) {
        self.counters.faults_answered = self
            .counters
            .faults_answered
            .wrapping_add(u64::from(records));
        self.drain.answered = self.drain.answered.saturating_add(records);
    }

    /// The answer of a group, which is forgotten, has been written.
    fn answer_known(&mut self, channel: u32, group: &Group, now_ns: u64) {
        self.observe(
            now_ns,
            Observation::AnswerWritten {
                channel,
                cookie: group.cookie,
                code: group.code,
                faults: group.records,
            },
        );
    }

    /// The kernel refused the next answer of `channel` with EINVAL: it had aborted the faults
    /// itself.
    pub fn answer_aborted(&mut self, channel: u32, now_ns: u64) {
        let counted = !self.is_left_over(channel);
        if let Some(group) = self.take_answer(channel) {
            if group.recovered {
                // Most likely the process that has ended had written it.
                self.count_answered(group.records);
                self.answer_known(channel, &group, now_ns);
                self.end_drain_if_drained(now_ns);
                return;
            }
            self.counters.answers_aborted = self
                .counters
                .answers_aborted
                .wrapping_add(u64::from(counted));
            self.observe(
                now_ns,
                Observation::AnswerAborted {
                    channel,
                    cookie: group.cookie,
                    faults: group.records,
                },
            );
        }
        self.end_drain_if_drained(now_ns);
    }

    /// Whether the channel, and all that is answered on it, is of the time before a reset.
    fn is_left_over(&self, channel: u32) -> bool {
        let slot = self.channels.find(channel);
        slot.and_then(|index| self.channels.get(index))
            .is_some_and(|slot| slot.left_over)
    }

    fn take_answer(&mut self, channel: u32) -> Option<Group> {
        let index = self.channels.find(channel)?;
        let group = self.channels.pop_answer(index)?;
        self.outstanding = self.outstanding.saturating_sub(group.records);
        self.channels.close_if_unused(index);
        Some(group)
    }
}
