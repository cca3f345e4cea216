// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Fault channels and the groups of faults that they name by cookies.

use std::collections::VecDeque;

use super::fault_table::BY_GROUP;
use super::index::Index;
use super::saved::{Changes, SavedGroup};
use super::table::{Linked, Links, List, Table, NIL};
use crate::wire::ResponseCode;

/// List of all groups of a channel.
const BY_CHANNEL: usize = 0;
/// List of the groups of a channel whose answer is to be written.
const ANSWERED: usize = 1;

/// A group of faults that share one cookie and one answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Group {
    links: [Links; 2],
    hash_next: u32,
    pub(super) channel: u32,
    pub(super) cookie: u32,
    pub(super) dev_id: u32,
    /// Records read.
    pub(super) records: u32,
    /// The faults that the guest has not answered.
    pub(super) faults: List<BY_GROUP>,
    pub(super) code: ResponseCode,
    /// Its last record has not been read.
    pub(super) open: bool,
    /// Its further records do not reach the guest.
    pub(super) refused: bool,
    /// The guest answers it as a whole, and not before it is complete.
    pub(super) page_request: bool,
    /// Its answer may have been written by a process that has ended.
    pub(super) recovered: bool,
    /// Place in the order in which groups were begun, if it is saved.
    order: u64,
}

impl Group {
    const BLANK: Self = Self {
        links: [Links::NONE; 2],
        hash_next: NIL,
        channel: NIL,
        cookie: 0,
        dev_id: 0,
        records: 0,
        faults: List::new(),
        code: ResponseCode::Success,
        open: false,
        refused: false,
        page_request: false,
        recovered: false,
        order: 0,
    };
}

impl Linked for Group {
    fn links(&self) -> &[Links] {
        &self.links
    }

    fn links_mut(&mut self) -> &mut [Links] {
        &mut self.links
    }
}

/// A fault channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Channel {
    pub(super) number: u32,
    /// Devices attached to it.
    pub(super) devices: u32,
    /// Read until empty since the last thing that could have put something into it.
    pub(super) empty: bool,
    /// A record of it found no room: [`Channels::set_blocked`].
    pub(super) blocked: Option<Blocked>,
    /// Devices of it that are held: it is neither read nor written.
    pub(super) held: u32,
    /// Its other end is the kernel, which aborts faults by itself when a page table is replaced.
    pub(super) kernel: bool,
    /// It is of the time before a reset, and so are the answers that it has yet to get.
    pub(super) left_over: bool,
    /// The group whose last record has not been read.
    pub(super) open: Option<u32>,
    pub(super) read: ReadJob,
    pub(super) write: WriteJob,
    groups: List<BY_CHANNEL>,
    answers: List<ANSWERED>,
}

/// Whether the channel is to be read though poll may not report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ReadJob {
    /// Only if it finds room after [`Channel::blocked`], or a drain must know whether it is empty.
    None,
    /// Yes: it was not read while its devices were held, or gone.
    Due,
    /// A thread has been told to, and has not said yet what it found.
    GivenOut,
}

/// Where the answers of a channel are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum WriteJob {
    /// Nobody has been told to write.
    None,
    /// The channel is in [`Channels::writes`].
    Due,
    /// A thread takes and writes them.
    GivenOut,
    /// The socket takes none.
    Blocked,
}

impl Channel {
    /// How many answers are to be written.
    pub(super) fn answers_len(&self) -> u32 {
        self.answers.len()
    }

    /// Something may have come since the channel was read.
    pub(super) fn may_have_more(&mut self) {
        self.empty = false;
        if self.read == ReadJob::GivenOut {
            self.read = ReadJob::None;
        }
    }

    /// Whether a drain must know if something is left in it.
    pub(super) fn is_unread(&self) -> bool {
        !self.empty && self.blocked.is_none() && self.held == 0
    }
}

/// What a record found no room in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Blocked {
    /// The table of groups.
    Groups,
    /// The table of faults, or the limit of this device.
    Faults { device: u32 },
}

