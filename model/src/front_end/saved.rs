// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What moves from one front end to the next (F9).

use thiserror::Error;

use super::{Copies, Devices, FrontEnd, Phase, Rules, Vm};

/// The front end's own part of a saved VM.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Saved {
    /// Generation of the last drain.
    pub generation: u64,
    /// Ticket of the next submission.
    pub next_ticket: u64,
    /// The oldest ticket that was neither executed nor dropped.
    pub replayed: u64,
    /// The portals were trapped.
    pub trapped: bool,
}

/// Why a state is not loaded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Error)]
pub enum LoadError {
    /// The tickets contradict each other.
    #[error("ticket {ticket} of the back-end's state is not one of {low} to {high}")]
    Ticket {
        /// The one that is wrong.
        ticket: u64,
        /// Smallest ticket allowed.
        low: u64,
        /// The first ticket that is too large.
        high: u64,
    },
    /// Submissions are missing.
    #[error(
        "tickets {replayed} to {next_ticket} are to be replayed, but the back-end's state has none"
    )]
    Missing {
        /// The oldest that is missing.
        replayed: u64,
        /// The first that is not.
        next_ticket: u64,
    },
}

impl FrontEnd {
    /// The own part of the saved VM.
    pub fn save(&self) -> Saved {
        Saved {
            generation: self.generation,
            next_ticket: self.copies.next_ticket(),
            replayed: match self.rules.skips_dropped {
                true => self.copies.oldest(),
                false => self.copies.replayed(),
            },
            trapped: self.trapped(),
        }
    }

    /// A stopped VM that has been loaded: `pending` are the tickets and devices of the back-end's
    /// state.
    pub fn load(
        rules: Rules,
        (max_pending, reserve): (u64, u64),
        devices: Devices,
        saved: &Saved,
        pending: &[(u64, u32)],
    ) -> Result<Self, LoadError> {
        let Saved {
            replayed,
            next_ticket,
            ..
        } = *saved;
        let mut low = replayed;
        for (index, (ticket, _)) in pending.iter().enumerate() {
            let wrong_first = index == 0 && *ticket != replayed;
            if *ticket < low || *ticket >= next_ticket || wrong_first {
                return Err(LoadError::Ticket {
                    ticket: *ticket,
                    low,
                    high: next_ticket,
                });
            }
            low = *ticket + 1;
        }
        if pending.is_empty() && replayed != next_ticket {
            return Err(LoadError::Missing {
                replayed,
                next_ticket,
            });
        }
        let mut front = Self::new(rules, max_pending, reserve, devices);
        front.vm = Vm::Stopped;
        front.phase = Phase::Loaded;
        front.generation = saved.generation;
        front.copies = Copies::loaded(replayed, next_ticket, pending);
        if !rules.loaded_copies {
            front.copies.without_copies();
        }
        Ok(front)
    }
}
