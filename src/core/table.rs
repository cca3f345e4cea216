// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tables of fixed size, and lists threaded through their records.

use zerocopy::FromZeros;

/// Index that stands for none.
pub(super) const NIL: u32 = u32::MAX;

/// Place of a record in one list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Links {
    prev: u32,
    next: u32,
}

impl Links {
    pub(super) const NONE: Self = Self {
        prev: NIL,
        next: NIL,
    };
}

/// A record that can be in several lists at once, one for each of its links.
pub(super) trait Linked {
    fn links(&self) -> &[Links];
    fn links_mut(&mut self) -> &mut [Links];
}

/// A list through link number `K` of the records of one table.
///
/// One that is empty is all zero, so that many of them can be had without touching memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, FromZeros)]
pub(super) struct List<const K: usize> {
    /// Their indices and 1, 0 for none.
    head: u32,
    tail: u32,
    len: u32,
}

/// An index, or [`NIL`], as it is where none is 0.
pub(super) fn shifted(index: u32) -> u32 {
    index.wrapping_add(1)
}

/// The reverse of [`shifted`].
pub(super) fn unshifted(place: u32) -> u32 {
    place.wrapping_sub(1)
}

impl<const K: usize> List<K> {
    pub(super) const fn new() -> Self {
        Self {
            head: 0,
            tail: 0,
            len: 0,
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn front(&self) -> Option<u32> {
        (self.head != 0).then_some(unshifted(self.head))
    }

    pub(super) fn next<T: Linked>(table: &Table<T>, index: u32) -> Option<u32> {
        let next = table.get(index).links()[K].next;
        (next != NIL).then_some(next)
    }

    pub(super) fn iter<'a, T: Linked>(
        &self,
        table: &'a Table<T>,
    ) -> impl Iterator<Item = u32> + use<'a, T, K> {
        std::iter::successors(self.front(), move |index| Self::next(table, *index))
    }

    pub(super) fn push_back<T: Linked>(&mut self, table: &mut Table<T>, index: u32) {
        table.get_mut(index).links_mut()[K] = Links {
            prev: unshifted(self.tail),
            next: NIL,
        };
        if self.tail == 0 {
            self.head = shifted(index);
        } else {
            table.get_mut(unshifted(self.tail)).links_mut()[K].next = index;
        }
        self.tail = shifted(index);
        self.len += 1;
    }

    pub(super) fn remove<T: Linked>(&mut self, table: &mut Table<T>, index: u32) {
        let Links { prev, next } =
            std::mem::replace(&mut table.get_mut(index).links_mut()[K], Links::NONE);
        if prev == NIL {
            self.head = shifted(next);
        } else {
            table.get_mut(prev).links_mut()[K].next = next;
        }
        if next == NIL {
            self.tail = shifted(prev);
        } else {
            table.get_mut(next).links_mut()[K].prev = prev;
        }
        self.len -= 1;
    }

    fn pop_front<T: Linked>(&mut self, table: &mut Table<T>) -> Option<u32> {
        let index = self.front()?;
        self.remove(table, index);
        Some(index)
    }
}

/// Records that never move.
///
/// Link 0 of a record threads the free list while it is free. Freed records are used again last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Table<T> {
    /// Those that have been used, so that the memory of the others is not touched. There is room
    /// for `len`.
    records: Vec<T>,
    free: List<0>,
    blank: T,
    len: u32,
}

impl<T: Linked + Clone> Table<T> {
    pub(super) fn new(len: u32, blank: T) -> Self {
        Self {
            records: Vec::with_capacity(len as usize),
            free: List::new(),
            blank,
            len,
        }
    }

    pub(super) fn alloc(&mut self) -> Option<u32> {
        let fresh = self.used_len();
        if fresh < self.len {
            self.records.push(self.blank.clone());
            return Some(fresh);
        }
        let mut free = std::mem::replace(&mut self.free, List::new());
        let index = free.pop_front(self);
        self.free = free;
        index
    }

    /// Takes the record with this index, which is free.
    pub(super) fn alloc_at(&mut self, index: u32) {
        self.unfold();
        let mut free = std::mem::replace(&mut self.free, List::new());
        free.remove(self, index);
        self.free = free;
    }

    /// Puts those that have not been used into the free list, before the others.
    fn unfold(&mut self) {
        if self.used_len() == self.len {
            return;
        }
        let mut released = std::mem::replace(&mut self.free, List::new());
        while self.used_len() < self.len {
            let index = self.used_len();
            self.records.push(self.blank.clone());
            self.release(index);
        }
        while let Some(index) = released.pop_front(self) {
            self.release(index);
        }
    }