/// The channels, by index, and their groups.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Channels {
    channels: Box<[Option<Channel>]>,
    numbers: Index,
    groups: Table<Group>,
    buckets: Box<[u32]>,
    /// Channels that are blocked.
    blocked: u32,
    /// Channels that have answers for a thread to write.
    writes: VecDeque<u32>,
    /// No channel has [`ReadJob::Due`] if this is false.
    reads_due: bool,
    /// Numbers of channels that have been closed, as nobody uses them, and that the shell is to
    /// close.
    closes: VecDeque<u32>,
    pub(super) changes: Changes,
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
            groups: Table::new(groups, Group::BLANK),
            buckets: vec![NIL; groups.next_power_of_two() as usize].into_boxed_slice(),
            blocked: 0,
            writes: VecDeque::with_capacity(channels as usize),
            reads_due: false,
            closes: VecDeque::with_capacity(channels as usize),
            changes: Changes::default(),
        }
    }

    /// Nothing of the past is left in free records.
    #[cfg(feature = "model")]
    pub(super) fn scrub(&mut self) {
        self.groups.scrub(&Group::BLANK);
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
        *slot = Some(Channel {
            number,
            devices: 0,
            empty: false,
            blocked: None,
            held: 0,
            kernel: false,
            left_over: false,
            open: None,
            read: ReadJob::None,
            write: WriteJob::None,
            groups: List::new(),
            answers: List::new(),
        });
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
        self.groups.free_len()
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
        self.groups.is_unused()
    }

    pub(super) fn group(&self, group: u32) -> &Group {
        self.groups.get(group)
    }

    pub(super) fn group_mut(&mut self, group: u32) -> &mut Group {
        self.changes.note(group);
        self.groups.get_mut(group)
    }

    /// The group with this cookie that has not been answered.
    pub(super) fn by_cookie(&self, channel: u32, cookie: u32) -> Option<u32> {
        let mut index = self.buckets[self.bucket(channel, cookie)];
        while index != NIL {
            let group = self.groups.get(index);
            if group.channel == channel && group.cookie == cookie {
                return Some(index);
            }
            index = group.hash_next;
        }
        None
    }

    /// The oldest group of the channel.
    pub(super) fn first_group(&self, channel: u32) -> Option<u32> {
        self.get(channel)?.groups.front()
    }

    /// The group of the same channel that came after `group`.
    pub(super) fn next_group(&self, group: u32) -> Option<u32> {
        List::<BY_CHANNEL>::next(&self.groups, group)
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
                slot.answers.remove(&mut self.groups, index);
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
        let index = self.groups.alloc()?;
        slot.open = Some(index);
        slot.groups.push_back(&mut self.groups, index);
        let bucket = self.bucket(channel, cookie);
        let group = self.groups.get_mut(index);
        group.hash_next = std::mem::replace(&mut self.buckets[bucket], index);
        group.channel = channel;
        group.cookie = cookie;
        group.dev_id = dev_id;
        group.records = 0;
        group.faults = List::new();
        group.code = ResponseCode::Success;
        group.open = true;
        group.refused = false;
        group.page_request = page_request;
        group.recovered = false;
        group.order = self.changes.next_order();
        self.changes.note(index);
        Some(index)
    }

    /// What is saved of a group.
    pub(super) fn saved(&self, index: u32) -> Option<SavedGroup> {
        let group = self.groups.lookup(index)?;
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
        self.groups.len()
    }

    /// Whether there is no channel.
    pub(super) fn is_empty(&self) -> bool {
        self.channels.iter().all(Option::is_none)
    }

    /// Keeps the place of a group that was saved.
    pub(super) fn reserve(&mut self, index: u32) {
        self.groups.alloc_at(index);
    }

    /// Gives up a place that was kept.
    pub(super) fn give_up(&mut self, index: u32) {
        self.changes.note(index);
        self.groups.release(index);
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
        if saved.open {
            slot.open = Some(index);
        }
        slot.groups.push_back(&mut self.groups, index);
        let bucket = self.bucket(channel, saved.cookie);
        let group = self.groups.get_mut(index);
        group.hash_next = std::mem::replace(&mut self.buckets[bucket], index);
        group.channel = channel;
        group.cookie = saved.cookie;
        group.dev_id = saved.dev_id;
        group.records = saved.records;
        group.faults = List::new();
        group.code = saved.code;
        group.open = saved.open;
        group.refused = saved.refused;
        group.page_request = saved.page_request;
        group.recovered = true;
        group.order = saved.order;
        self.changes.note(index);
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
        let record = self.group_mut(group);
        if code == ResponseCode::Invalid {
            record.code = code;
        }
        let channel = record.channel;
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
            slot.answers.push_back(&mut self.groups, group);
        }
        self.want_write(channel);
    }

    /// The groups whose answers are to be written, in order.
    pub(super) fn answers(&self, channel: u32) -> impl Iterator<Item = &Group> {
        self.get(channel)
            .into_iter()
            .flat_map(|channel| channel.answers.iter(&self.groups))
            .map(|index| self.groups.get(index))
    }

    /// Forgets the next group whose answer is to be written.
    pub(super) fn pop_answer(&mut self, channel: u32) -> Option<Group> {
        let slot = self.channels.get_mut(channel as usize)?.as_mut()?;
        let index = slot.answers.front()?;
        slot.answers.remove(&mut self.groups, index);
        Some(self.forget_group(index))
    }

    /// Closes a channel that has neither devices nor answers to write.
    pub(super) fn close_if_unused(&mut self, channel: u32) {
        let unused = |slot: &Channel| slot.devices == 0 && slot.groups.is_empty();
        if let Some(number) = self
            .get(channel)
            .filter(|slot| unused(slot))
            .map(|slot| slot.number)
        {
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
        self.unhash(index, &group);
        if let Some(slot) = self.channels[group.channel as usize].as_mut() {
            slot.groups.remove(&mut self.groups, index);
        }
        self.groups.get_mut(index).channel = NIL;
        self.groups.release(index);
        self.changes.note(index);
        group
    }

    fn unhash(&mut self, index: u32, group: &Group) {
        let bucket = self.bucket(group.channel, group.cookie);
        if self.buckets[bucket] == index {
            self.buckets[bucket] = group.hash_next;
            return;
        }
        let mut before = self.buckets[bucket];
        while before != NIL {
            let next = self.groups.get(before).hash_next;
            if next == index {
                self.groups.get_mut(before).hash_next = group.hash_next;
                return;
            }
            before = next;
        }
    }

    /// Cookies are small numbers given in order, so that they spread well as they are.
    fn bucket(&self, channel: u32, cookie: u32) -> usize {
        let hash = cookie.wrapping_add(channel.wrapping_mul(0x9e37_79b9));
        hash as usize & (self.buckets.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_cookie_in_crowded_bucket_is_found_until_forgotten() {
        let mut channels = Channels::new(1, 4);
        let buckets = u32::try_from(channels.buckets.len()).unwrap();
        let channel = channels.open(7).unwrap();
        for n in 0..4 {
            channels
                .open_group(channel, 1 + n * buckets, 0, false)
                .unwrap();
            channels.close_group(channel);
        }
        assert!(channels.by_cookie(channel, 1 + 2 * buckets).is_some());
        assert!(channels.by_cookie(channel, 2).is_none());

        for n in 0..4 {
            assert_eq!(
                channels.pop_answer(channel).unwrap().cookie,
                1 + n * buckets
            );
            assert!(channels.by_cookie(channel, 1 + n * buckets).is_none());
        }

        assert!(channels.pop_answer(channel).is_none());
        assert_eq!(channels.free_groups(), 6);
        assert!(channels.buckets.iter().all(|bucket| *bucket == NIL));
    }

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
