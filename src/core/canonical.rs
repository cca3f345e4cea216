// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which states are the same, for a model checker.

use super::{Core, Counters, Observer};

impl<O: Observer> Core<O> {
    /// Makes states equal that behave in the same way: what is only counted is zero, both rings
    /// begin anew with message 1, and nothing is left in records that are free.
    pub fn canonical(mut self) -> Self {
        self.portal_seq = 0;
        self.event_seq = 0;
        self.counters = Counters::default();
        self.drain.answered = 0;
        self.release.replayed = 0;
        self.faults.scrub();
        self.channels.scrub();
        self
    }
}
