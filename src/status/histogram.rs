// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Durations, counted in buckets that are there from the start.
//!
//! The layout is that of an HDR histogram: 16 buckets between a power of two and the next, so that
//! a quantile is exact to a sixteenth. To record costs a few loads and stores, by one thread at a
//! time: no lock, no allocation.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};
use zerocopy::FromZeros;

use super::cell::add;

/// Longer ones count as this long, five hours.
const LONGEST_NS: u64 = (1 << 44) - 1;
const BUCKETS: usize = index(LONGEST_NS) + 1;

#[allow(
    clippy::cast_possible_truncation,
    reason = "four bits, or less than 16"
)]
const fn index(ns: u64) -> usize {
    if ns < 16 {
        return ns as usize;
    }
    let exponent = ns.ilog2();
    (((exponent - 3) as usize) << 4) | (ns >> (exponent - 4)) as usize & 15
}

/// The least duration that is too long for a bucket.
const fn end(index: usize) -> u64 {
    if index < 16 {
        return index as u64 + 1;
    }
    (17 + (index as u64 & 15)) << ((index >> 4) - 1)
}

/// A histogram that is written while others read it.
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
    longest_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            // Not touched before they are used.
            buckets: <[AtomicU64]>::new_box_zeroed_with_elems(BUCKETS)
                .unwrap_or_else(|_| (0..BUCKETS).map(|_| AtomicU64::new(0)).collect()),
            sum_ns: AtomicU64::new(0),
            longest_ns: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts a duration. There is one writer at a time.
    pub fn record(&self, ns: u64) {
        let ns = ns.min(LONGEST_NS);
        add(&self.buckets[index(ns)], 1);
        add(&self.sum_ns, ns);
        if ns > self.longest_ns.load(Relaxed) {
            self.longest_ns.store(ns, Relaxed);
        }
    }

    /// What has been counted. What is recorded meanwhile may be in a part of it only.
    pub fn durations(&self) -> Durations {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Relaxed));
        let buckets: Vec<_> = (0..)
            .map(end)
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let mut durations = Durations {
            count,
            sum_ns: self.sum_ns.load(Relaxed),
            p50_ns: 0,
            p99_ns: 0,
            max_ns: self.longest_ns.load(Relaxed),
            buckets,
        };
        durations.p50_ns = durations.quantile(50);
        durations.p99_ns = durations.quantile(99);
        durations
    }
}

/// Durations as a status document has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durations {
    /// How many.
    pub count: u64,
    /// All of them together.
    pub sum_ns: u64,
    /// Half of them were not longer, to a sixteenth.
    pub p50_ns: u64,
    /// Of a hundred, 99 were not longer, to a sixteenth.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// A duration below which, and not below that of the pair before, so many were.
    pub buckets: Vec<(u64, u64)>,
}

impl Durations {
    fn quantile(&self, percent: u64) -> u64 {
        let wanted = (u128::from(self.count) * u128::from(percent)).div_ceil(100);
        let mut seen = 0;
        for (below, count) in &self.buckets {
            seen += u128::from(*count);
            if seen >= wanted {
                return (below - 1).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// How many were shorter than a power of two.
    pub fn below(&self, power_of_two: u64) -> u64 {
        let within = |(below, _): &&(u64, u64)| *below <= power_of_two;
        let shorter = self.buckets.iter().take_while(within);
        shorter.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_bucket_of_a_duration_is_the_one_that_it_is_within() {
        for ns in (0..5000).chain([1 << 20, (1 << 20) - 1, 123_456_789, LONGEST_NS]) {
            let index = index(ns);
            assert!(ns < end(index), "{ns}");
            assert!(index == 0 || ns >= end(index - 1), "{ns}");
            assert!(end(index) - ns <= 1 + ns / 16, "{ns}");
        }
    }

    #[test]
    fn test_quantiles_are_exact_to_a_sixteenth_and_the_longest_is_exact() {
        let histogram = Histogram::default();
        (1..=1000).for_each(|us| histogram.record(us * 1000));
        let durations = histogram.durations();
        assert_eq!(durations.count, 1000);
        assert_eq!(durations.sum_ns, 500_500_000);
        assert_eq!(durations.max_ns, 1_000_000);
        assert!((500_000..=500_000 * 17 / 16).contains(&durations.p50_ns));
        assert!((990_000..=1_000_000).contains(&durations.p99_ns));
    }

    #[test]
    fn test_below_a_power_of_two_is_exact() {
        let histogram = Histogram::default();
        for ns in [4095, 4096, 8191, 8192, u64::MAX] {
            histogram.record(ns);
        }
        let durations = histogram.durations();
        let below = [4096, 8192, 16384, 1 << 36].map(|power| durations.below(power));
        assert_eq!(below, [1, 3, 4, 4]);
        assert_eq!(durations.count, 5);
    }
}
