// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whether a thread goes on.

use std::sync::atomic::{AtomicU64, Ordering};

/// The pieces of work of one thread, counted.
#[derive(Debug, Default)]
pub struct Progress(AtomicU64);

/// A piece of work; it ends when this is dropped.
pub struct Work<'a>(&'a AtomicU64);

impl Progress {
    /// Begins a piece of work. The one before has ended.
    pub fn begin(&self) -> Work<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Work(&self.0)
    }

    /// The piece of work that the thread is in the middle of.
    pub fn current(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|count| count % 2 == 1)
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
