// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Some words that one thread writes and others read as of one moment, and no one waits.

use std::sync::atomic::{
    fence, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use zerocopy::FromZeros;

/// Adds to a word that one thread writes at a time: what is read is what that thread has written.
pub fn add(word: &AtomicU64, more: u64) {
    word.store(word.load(Relaxed).wrapping_add(more), Relaxed);
}

/// How often a reader begins anew; a writer needs well under a microsecond.
const ATTEMPTS: usize = 1000;

/// Words under a sequence lock.
#[derive(Debug, FromZeros)]
pub struct Cell<const N: usize> {
    sequence: AtomicU64,
    words: [AtomicU64; N],
}

impl<const N: usize> Default for Cell<N> {
    fn default() -> Self {
        Cell {
            sequence: AtomicU64::new(0),
            words: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl<const N: usize> Cell<N> {
    /// Writes the words. There is one writer at a time.
    pub fn store(&self, words: &[u64; N]) {
        let sequence = self.sequence.load(Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Relaxed);
        fence(Release);
        for (place, word) in self.words.iter().zip(words) {
            place.store(*word, Relaxed);
        }
        self.sequence.store(sequence.wrapping_add(2), Release);
    }

    /// The words; `None` if they were being written each time, as by a thread that does not run.
    pub fn load(&self) -> Option<[u64; N]> {
        (0..ATTEMPTS).find_map(|_| {
            let before = self.sequence.load(Acquire);
            let words = std::array::from_fn(|index| self.words[index].load(Relaxed));
            fence(Acquire);
            if before % 2 == 0 && self.sequence.load(Relaxed) == before {
                return Some(words);
            }
            std::thread::yield_now();
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn test_words_that_are_read_while_they_are_written_are_of_one_moment() {
        let (cell, done) = (Cell::<4>::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..50_000_u64).for_each(|n| cell.store(&[n; 4]));
                done.store(true, Release);
            });
            while !done.load(Acquire) {
                if let Some([a, b, c, d]) = cell.load() {
                    assert!(a == b && b == c && c == d);
                }
            }
        });
        assert_eq!(cell.load(), Some([49_999; 4]));
    }
}
