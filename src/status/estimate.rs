// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How long a drain would have taken, had it begun at one of the last 60 full seconds.
//!
//! Two durations are known for each of these moments, and a drain lies between them as far as it
//! depends on faults (docs/status.md):
//!
//! - until the last of the faults that were outstanding then was answered (*at least*): a drain
//!   waits for them all;
//! - until nothing was outstanding (*at most*): a drain keeps new work away, so that it need not
//!   wait for the faults of that.
//!
//! Whoever counts is told of faults; nothing is looked through, so that a fault costs the same
//! however many there are.

use std::sync::{
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    Arc,
};

use serde::{Deserialize, Serialize};

const SECOND: u64 = 1_000_000_000;
/// Moments that are looked back on.
const WINDOW: u64 = 60;
/// Places for them and for what is being written.
const SLOTS: usize = 64;
/// A place has the moment's last bits above a value.
const VALUE_BITS: u32 = 44;
const VALUE_MASK: u64 = (1 << VALUE_BITS) - 1;

#[allow(clippy::cast_possible_truncation, reason = "it is below SLOTS")]
fn slot(second: u64) -> usize {
    (second % SLOTS as u64) as usize
}

/// A value for each of the last seconds.
#[derive(Debug)]
struct Row([AtomicU64; SLOTS]);

impl Default for Row {
    fn default() -> Self {
        // Of a moment that belongs to another place.
        Row(std::array::from_fn(|slot| {
            AtomicU64::new((slot as u64 + 1) << VALUE_BITS)
        }))
    }
}

impl Row {
    fn slot(&self, second: u64) -> &AtomicU64 {
        &self.0[slot(second)]
    }

    fn put(&self, second: u64, value: u64) {
        let word = (second << VALUE_BITS) | value.min(VALUE_MASK);
        self.slot(second).store(word, Relaxed);
    }

    fn get(&self, second: u64) -> Option<u64> {
        let word = self.slot(second).load(Relaxed);
        (word >> VALUE_BITS == second << VALUE_BITS >> VALUE_BITS).then_some(word & VALUE_MASK)
    }
}

/// What is known of the last seconds; one writes, others read.
#[derive(Debug, Default)]
pub struct LastMinute {
    /// In nanoseconds.
    at_least: Row,
    at_most: Row,
    faults: Row,
    /// The second of the last event.
    second: AtomicU64,
    outstanding: AtomicU32,
}

/// A duration over the moments that are looked back on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duration {
    /// The median.
    pub p50_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// For so many moments it is not over yet, and counts as long as it has lasted so far.
    pub open: u32,
}

/// The estimate of a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// How many full seconds it looks back on, at most 60.
    pub moments: u32,
    /// Until the last fault that was outstanding at the moment was answered.
    pub at_least: Duration,
    /// Until no fault was outstanding.
    pub at_most: Duration,
}

impl LastMinute {
    /// The estimate at `now_ns` of a process that has run since `since_ns`.
    pub fn estimate(&self, since_ns: u64, now_ns: u64) -> Estimate {
        let (first, last) = bounds(since_ns, now_ns);
        Estimate {
            moments: u32::try_from((last + 1).saturating_sub(first)).unwrap_or(u32::MAX),
            at_least: self.duration(&self.at_least, first, now_ns),
            at_most: self.duration(&self.at_most, first, now_ns),
        }
    }

    /// Faults read in a second, of the last 10 full ones.
    pub fn faults_per_second(&self, since_ns: u64, now_ns: u64) -> f64 {
        let (first, last) = bounds(since_ns, now_ns);
        let first = first.max(last.saturating_sub(10));
        let faults: u64 = (first..last).filter_map(|s| self.faults.get(s)).sum();
        faults as f64 / last.saturating_sub(first).max(1) as f64
    }

