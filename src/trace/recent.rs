// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The last events of a back-end that runs, for whoever asks for a trace.
//!
//! It is made of atomic words, as the board is: to record costs a few stores, and no reader holds
//! the service.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::moment::{Moment, WORDS};
use crate::status::cell::Cell;

/// Events of the state machine that are kept; a fault is four of them.
const KEPT: usize = 32_768;
/// Those of the shell, of which a connection and a state transfer have a few.
const KEPT_OF_SHELL: usize = 256;

/// The last events.
pub struct Recent {
    /// Of the state machine: whoever records them has its lock.
    pub of_core: Ring<KEPT>,
    /// Of the shell, by any thread.
    pub of_shell: Ring<KEPT_OF_SHELL>,
}

/// The last `N` events of one kind.
pub struct Ring<const N: usize> {
    cells: Box<[Cell<{ WORDS + 1 }>]>,
    next: AtomicU64,
}

impl Default for Recent {
    fn default() -> Self {
        Recent {
            of_core: Ring::new(),
            of_shell: Ring::new(),
        }
    }
}

impl Recent {
    /// Those that are kept, in order of time. What is written meanwhile may be missing.
    pub fn moments(&self) -> Vec<Moment> {
        let mut moments: Vec<_> = self.of_core.kept().collect();
        moments.extend(self.of_shell.kept());
        moments.sort_by_key(|moment| moment.t_ns);
        moments
    }
}

impl<const N: usize> Ring<N> {
    fn new() -> Self {
        Ring {
            // Not touched before it is used.
            cells: <[Cell<{ WORDS + 1 }>]>::new_box_zeroed_with_elems(N).unwrap_or_default(),
            next: AtomicU64::new(0),
        }
    }

    /// Records one. Threads that do so at once have cells of their own.
    pub fn record(&self, moment: &Moment) {
        self.put(self.next.fetch_add(1, Relaxed), moment);
    }

    /// The same for one thread at a time.
    pub fn record_alone(&self, moment: &Moment) {
        let number = self.next.load(Relaxed);
        self.next.store(number.wrapping_add(1), Relaxed);
        self.put(number, moment);
    }

    fn put(&self, number: u64, moment: &Moment) {
        let mut words = [0; WORDS + 1];
        words[WORDS] = number;
        words.as_mut_bytes()[..size_of::<Moment>()].copy_from_slice(moment.as_bytes());
        if let Some(cell) = self.cell(number) {
            cell.store(&words);
        }
    }

    fn cell(&self, number: u64) -> Option<&Cell<{ WORDS + 1 }>> {
        let place = usize::try_from(number % N as u64).ok()?;
        self.cells.get(place)
    }

    fn kept(&self) -> impl Iterator<Item = Moment> + '_ {
        let end = self.next.load(Relaxed);
        (end.saturating_sub(N as u64)..end).filter_map(|number| {
            let words = self.cell(number)?.load()?;
            let of_it = words[WORDS] == number;
            let (moment, _) = Moment::read_from_prefix(words.as_bytes()).ok()?;
            of_it.then_some(moment)
        })
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
        (0..count).for_each(|ticket| recent.of_core.record_alone(&submitted(ticket)));
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
            scope.spawn(|| (0..100_000).for_each(|n| recent.of_core.record_alone(&submitted(n))));
            for _ in 0..5 {
                for moment in recent.moments() {
                    assert_eq!(moment.t_ns, moment.second);
                    assert_eq!((moment.device, moment.first), (1, 2));
                }
            }
        });
    }
}
