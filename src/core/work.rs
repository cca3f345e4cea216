// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the core wants done.
//!
//! After each step the shell takes [`Core::wants`], once, and does what it says. It need not ask
//! for anything: what is not in there is not wanted. A job is handed out to one thread only; what
//! comes up while that thread is at it becomes a job of its next step, so that two threads neither
//! write the same answers nor read the same channel to no purpose.

use super::channel::{ReadJob, WriteJob};
use super::{Core, Observer};

/// Something to be done to a channel, named by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Take [`Core::next_answers`] and write them, until there are none.
    Write(u32),
    /// Close it: it has neither devices nor answers to be written any more.
    Close(u32),
    /// Read it until it is empty, whether poll reports it or not: there was no room for its faults
    /// and now there is, or a drain must know that nothing is left in it.
    Read(u32),
    /// There is room again for the records of the vEVENTQs.
    ReadRecords,
}

/// What the core wants after a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// A job for the thread that made the step. There may be others, which its next step tells of.
    pub job: Option<Job>,
    /// Messages that wait for buffers of the event ring: [`Core::emit`].
    pub waiting: usize,
    /// When [`Core::tick`] must be called at the latest.
    pub deadline_ns: Option<u64>,
}

impl<O: Observer> Core<O> {
    /// What is to be done now. A job that it names is given to the caller, and to nobody else.
    pub fn wants(&mut self) -> Wants {
        Wants {
            job: self.next_job(),
            waiting: self.messages_waiting(),
            deadline_ns: self.deadline(),
        }
    }

    /// The socket of a channel takes answers again.
    pub fn writable(&mut self, channel: u32) {
        let index = self.channels.find(channel);
        if let Some(slot) = index.and_then(|index| self.channels.get_mut(index)) {
            slot.write = WriteJob::None;
        }
        if let Some(index) = index {
            self.channels.want_write(index);
        }
    }

    /// The socket of a channel takes no answer for now. None is given out until it does.
    pub fn write_blocked(&mut self, channel: u32) {
        let index = self.channels.find(channel);
        if let Some(slot) = index.and_then(|index| self.channels.get_mut(index)) {
            slot.write = WriteJob::Blocked;
        }
    }

    fn next_job(&mut self) -> Option<Job> {
        if let Some(channel) = self.channels.next_close() {
            return Some(Job::Close(channel));
        }
        if let Some(channel) = self.channels.next_write() {
            return Some(Job::Write(channel));
        }
        if let Some(index) = self.next_read() {
            let slot = self.channels.get_mut(index)?;
            slot.read = ReadJob::GivenOut;
            return Some(Job::Read(slot.number));
        }
        let records = self.stage_one.take_room();
        records.then_some(Job::ReadRecords)
    }

    /// The channels are only looked at if one can be found.
    fn next_read(&mut self) -> Option<u32> {
        if self.recovery.is_some() {
            return None;
        }
        let quiet = self.is_quiet();
        if !quiet && !self.channels.may_want_read() {
            return None;
        }
        let wanted = |index, slot: &super::channel::Channel| match slot.read {
            ReadJob::GivenOut => false,
            ReadJob::Due => self.wants_read_at(index),
            ReadJob::None if slot.blocked.is_some() => self.wants_read_at(index),
            ReadJob::None => quiet && slot.is_unread(),
        };
        let found = self
            .channels
            .iter()
            .find(|(index, slot)| wanted(*index, slot))
            .map(|(index, _)| index);
        if found.is_none() {
            self.channels.note_reads_due();
        }
        found
    }
}