    fn duration(&self, row: &Row, first: u64, now_ns: u64) -> Duration {
        let written = self.second.load(Relaxed);
        let idle = self.outstanding.load(Relaxed) == 0;
        let mut open = 0;
        let mut durations: Vec<u64> = (first..=now_ns / SECOND)
            .map(|second| match row.get(second) {
                Some(ns) => ns,
                None if second > written && idle => 0,
                None => {
                    open += 1;
                    now_ns - second * SECOND
                }
            })
            .collect();
        durations.sort_unstable();
        let middle = durations.len().saturating_sub(1) / 2;
        Duration {
            p50_ns: durations.get(middle).copied().unwrap_or(0),
            max_ns: durations.last().copied().unwrap_or(0),
            open,
        }
    }
}

fn bounds(since_ns: u64, now_ns: u64) -> (u64, u64) {
    let last = now_ns / SECOND;
    let first = (since_ns / SECOND + 1).max((last + 1).saturating_sub(WINDOW));
    (first, last)
}

/// Who counts.
pub struct Estimator {
    board: Arc<LastMinute>,
    second: u64,
    outstanding: u32,
    /// The oldest moments that are not over; all before are, or are too long ago.
    least_open: u64,
    most_open: u64,
    /// Outstanding groups that were read before `least_open`.
    waiting: u32,
    /// Outstanding groups that were read in each second since.
    read_in: [u32; SLOTS],
    faults: u64,
}

impl Estimator {
    /// Begins at `now_ns`.
    pub fn new(board: Arc<LastMinute>, now_ns: u64) -> Self {
        let second = now_ns / SECOND;
        board.second.store(second, Relaxed);
        Estimator {
            board,
            second,
            outstanding: 0,
            least_open: second + 1,
            most_open: second + 1,
            waiting: 0,
            read_in: [0; SLOTS],
            faults: 0,
        }
    }

    /// A fault was read.
    pub fn fault(&mut self, now_ns: u64) {
        self.advance(now_ns);
        self.faults += 1;
        self.board.faults.put(self.second, self.faults);
    }

    /// The first fault of a group was read.
    pub fn begun(&mut self, now_ns: u64) {
        self.advance(now_ns);
        self.outstanding += 1;
        *self.place(self.second) += 1;
        self.board.outstanding.store(self.outstanding, Relaxed);
    }

    /// A group whose first fault was read then is not outstanding any more.
    pub fn ended(&mut self, read_ns: u64, now_ns: u64) {
        self.advance(now_ns);
        let place = self.place(read_ns / SECOND);
        *place = place.saturating_sub(1);
        self.outstanding = self.outstanding.saturating_sub(1);
        self.board.outstanding.store(self.outstanding, Relaxed);
        while self.waiting == 0 && self.least_open <= self.second {
            let ns = now_ns.saturating_sub(self.least_open * SECOND);
            self.board.at_least.put(self.least_open, ns);
            self.pass_least_open();
        }
        if self.outstanding == 0 {
            for second in self.most_open..=self.second {
                let ns = now_ns.saturating_sub(second * SECOND);
                self.board.at_most.put(second, ns);
            }
            self.most_open = self.second + 1;
        }
    }

    /// Where the groups that were read in a second are counted.
    fn place(&mut self, second: u64) -> &mut u32 {
        if second < self.least_open {
            &mut self.waiting
        } else {
            &mut self.read_in[slot(second)]
        }
    }

    fn pass_least_open(&mut self) {
        let read = &mut self.read_in[slot(self.least_open)];
        self.waiting += std::mem::take(read);
        self.least_open += 1;
    }

