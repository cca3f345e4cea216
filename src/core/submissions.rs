// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Submissions are queued, in the order of their tickets.

use std::collections::VecDeque;

use zerocopy::{FromZeros, IntoBytes};

use super::{Core, Observation, Observer, Phase, PortalError};
use crate::wire::Submission;

/// Bytes of a submission that are kept: those before the reserved ones.
const KEPT: usize = std::mem::offset_of!(Submission, reserved);

/// A queued submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pending {
    pub(super) device: u32,
    kept: [u8; KEPT],
}

impl Pending {
    pub(super) fn new(device: u32, submission: &Submission) -> Self {
        let mut kept = [0; KEPT];
        kept.copy_from_slice(&submission.as_bytes()[..KEPT]);
        Self { device, kept }
    }

    pub(super) fn submission(&self) -> Submission {
        let mut submission = Submission::new_zeroed();
        submission.as_mut_bytes()[..KEPT].copy_from_slice(&self.kept);
        submission
    }

    pub(super) fn ticket(&self) -> u64 {
        self.submission().ticket.get()
    }
}

/// Submissions in the order of their tickets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PendingQueue {
    queue: VecDeque<Pending>,
    max: usize,
    next_ticket: u64,
    /// How many each device has, so that one without any is not looked for.
    of_device: Box<[u32]>,
}

impl PendingQueue {
    pub(super) fn new(max_pending: u32, max_devices: u32) -> Self {
        Self {
            queue: VecDeque::with_capacity(max_pending as usize),
            max: max_pending as usize,
            next_ticket: 0,
            of_device: vec![0; max_devices as usize].into_boxed_slice(),
        }
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.queue.len()).unwrap_or(u32::MAX)
    }

    /// How many a device has.
    pub(super) fn of_device(&self, device: u32) -> u32 {
        self.of_device.get(device as usize).copied().unwrap_or(0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= self.max
    }

    /// The ticket that the next submission must have.
    pub(super) fn next_ticket(&self) -> u64 {
        self.next_ticket
    }

    /// The oldest ticket that has not been replayed.
    pub(super) fn next_replay(&self) -> u64 {
        self.front().map_or(self.next_ticket, Pending::ticket)
    }

    /// Queues a submission. The caller has checked its ticket and that there is room.
    pub(super) fn push(&mut self, device: u32, submission: &Submission) {
        self.skip_ticket();
        self.count(device, 1);
        self.queue.push_back(Pending::new(device, submission));
    }

    /// The submission with the next ticket is not queued.
    pub(super) fn skip_ticket(&mut self) {
        self.next_ticket = self.next_ticket.wrapping_add(1);
    }

    pub(super) fn front(&self) -> Option<&Pending> {
        self.queue.front()
    }

    pub(super) fn pop(&mut self) {
        if let Some(pending) = self.queue.pop_front() {
            self.count(pending.device, -1);
        }
    }

    /// Drops the submissions of a device and returns how many.
    pub(super) fn drop_device(&mut self, device: u32) -> u32 {
        let count = self.of_device.get_mut(device as usize);
        let dropped = count.map_or(0, std::mem::take);
        if dropped > 0 {
            self.queue.retain(|pending| pending.device != device);
        }
        dropped
    }

    fn count(&mut self, device: u32, change: i32) {
        if let Some(count) = self.of_device.get_mut(device as usize) {
            *count = count.saturating_add_signed(change);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.queue.iter()
    }

    /// Forgets everything: the next ticket is 0.
    pub(super) fn clear(&mut self) {
        self.next_ticket = 0;
        self.queue.clear();
        self.of_device.fill(0);
    }

    /// Replaces the content. The caller has checked that it fits.
    pub(super) fn restore(&mut self, next_ticket: u64, pending: impl Iterator<Item = Pending>) {
        self.clear();
        for pending in pending {
            self.count(pending.device, 1);
            self.queue.push_back(pending);
        }
        self.next_ticket = next_ticket;
    }
}

impl<O: Observer> Core<O> {
    /// Queues a submission.
    pub(super) fn submit(
        &mut self,
        device: u32,
        submission: Submission,
        now_ns: u64,
    ) -> Result<(), PortalError> {
        let ticket = submission.ticket.get();
        let expected = self.pending.next_ticket();
        if self.resync && ticket < expected {
            self.observe(now_ns, Observation::SubmissionKnown { device, ticket });
            return Ok(());
        }
        if ticket != expected {
            return Err(PortalError::Ticket {
                expected,
                found: ticket,
            });
        }
        if !submission.size_is_valid() {
            return Err(PortalError::SubmissionSize {
                ticket,
                size: submission.size.get(),
            });
        }
        // The attach channel is not ordered with this ring: the device may have been detached after
        // its submission.
        let attached = self.devices.get(device).is_some();
        if attached && self.pending.is_full() {
            return Err(PortalError::Credit {
                ticket,
                max_pending: self.limits.max_pending,
            });
        }
        self.resync = false;
        self.counters.submissions = self.counters.submissions.wrapping_add(1);
        if matches!(self.drain.phase, Phase::Running | Phase::Releasing) {
            self.release.due = true;
        }
        if attached {
            self.pending.push(device, &submission);
            let pending = self.pending.len();
            self.observe(
                now_ns,
                Observation::Submitted {
                    device,
                    ticket,
                    pending,
                },
            );
        } else {
            self.pending.skip_ticket();
            self.observe(now_ns, Observation::SubmissionDropped { device, ticket });
        }
        Ok(())
    }
}
