// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The fault channels, what is to be done for each of them, and the groups that each has.

use std::collections::VecDeque;

use super::channel::{Blocked, Channel, ReadJob, WriteJob};
use super::fault_table::BY_GROUP;
use super::group::{Group, BY_CHANNEL};
use super::group_table::Groups;
use super::index::Index;
use super::saved::{Changes, SavedGroup};
use super::table::{List, NIL};
use crate::wire::ResponseCode;

/// The channels, by index, and their groups.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Channels {
    channels: Box<[Option<Channel>]>,
    numbers: Index,
    groups: Groups,
    /// Channels that are blocked.
    blocked: u32,
    /// Channels that have answers for a thread to write.
    writes: VecDeque<u32>,
    /// No channel has [`ReadJob::Due`] if this is false.
    reads_due: bool,
    /// Numbers of channels that have been closed, as nobody uses them, and that the shell is to
    /// close.
    closes: VecDeque<u32>,
}

impl Channels {
    /// A device that is gone can leave a channel with answers to write, so there are twice as many
    /// channels as devices.
    pub(super) fn new(max_devices: u32, max_faults: u32) -> Self {
        let channels = max_devices * 2;
        // A group that is open may have no fault left, so there are more groups than faults.
        let groups = max_faults + channels;
        Self {
            channels: (0..channels).map(|_| None).collect(),
            numbers: Index::new(channels),
            groups: Groups::new(groups),
            blocked: 0,
            writes: VecDeque::with_capacity(channels as usize),
            reads_due: false,
            closes: VecDeque::with_capacity(channels as usize),
        }
    }

    /// Nothing of the past is left in free records.
    #[cfg(feature = "model")]
    pub(super) fn scrub(&mut self) {
        self.groups.scrub();
    }

    /// Lets a channel be read though poll may not report it.
    pub(super) fn want_read(&mut self, channel: u32) {
        if let Some(slot) = self.get_mut(channel) {
            slot.empty = false;
            slot.read = ReadJob::Due;
            self.reads_due = true;
        }
    }

    /// After no channel that is due was found to be wanted: some may be held.
    pub(super) fn note_reads_due(&mut self) {
        let due = self.iter().any(|(_, slot)| slot.read == ReadJob::Due);
        self.reads_due = due;
    }

    /// The number of the next channel that the shell is to close.
    pub(super) fn next_close(&mut self) -> Option<u32> {
        self.closes.pop_front()
    }

    /// Whether a channel may have to be read though poll does not report it.
    pub(super) fn may_want_read(&self) -> bool {
        self.reads_due || self.blocked > 0
    }

    /// Lets the thread that makes this step write the answers of a channel, if they can be written.
    /// Another thread may be writing: that one may have looked for the last time, and this one is
    /// to know that its answers are written.
    pub(super) fn want_write(&mut self, channel: u32) {
        if let Some(slot) = self.get_mut(channel) {
            let can = matches!(slot.write, WriteJob::None | WriteJob::GivenOut);
            if can && slot.held == 0 && !slot.answers.is_empty() {
                slot.write = WriteJob::Due;
                self.writes.push_back(channel);
            }
        }
    }

    /// The number of the next channel whose answers are to be written.
    pub(super) fn next_write(&mut self) -> Option<u32> {
        while let Some(channel) = self.writes.pop_front() {
            let slot = self.get_mut(channel);
            if let Some(slot) = slot.filter(|slot| slot.write == WriteJob::Due) {
                slot.write = WriteJob::GivenOut;
                return Some(slot.number);
            }
        }
        None
    }

    pub(super) fn find(&self, number: u32) -> Option<u32> {
        self.numbers.get(number.into())
    }

    /// Opens a channel; `None` if there are too many.
    pub(super) fn open(&mut self, number: u32) -> Option<u32> {
        let (index, slot) = (0..)
            .zip(self.channels.iter_mut())
            .find(|(_, slot)| slot.is_none())?;
        *slot = Some(Channel::new(number));
        self.numbers.insert(number.into(), index);
        Some(index)
    }

