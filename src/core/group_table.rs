// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The groups of all channels, found by the cookie that the kernel has given them.

use super::fault_table::BY_GROUP;
use super::group::Group;
use super::saved::{Changes, SavedGroup};
use super::table::{shifted, unshifted, List, Table, NIL};

/// Groups by index, and by channel and cookie.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Groups {
    /// The lists of a channel are threaded through it.
    pub(super) records: Table<Group>,
    /// The first group of each and 1, 0 for none: memory that is not used is not touched.
    buckets: Box<[u32]>,
    pub(super) changes: Changes,
}

impl Groups {
    pub(super) fn new(max: u32) -> Self {
        Self {
            records: Table::new(max, Group::BLANK),
            buckets: vec![0; max.next_power_of_two() as usize].into_boxed_slice(),
            changes: Changes::default(),
        }
    }

    /// Nothing of the past is left in free records.
    #[cfg(feature = "model")]
    pub(super) fn scrub(&mut self) {
        self.records.scrub();
    }

    pub(super) fn get(&self, index: u32) -> &Group {
        self.records.get(index)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut Group {
        self.changes.note(index);
        self.records.get_mut(index)
    }

    /// The list of its faults, which is not saved.
    pub(super) fn faults_mut(&mut self, index: u32) -> &mut List<BY_GROUP> {
        &mut self.records.get_mut(index).faults
    }

    /// The group with this cookie that has not been answered.
    pub(super) fn find(&self, channel: u32, cookie: u32) -> Option<u32> {
        let mut index = unshifted(self.buckets[self.bucket(channel, cookie)]);
        while index != NIL {
            let group = self.records.get(index);
            if group.channel == channel && group.cookie == cookie {
                return Some(index);
            }
            index = group.hash_next;
        }
        None
    }

    /// Begins a group; `None` if there are too many.
    pub(super) fn begin(
        &mut self,
        channel: u32,
        cookie: u32,
        dev_id: u32,
        page_request: bool,
    ) -> Option<u32> {
        let index = self.records.alloc()?;
        let new = Group {
            channel,
            cookie,
            dev_id,
            open: true,
            page_request,
            order: self.changes.next_order(),
            ..Group::BLANK
        };
        self.put(index, new);
        Some(index)
    }

    /// Keeps the place of a group that was saved.
    pub(super) fn reserve(&mut self, index: u32) {
        self.records.alloc_at(index);
    }

    /// Gives up a place that was kept.
    pub(super) fn give_up(&mut self, index: u32) {
        self.changes.note(index);
        self.records.release(index);
    }

    /// Puts a group that was saved into the place that was kept for it.
    pub(super) fn restore(&mut self, index: u32, saved: &SavedGroup, channel: u32) {
        let restored = Group {
            channel,
            cookie: saved.cookie,
            dev_id: saved.dev_id,
            records: saved.records,
            code: saved.code,
            open: saved.open,
            refused: saved.refused,
            page_request: saved.page_request,
            recovered: true,
            order: saved.order,
            ..Group::BLANK
        };
        self.put(index, restored);
    }

    /// Into a record that is in no list.
    fn put(&mut self, index: u32, group: Group) {
        let bucket = self.bucket(group.channel, group.cookie);
        let hash_next = unshifted(std::mem::replace(&mut self.buckets[bucket], shifted(index)));
        *self.records.get_mut(index) = Group { hash_next, ..group };
        self.changes.note(index);
    }

    /// Forgets a group that is in no list any more.
    pub(super) fn remove(&mut self, index: u32) {
        let Group {
            channel,
            cookie,
            hash_next,
            ..
        } = *self.records.get(index);
        self.unhash(index, self.bucket(channel, cookie), hash_next);
        self.records.get_mut(index).channel = NIL;
        self.records.release(index);
        self.changes.note(index);
    }

    fn unhash(&mut self, index: u32, bucket: usize, hash_next: u32) {
        if self.buckets[bucket] == shifted(index) {
            self.buckets[bucket] = shifted(hash_next);
            return;
        }
        let mut before = unshifted(self.buckets[bucket]);
        while before != NIL {
            let next = self.records.get(before).hash_next;
            if next == index {
                self.records.get_mut(before).hash_next = hash_next;
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
        let mut groups = Groups::new(4);
        let buckets = u32::try_from(groups.buckets.len()).unwrap();
        let begun = [0, 1, 2, 3].map(|n| groups.begin(0, 1 + n * buckets, 0, false).unwrap());
        assert_eq!(groups.begin(0, 2, 0, false), None);
        assert_eq!(groups.find(0, 1 + 2 * buckets), Some(begun[2]));
        assert_eq!(groups.find(0, 2), None);
        assert_eq!(groups.find(1, 1), None);

        for n in [1, 3, 0, 2] {
            groups.remove(begun[n as usize]);
            assert_eq!(groups.find(0, 1 + n * buckets), None);
        }

        assert!(groups.records.is_unused());
        assert!(groups.buckets.iter().all(|bucket| *bucket == 0));
    }
}