    /// Time has passed since the last event, in which nothing has changed.
    fn advance(&mut self, now_ns: u64) {
        let now = now_ns / SECOND;
        if now <= self.second {
            return;
        }
        if self.outstanding == 0 {
            for second in (self.second + 1).max(now.saturating_sub(WINDOW))..=now {
                self.board.at_least.put(second, 0);
                self.board.at_most.put(second, 0);
            }
            self.least_open = now + 1;
            self.most_open = now + 1;
        }
        // What is too long ago is not looked back on any more.
        let first = (now + 1).saturating_sub(WINDOW);
        let passed = first.saturating_sub(self.least_open).min(SLOTS as u64);
        (0..passed).for_each(|_| self.pass_least_open());
        self.least_open = self.least_open.max(first);
        self.most_open = self.most_open.max(first);
        self.second = now;
        self.faults = 0;
        self.board.second.store(now, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_000 * SECOND;

    fn at(seconds: f64) -> u64 {
        let since = std::time::Duration::from_secs_f64(seconds);
        START + u64::try_from(since.as_nanos()).unwrap()
    }

    fn estimator() -> (Arc<LastMinute>, Estimator) {
        let board = Arc::new(LastMinute::default());
        (board.clone(), Estimator::new(board, START))
    }

    #[test]
    fn test_estimate_without_faults_is_nothing() {
        let (board, _estimator) = estimator();
        let estimate = board.estimate(START, at(100.5));
        assert_eq!(estimate.moments, 60);
        assert_eq!(estimate.at_most, Duration::default());
    }

    #[test]
    fn test_estimate_just_after_the_start_looks_back_to_the_start() {
        let (board, _estimator) = estimator();
        assert_eq!(board.estimate(START, at(0.5)).moments, 0);
        assert_eq!(board.estimate(START, at(3.5)).moments, 3);
    }

    #[test]
    fn test_fault_that_was_outstanding_at_a_moment_counts_until_its_answer() {
        let (board, mut estimator) = estimator();
        estimator.begun(at(4.5));
        estimator.ended(at(4.5), at(7.25));
        let estimate = board.estimate(START, at(8.5));
        // At seconds 5, 6 and 7 it was outstanding.
        assert_eq!(estimate.at_least.max_ns, at(7.25) - at(5.0));
        assert_eq!(estimate.at_most, estimate.at_least);
        assert_eq!(estimate.at_least.p50_ns, 0);
        assert_eq!(estimate.at_least.open, 0);
    }

    #[test]
    fn test_fault_that_came_after_the_moment_counts_for_at_most_only() {
        let (board, mut estimator) = estimator();
        estimator.begun(at(0.5));
        estimator.begun(at(1.5));
        estimator.ended(at(0.5), at(1.75));
        estimator.begun(at(2.5));
        estimator.ended(at(1.5), at(2.75));
        estimator.ended(at(2.5), at(3.5));
        let estimate = board.estimate(START, at(3.75));
        assert_eq!(estimate.at_least.max_ns, at(0.75) - START);
        assert_eq!(estimate.at_most.max_ns, at(2.5) - START);
    }

    #[test]
    fn test_fault_that_is_not_answered_is_open_and_as_long_as_it_has_lasted() {
        let (board, mut estimator) = estimator();
        estimator.begun(at(10.5));
        let estimate = board.estimate(START, at(15.0));
        assert_eq!(estimate.at_least.open, 5);
        assert_eq!(estimate.at_least.max_ns, at(4.0) - START);
        // Older than what is looked back on.
        estimator.begun(at(200.0));
        estimator.ended(at(200.0), at(200.5));
        let estimate = board.estimate(START, at(210.5));
        assert_eq!(estimate.at_least.open, 60);
        assert_eq!(estimate.at_least.max_ns, at(59.5) - START);
        estimator.ended(at(10.5), at(211.5));
        let estimate = board.estimate(START, at(212.0));
        assert_eq!((estimate.at_least.open, estimate.at_most.open), (0, 0));
        assert_eq!(estimate.at_least.max_ns, at(58.5) - START);
    }

    #[test]
    fn test_rate_is_that_of_the_last_ten_full_seconds() {
        let (board, mut estimator) = estimator();
        for fault in 0..200_u32 {
            estimator.fault(at(1.0 + f64::from(fault) / 10.0));
        }
        let rate = board.faults_per_second(START, at(20.9));
        assert!((rate - 10.0).abs() < 0.2, "{rate}");
        assert!(board.faults_per_second(START, at(100.0)) < 0.1);
    }
}
