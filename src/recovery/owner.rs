// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who may use what an area stands for.
//!
//! A process that hangs is given up, and another one goes on. When the first is continued later
//! (SIGCONT, its memory swapped in again) it still has the fault files. So the area says whose it
//! is: a process that goes on writes its own number there before it looks at anything else, and
//! whoever had it before looks there before each read, each write and each step, and ends when it
//! finds another number.

use std::sync::atomic::{fence, Ordering};

use super::{
    area::{Area, Words},
    layout::head,
    point,
};

/// The right of one process to an area.
#[derive(Clone)]
pub struct Owner {
    area: Area,
    instance: u64,
}

impl Owner {
    /// Takes the right to `area` from whoever has it.
    pub fn take(area: &Area, instance: u64) -> Self {
        point("store");
        area.store(head::INSTANCE, instance);
        // Before anything of the area is read.
        fence(Ordering::SeqCst);
        Self {
            area: area.clone(),
            instance,
        }
    }

    /// Gives the right back to whoever had it: nothing has been done.
    pub fn give_back(self, instance: u64) {
        self.area.store(head::INSTANCE, instance);
    }

    /// For a number of stores.
    #[inline]
    pub fn writer(&self) -> Writer<'_> {
        Writer {
            words: self.area.words(),
            instance: self.instance,
        }
    }

    /// Stores a word.
    pub fn store(&self, word: usize, value: u64) {
        self.writer().store(word, value);
    }

    /// The area.
    pub fn area(&self) -> &Area {
        &self.area
    }

    /// Whether no other process has taken the right. An area of zeros is nobody's.
    #[inline]
    pub fn is_in_force(&self) -> bool {
        self.writer().is_in_force()
    }

    /// Ends the process if another one has taken the right.
    #[inline]
    pub fn check(&self) {
        if !self.is_in_force() {
            give_way(0);
        }
    }

    /// The same after `records` have been read, which may be known to nobody else.
    #[inline]
    pub fn check_after_read(&self, records: usize) {
        if !self.is_in_force() {
            give_way(records);
        }
    }
}

/// The words of an area whose owner looks before each store whether it still is.
#[derive(Clone, Copy)]
pub struct Writer<'a> {
    words: Words<'a>,
    instance: u64,
}

impl Writer<'_> {
    #[inline]
    fn is_in_force(&self) -> bool {
        let instance = self.words.load(head::INSTANCE);
        instance == self.instance || instance == 0
    }

    /// A word.
    #[inline]
    pub fn load(&self, word: usize) -> u64 {
        self.words.load(word)
    }

    /// Stores a word.
    #[inline]
    pub fn store(&self, word: usize, value: u64) {
        point("store");
        if !self.is_in_force() {
            give_way(0);
        }
        self.words.store(word, value);
    }

    /// Stores words that follow each other.
    #[inline]
    pub fn store_all(&self, first: usize, values: &[u64]) {
        for (place, value) in self.words.from(first).iter().zip(values) {
            point("store");
            if !self.is_in_force() {
                give_way(0);
            }
            super::area::put(place, *value);
        }
    }
}

/// Ends the process at once: nothing is answered, and no file is removed, as they are another's.
#[cold]
#[cfg(not(test))]
fn give_way(records: usize) -> ! {
    use std::sync::Mutex;

    // Only one thread ends it.
    static ENDING: Mutex<()> = Mutex::new(());
    let _ending = crate::lock::lock(&ENDING);
    let read = if records > 0 {
        format!("; {records} faults were being read, the other one may not know them")
    } else {
        String::new()
    };
    let text = "another process has taken over the recovery area, this one ends";
    crate::messages::say(&format!("{text}{read}"));
    crate::messages::finish();
    std::process::exit(1);
}

/// The same within a test: the thread panics.
#[cold]
#[cfg(test)]
fn give_way(records: usize) -> ! {
    std::panic::panic_any(GaveWay(records));
}

/// What the thread panics with.
#[cfg(test)]
#[derive(Debug, PartialEq, Eq)]
pub struct GaveWay(pub usize);