    /// Puts a blank into every free record.
    #[cfg(feature = "model")]
    pub(super) fn scrub(&mut self) {
        self.unfold();
        let free: Vec<u32> = self.free.iter(self).collect();
        for index in free {
            let links = self.get(index).links()[0];
            *self.get_mut(index) = self.blank.clone();
            self.get_mut(index).links_mut()[0] = links;
        }
    }
}

impl<T: Linked> Table<T> {
    fn used_len(&self) -> u32 {
        u32::try_from(self.records.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn free_len(&self) -> u32 {
        self.free.len() + (self.len - self.used_len())
    }

    /// Whether every record is free.
    pub(super) fn is_unused(&self) -> bool {
        self.free.len() == self.used_len()
    }

    pub(super) fn release(&mut self, index: u32) {
        let mut free = std::mem::replace(&mut self.free, List::new());
        free.push_back(self, index);
        self.free = free;
    }

    pub(super) fn get(&self, index: u32) -> &T {
        #[cfg(test)]
        visits::note();
        &self.records[index as usize]
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut T {
        #[cfg(test)]
        visits::note();
        &mut self.records[index as usize]
    }

    pub(super) fn lookup(&self, index: u32) -> Option<&T> {
        self.records.get(index as usize)
    }
}

/// How often records are looked at, so that tests can tell how a step's work grows.
#[cfg(test)]
pub(super) mod visits {
    use std::cell::Cell;

    thread_local!(static COUNT: Cell<u64> = const { Cell::new(0) });

    pub(super) fn note() {
        COUNT.set(COUNT.get() + 1);
    }

    /// The visits of this thread, to the tables of all cores.
    pub(in crate::core) fn of(step: impl FnOnce()) -> u64 {
        let before = COUNT.get();
        step();
        COUNT.get() - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Record([Links; 2]);

    impl Linked for Record {
        fn links(&self) -> &[Links] {
            &self.0
        }

        fn links_mut(&mut self) -> &mut [Links] {
            &mut self.0
        }
    }

    fn table(len: u32) -> Table<Record> {
        Table::new(len, Record([Links::NONE; 2]))
    }

    fn used_table(len: u32) -> Table<Record> {
        let mut table = table(len);
        (0..len).for_each(|index| assert_eq!(table.alloc(), Some(index)));
        table
    }

    #[test]
    fn test_alloc_after_release_reuses_the_oldest_first() {
        let mut table = table(3);

        let first = [table.alloc(), table.alloc()];
        table.release(1);
        table.release(0);
        let then = [table.alloc(), table.alloc(), table.alloc(), table.alloc()];

        assert_eq!(first, [Some(0), Some(1)]);
        assert_eq!(then, [Some(2), Some(1), Some(0), None]);
        assert_eq!(table.free_len(), 0);
    }

    #[test]
    fn test_record_taken_by_its_index_leaves_the_order_of_the_others() {
        let mut table = table(5);
        let first = table.alloc();
        table.release(0);
        table.alloc_at(3);

        let then: Vec<_> = std::iter::from_fn(|| table.alloc()).collect();

        assert_eq!(first, Some(0));
        assert_eq!(then, [1, 2, 4, 0]);
    }

    #[test]
    fn test_list_remove_head_middle_tail_keeps_order() {
        let mut table = used_table(5);
        let mut list = List::<1>::new();
        for index in [4, 2, 0, 1, 3] {
            list.push_back(&mut table, index);
        }

        list.remove(&mut table, 0);
        let middle: Vec<u32> = list.iter(&table).collect();
        list.remove(&mut table, 4);
        list.remove(&mut table, 3);
        let ends: Vec<u32> = list.iter(&table).collect();

        assert_eq!(middle, [4, 2, 1, 3]);
        assert_eq!(ends, [2, 1]);
        assert_eq!(list.len(), 2);
    }

    #[test]
    fn test_list_emptied_accepts_records_again() {
        let mut table = used_table(1);
        let mut list = List::<1>::new();
        list.push_back(&mut table, 0);
        list.remove(&mut table, 0);
        assert!(list.is_empty());
        assert_eq!(list.front(), None);

        list.push_back(&mut table, 0);

        assert_eq!(list.front(), Some(0));
    }
}
