// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Records of a table found by a key that somebody else has chosen.

use super::table::NIL;

/// Finds the places of records by their keys, in constant time and without allocating.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Index {
    buckets: Box<[u32]>,
    /// By place: the next place in the bucket.
    next: Box<[u32]>,
    /// By place: its key, 0 if it has none.
    keys: Box<[u64]>,
}

impl Index {
    /// For places below `places`.
    pub(super) fn new(places: u32) -> Self {
        let buckets = (places * 2).next_power_of_two() as usize;
        Self {
            buckets: vec![NIL; buckets].into_boxed_slice(),
            next: vec![NIL; places as usize].into_boxed_slice(),
            keys: vec![0; places as usize].into_boxed_slice(),
        }
    }

    /// Gives a key to a place that has none, and that no other place has.
    pub(super) fn insert(&mut self, key: u64, place: u32) {
        let bucket = self.bucket(key);
        self.keys[place as usize] = key;
        self.next[place as usize] = std::mem::replace(&mut self.buckets[bucket], place);
    }

    /// Takes the key of a place away, if it has this one.
    pub(super) fn remove(&mut self, key: u64, place: u32) {
        let bucket = self.bucket(key);
        let after = self.next[place as usize];
        if self.buckets[bucket] == place {
            self.buckets[bucket] = after;
        } else {
            let Some(before) = self
                .chain(bucket)
                .find(|at| self.next[*at as usize] == place)
            else {
                return;
            };
            self.next[before as usize] = after;
        }
        self.next[place as usize] = NIL;
        self.keys[place as usize] = 0;
    }

    /// The place that has the key.
    pub(super) fn get(&self, key: u64) -> Option<u32> {
        self.chain(self.bucket(key))
            .find(|place| self.keys[*place as usize] == key)
    }

    fn chain(&self, bucket: usize) -> impl Iterator<Item = u32> + '_ {
        let place = |place: u32| (place != NIL).then_some(place);
        std::iter::successors(place(self.buckets[bucket]), move |at| {
            place(self.next[*at as usize])
        })
    }

    /// Whoever chooses the keys finds what is its own with them, so it slows down nobody else.
    fn bucket(&self, key: u64) -> usize {
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let mask = self.buckets.len() as u64 - 1;
        usize::try_from(hash & mask).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_places_are_found_by_their_keys_until_these_are_removed() {
        let mut index = Index::new(64);
        let key = |place: u32| u64::from(place) * 0x1_0000_0001;
        for place in 0..64 {
            index.insert(key(place), place);
        }
        let found = (0..64).all(|place| index.get(key(place)) == Some(place));
        for place in (0..64).step_by(2) {
            index.remove(key(place), place);
        }

        let odd = |place: u32| (place % 2 == 1).then_some(place);
        assert!(found);
        assert!((0..64).all(|place| index.get(key(place)) == odd(place)));
        assert_eq!(index.get(5), None);
        for place in (1..64).step_by(2) {
            index.remove(key(place), place);
        }
        assert_eq!(index, Index::new(64));
    }

    #[test]
    fn test_remove_of_a_key_that_the_place_has_not_changes_nothing() {
        let mut index = Index::new(4);
        index.insert(7, 1);
        let before = index.clone();

        index.remove(7, 2);
        index.remove(8, 3);

        assert_eq!(index, before);
    }
}
