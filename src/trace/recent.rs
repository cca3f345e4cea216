// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The last events of a back-end that runs, for whoever asks for a trace.
//!
//! It is made of atomic words, as the board is: to record costs a few stores, and no reader holds
//! the service.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use zerocopy::{FromBytes, IntoBytes};

use super::moment::{Moment, WORDS};
use crate::status::cell::Cell;

/// Events that are kept; a fault is four of them.
const KEPT: usize = 32_768;

/// The last events.
pub struct Recent {
    cells: Box<[Cell<{ WORDS + 1 }>]>,
    next: AtomicU64,
}

impl Default for Recent {
    fn default() -> Self {
        Recent {
            cells: (0..KEPT).map(|_| Cell::default()).collect(),
            next: AtomicU64::new(0),
        }
    }
}

impl Recent {
    /// Records one. Threads that do so at once have cells of their own.
    pub fn record(&self, moment: &Moment) {
        let number = self.next.fetch_add(1, Relaxed);
        let mut words = [0; WORDS + 1];
        words[WORDS] = number;
        words.as_mut_bytes()[..size_of::<Moment>()].copy_from_slice(moment.as_bytes());
        if let Some(cell) = self.cell(number) {
            cell.store(&words);
        }
    }

    fn cell(&self, number: u64) -> Option<&Cell<{ WORDS + 1 }>> {
        let place = usize::try_from(number % KEPT as u64).ok()?;
        self.cells.get(place)
    }

    /// Those that are kept, in order of time. What is written meanwhile may be missing.
    pub fn moments(&self) -> Vec<Moment> {
        let end = self.next.load(Relaxed);
        let kept = (end.saturating_sub(KEPT as u64)..end).filter_map(|number| {
            let words = self.cell(number)?.load()?;
            let of_it = words[WORDS] == number;
            let (moment, _) = Moment::read_from_prefix(words.as_bytes()).ok()?;
            of_it.then_some(moment)
        });
        let mut moments: Vec<_> = kept.collect();
        moments.sort_by_key(|moment| moment.t_ns);
        moments
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Observation;

    fn submitted(ticket: u64) -> Moment {
        let observation = Observation::Submitted {
            device: 1,
            ticket,
            pending: 2,
        };
        Moment::of_core(ticket, &observation).unwrap()
    }

    #[test]
    fn test_recent_has_the_last_ones_in_order_and_no_more() {
        let recent = Recent::default();
        assert!(recent.moments().is_empty());
        let count = KEPT as u64 + 10;
        (0..count).for_each(|ticket| recent.record(&submitted(ticket)));
        let tickets: Vec<_> = recent
            .moments()
            .iter()
            .map(|moment| moment.second)
            .collect();
        assert!(tickets.into_iter().eq(10..count));
    }

    #[test]
    fn test_moments_that_are_read_while_others_are_recorded_are_whole() {
        let recent = Recent::default();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..100_000).for_each(|ticket| recent.record(&submitted(ticket))));
            for _ in 0..5 {
                for moment in recent.moments() {
                    assert_eq!(moment.t_ns, moment.second);
                    assert_eq!((moment.device, moment.first), (1, 2));
                }
            }
        });
    }
}