    pub(super) fn get(&self, index: u32) -> Option<&Channel> {
        self.channels.get(index as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Channel> {
        self.channels.get_mut(index as usize)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Channel)> {
        (0..)
            .zip(self.channels.iter())
            .filter_map(|(index, slot)| Some((index, slot.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Channel> {
        self.channels.iter_mut().flatten()
    }

    /// How many channels are blocked.
    pub(super) fn blocked_len(&self) -> u32 {
        self.blocked
    }

    /// Blocks a channel, or unblocks it, and says whether it was blocked before.
    pub(super) fn set_blocked(&mut self, channel: u32, blocked: Option<Blocked>) -> bool {
        let Some(slot) = self.get_mut(channel) else {
            return false;
        };
        let is = blocked.is_some();
        let was = std::mem::replace(&mut slot.blocked, blocked).is_some();
        self.blocked = self.blocked + u32::from(is) - u32::from(was);
        was
    }

    pub(super) fn free_groups(&self) -> u32 {
        self.groups.records.free_len()
    }

    /// How many groups the channel has that wait for the guest, or for their answer to be written.
    pub(super) fn groups_of(&self, channel: u32) -> u32 {
        self.get(channel).map_or(0, |slot| slot.groups.len())
    }

    /// Faults of page requests that are not complete: the guest cannot answer them.
    pub(super) fn unanswerable(&self) -> u32 {
        self.iter()
            .filter_map(|(_, channel)| channel.open)
            .map(|group| self.groups.get(group))
            .filter(|group| group.page_request)
            .map(|group| group.faults.len())
            .sum()
    }

    /// Whether no group waits for its end, for the guest, or for its answer to be written.
    pub(super) fn all_answered(&self) -> bool {
        self.groups.records.is_unused()
    }

    /// What the shared memory has not been told of.
    pub(super) fn changes_mut(&mut self) -> &mut Changes {
        &mut self.groups.changes
    }

    pub(super) fn changes(&self) -> &Changes {
        &self.groups.changes
    }

    pub(super) fn group(&self, group: u32) -> &Group {
        self.groups.get(group)
    }

    /// The faults of a group that the guest has not answered.
    pub(super) fn faults_mut(&mut self, group: u32) -> &mut List<BY_GROUP> {
        self.groups.faults_mut(group)
    }

    pub(super) fn group_mut(&mut self, group: u32) -> &mut Group {
        self.groups.get_mut(group)
    }

    /// The group with this cookie that has not been answered.
    pub(super) fn by_cookie(&self, channel: u32, cookie: u32) -> Option<u32> {
        self.groups.find(channel, cookie)
    }

    /// The oldest group of the channel.
    pub(super) fn first_group(&self, channel: u32) -> Option<u32> {
        self.get(channel)?.groups.front()
    }

    /// The group of the same channel that came after `group`.
    pub(super) fn next_group(&self, group: u32) -> Option<u32> {
        List::<BY_CHANNEL>::next(&self.groups.records, group)
    }

    /// Forgets a group in whatever state it is, and its answer. Its faults are left to the caller.
    pub(super) fn abandon(&mut self, index: u32) -> Group {
        let group = self.groups.get(index).clone();
        let answered = !group.open && group.faults.is_empty();
        if let Some(slot) = self.channels[group.channel as usize].as_mut() {
            if slot.open == Some(index) {
                slot.open = None;
            }
            if answered {
                slot.answers.remove(&mut self.groups.records, index);
            }
        }
        self.forget_group(index)
    }

    /// Begins a group; `None` if there are too many.
    pub(super) fn open_group(
        &mut self,
        channel: u32,
        cookie: u32,
        dev_id: u32,
        page_request: bool,
    ) -> Option<u32> {
        let slot = self.channels.get_mut(channel as usize)?.as_mut()?;
        let index = self.groups.begin(channel, cookie, dev_id, page_request)?;
        slot.open = Some(index);
        slot.groups.push_back(&mut self.groups.records, index);
        Some(index)
    }

    /// What is saved of a group.
    pub(super) fn saved(&self, index: u32) -> Option<SavedGroup> {
        let group = self.groups.records.lookup(index)?;
        let channel = self.get(group.channel)?;
        Some(SavedGroup {
            channel: channel.number,
            cookie: group.cookie,
            dev_id: group.dev_id,
            records: group.records,
            code: group.code,
            open: group.open,
            refused: group.refused,
            page_request: group.page_request,
            order: group.order,
        })
    }

    pub(super) fn groups_len(&self) -> u32 {
        self.groups.records.len()
    }

    /// Whether there is no channel.
    pub(super) fn is_empty(&self) -> bool {
        self.channels.iter().all(Option::is_none)
    }

    /// Keeps the place of a group that was saved.
    pub(super) fn reserve(&mut self, index: u32) {
        self.groups.reserve(index);
    }

    /// Gives up a place that was kept.
    pub(super) fn give_up(&mut self, index: u32) {
        self.groups.give_up(index);
    }

    /// Puts a group that was saved into the place that was kept for it.
    pub(super) fn install(&mut self, index: u32, saved: &SavedGroup, channel: u32) {
        let Some(slot) = self
            .channels
            .get_mut(channel as usize)
            .and_then(Option::as_mut)
        else {
            return;
        };
        self.groups.restore(index, saved, channel);
        if saved.open {
            slot.open = Some(index);
        }
        slot.groups.push_back(&mut self.groups.records, index);
    }

    /// The last record of the channel's open group has been read, or none is wanted any more.
    pub(super) fn close_group(&mut self, channel: u32) {
        let Some(slot) = self.get_mut(channel) else {
            return;
        };
        if let Some(group) = slot.open.take() {
            self.group_mut(group).open = false;
            self.queue_answer_if_complete(group);
        }
    }

    /// Refuses the open group of `channel`, if it is of the device with this `dev_id`.
    pub(super) fn refuse_open_group(&mut self, channel: u32, dev_id: u32) {
        let Some(group) = self.get(channel).and_then(|channel| channel.open) else {
            return;
        };
        let group = self.group_mut(group);
        if group.dev_id == dev_id {
            group.refused = true;
            group.code = ResponseCode::Invalid;
        }
    }

    /// One fault of the group was answered, and is not in its list any more. INVALID wins. Returns
    /// the channel's number.
    pub(super) fn answer_one(&mut self, group: u32, code: ResponseCode) -> u32 {
        if code == ResponseCode::Invalid {
            self.group_mut(group).code = code;
        }
        let channel = self.group(group).channel;
        self.queue_answer_if_complete(group);
        self.get(channel).map_or(NIL, |slot| slot.number)
    }

    /// Queues the group's answer if nothing is missing.
    pub(super) fn queue_answer_if_complete(&mut self, group: u32) {
        let record = self.groups.get(group);
        if record.open || !record.faults.is_empty() {
            return;
        }
        let channel = record.channel;
        if let Some(slot) = self.channels[channel as usize].as_mut() {
            slot.answers.push_back(&mut self.groups.records, group);
        }
        self.want_write(channel);
    }

    /// The groups whose answers are to be written, in order.
    pub(super) fn answers(&self, channel: u32) -> impl Iterator<Item = &Group> {
        self.get(channel)
            .into_iter()
            .flat_map(|channel| channel.answers.iter(&self.groups.records))
            .map(|index| self.groups.get(index))
    }

    /// Forgets the next group whose answer is to be written.
    pub(super) fn pop_answer(&mut self, channel: u32) -> Option<Group> {
        let slot = self.channels.get_mut(channel as usize)?.as_mut()?;
        let index = slot.answers.front()?;
        slot.answers.remove(&mut self.groups.records, index);
        Some(self.forget_group(index))
    }

    /// Closes a channel that has neither devices nor answers to write.
    pub(super) fn close_if_unused(&mut self, channel: u32) {
        let unused = self.get(channel).filter(|slot| slot.is_unused());
        if let Some(number) = unused.map(|slot| slot.number) {
            self.close(channel);
            // There are more only if nobody takes them.
            if self.closes.len() == self.closes.capacity() {
                self.closes.pop_front();
            }
            self.closes.push_back(number);
        }
    }

    /// Closes a channel with all its groups and returns how many records they had.
    pub(super) fn drop_channel(&mut self, channel: u32) -> u32 {
        let mut dropped = 0;
        while let Some(index) = self.get(channel).and_then(|slot| slot.groups.front()) {
            dropped += self.forget_group(index).records;
        }
        self.close(channel);
        dropped
    }

    fn close(&mut self, channel: u32) {
        self.set_blocked(channel, None);
        self.writes.retain(|due| *due != channel);
        if let Some(closed) = self.channels[channel as usize].take() {
            self.numbers.remove(closed.number.into(), channel);
        }
    }

    fn forget_group(&mut self, index: u32) -> Group {
        let group = self.groups.get(index).clone();
        if let Some(slot) = self.channels[group.channel as usize].as_mut() {
            slot.groups.remove(&mut self.groups.records, index);
        }
        self.groups.remove(index);
        group
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_drop_channel_with_open_group_frees_everything() {
        let mut channels = Channels::new(1, 4);
        let channel = channels.open(7).unwrap();
        let group = channels.open_group(channel, 1, 0, false).unwrap();
        channels.group_mut(group).records = 3;

        assert_eq!(channels.drop_channel(channel), 3);

        assert_eq!(channels.find(7), None);
        assert_eq!(channels.free_groups(), 6);
    }
}
