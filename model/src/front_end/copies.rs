// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The front end's copies of the submissions that have not been executed (F8, F9).

use std::collections::VecDeque;

use super::{violation, Violation};

/// What a REPLAY does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Execution {
    /// The copy is executed on this device.
    Device(u32),
    /// Nothing: it was dropped.
    Dropped,
}

/// Submissions from `replayed` to `next_ticket`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Copies {
    replayed: u64,
    /// Their devices; `None` if dropped.
    held: VecDeque<Option<u32>>,
    /// What is older cannot be dropped: it has no copy. Always 0, but without a rule.
    uncopied: u64,
}

impl Copies {
    /// Submissions with these tickets and devices; what is missing in between was dropped.
    pub(super) fn loaded(replayed: u64, next: u64, pending: &[(u64, u32)]) -> Self {
        let device = |ticket| {
            pending
                .iter()
                .find(|(of, _)| *of == ticket)
                .map(|(_, device)| *device)
        };
        Self {
            replayed,
            held: (replayed..next).map(device).collect(),
            uncopied: 0,
        }
    }

    /// Every smaller ticket has been executed, or dropped and left out by the back-end.
    pub fn replayed(&self) -> u64 {
        self.replayed
    }

    /// The ticket of the next submission.
    pub fn next_ticket(&self) -> u64 {
        self.replayed + self.held.len() as u64
    }

    /// How many there are from `replayed` on, those dropped in between as well.
    pub fn pending(&self) -> u64 {
        self.held.len() as u64
    }

    /// Tickets and devices of what was not dropped.
    pub fn held(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let tickets = self.replayed..;
        tickets
            .zip(&self.held)
            .filter_map(|(ticket, held)| held.map(|device| (ticket, device)))
    }

    /// All of them from `replayed` on.
    pub(super) fn all(&self) -> impl Iterator<Item = (u64, Option<u32>)> + '_ {
        (self.replayed..).zip(self.held.iter().copied())
    }

    /// They get new tickets from 0 on, in their order.
    pub(super) fn renumber(&mut self) {
        self.held.retain(Option::is_some);
        self.replayed = 0;
        self.uncopied = 0;
    }

    pub(super) fn push(&mut self, device: u32) -> u64 {
        self.held.push_back(Some(device));
        self.next_ticket() - 1
    }

    pub(super) fn drop_devices(&mut self, device: impl Fn(u32) -> bool) {
        let uncopied = self.uncopied.saturating_sub(self.replayed);
        let uncopied = usize::try_from(uncopied).unwrap_or(usize::MAX);
        for held in self.held.iter_mut().skip(uncopied) {
            *held = held.filter(|of| !device(*of));
        }
    }

    pub(super) fn without_copies(&mut self) {
        self.uncopied = self.next_ticket();
    }

    /// Whether what is at the head has a copy.
    pub(super) fn has_copy(&self) -> bool {
        self.replayed >= self.uncopied
    }

    /// The oldest that was not dropped; the next ticket if there is none.
    pub(super) fn oldest(&self) -> u64 {
        let dropped = self.held.iter().take_while(|held| held.is_none());
        self.replayed + dropped.count() as u64
    }

    pub(super) fn pop(&mut self) -> Option<Option<u32>> {
        let held = self.held.pop_front()?;
        self.replayed += 1;
        Some(held)
    }

    /// Everything before `ticket` must have been dropped.
    pub(super) fn skip_until(&mut self, ticket: u64) -> Result<(), Violation> {
        if ticket < self.replayed || ticket > self.next_ticket() {
            let (low, high) = (self.replayed, self.next_ticket());
            return violation("F8", format!("ticket {ticket} is none of {low} to {high}"));
        }
        let skipped = usize::try_from(ticket - self.replayed).unwrap_or(usize::MAX);
        let mut kept = (self.replayed..).zip(self.held.iter().take(skipped));
        if let Some((ticket, Some(device))) = kept.find(|(_, held)| held.is_some()) {
            return violation(
                "F8",
                format!("ticket {ticket} of device {device} was left out"),
            );
        }
        self.held.drain(..skipped);
        self.replayed = ticket;
        Ok(())
    }

    pub(super) fn replay(&mut self, ticket: u64) -> Result<Execution, Violation> {
        if ticket >= self.next_ticket() {
            let next = self.next_ticket();
            return violation(
                "F8",
                format!("ticket {ticket} is replayed, the next new one is {next}"),
            );
        }
        self.skip_until(ticket)?;
        Ok(match self.pop() {
            Some(Some(device)) => Execution::Device(device),
            _ => Execution::Dropped,
        })
    }
}
