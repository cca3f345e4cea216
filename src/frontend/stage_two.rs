// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tells the faults of the guest's own stage 1 from those of the VMM's stage 2.
//!
//! The kernel's fault record has neither the event number nor the stage, class or IPA that the SMMU
//! reported, so the back-end says F_TRANSLATION of stage 1 for each. A fault of stage 2 must not be
//! passed off as the guest's: the guest would find nothing to do, answer with a retry, and fault
//! again for ever. Only the VMM can tell, as only it sees the guest's memory: it walks the guest's
//! stage-1 tables for the event and asks the filter what to do.

use crate::wire::EventRecord;

/// Faults remembered. One that is forgotten too early only costs another retry.
const REMEMBERED: usize = 64;

/// What to do with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the guest's: put it into the guest's event queue.
    Deliver,
    /// The guest has mapped the page since: answer with a retry in its place.
    Retry,
    /// The guest's tables allow the access and it faults all the same: the fault is of stage 2.
    /// Answer with an abort, do not show it to the guest, and tell the operator of the host.
    Abort,
}

/// Remembers the faults that the guest's tables did not explain.
#[derive(Clone, Debug)]
pub struct StageTwoFilter {
    retried: [Option<EventRecord>; REMEMBERED],
    next: usize,
}

impl Default for StageTwoFilter {
    fn default() -> Self {
        Self {
            retried: [None; REMEMBERED],
            next: 0,
        }
    }
}

impl StageTwoFilter {
    /// Judges an event. `stage_one_allows`: a walk of the guest's stage-1 tables, made now, finds a
    /// translation that permits the access.
    pub fn judge(&mut self, event: &EventRecord, stage_one_allows: bool) -> Verdict {
        // A retry comes with a new STAG.
        let key = EventRecord { stag: 0, ..*event };
        let seen = self.retried.iter_mut().find(|seen| **seen == Some(key));
        match (stage_one_allows, seen) {
            (false, None) => Verdict::Deliver,
            (false, Some(seen)) => {
                *seen = None;
                Verdict::Deliver
            }
            (true, Some(seen)) => {
                *seen = None;
                Verdict::Abort
            }
            (true, None) => {
                self.retried[self.next] = Some(key);
                self.next = (self.next + 1) % REMEMBERED;
                Verdict::Retry
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(addr: u64, stag: u16) -> EventRecord {
        EventRecord {
            sid: 8,
            ssid: Some(1),
            stag,
            write: false,
            exec: false,
            privileged: false,
            addr,
        }
    }

    #[test]
    fn test_judge_unmapped_page_is_the_guests() {
        let mut filter = StageTwoFilter::default();

        assert_eq!(filter.judge(&event(0x1000, 1), false), Verdict::Deliver);
        assert_eq!(filter.judge(&event(0x1000, 2), false), Verdict::Deliver);
    }

    #[test]
    fn test_judge_page_mapped_meanwhile_is_retried_once() {
        let mut filter = StageTwoFilter::default();

        assert_eq!(filter.judge(&event(0x1000, 1), true), Verdict::Retry);
        assert_eq!(filter.judge(&event(0x1000, 2), true), Verdict::Abort);
        assert_eq!(filter.judge(&event(0x1000, 3), true), Verdict::Retry);
    }

    #[test]
    fn test_judge_other_access_to_the_page_is_another_fault() {
        let mut filter = StageTwoFilter::default();
        let write = EventRecord {
            write: true,
            ..event(0x1000, 2)
        };

        assert_eq!(filter.judge(&event(0x1000, 1), true), Verdict::Retry);
        assert_eq!(filter.judge(&write, true), Verdict::Retry);
        assert_eq!(filter.judge(&event(0x2000, 3), true), Verdict::Retry);
        assert_eq!(filter.judge(&event(0x1000, 4), true), Verdict::Abort);
    }

    #[test]
    fn test_judge_page_unmapped_again_starts_afresh() {
        let mut filter = StageTwoFilter::default();

        assert_eq!(filter.judge(&event(0x1000, 1), true), Verdict::Retry);
        assert_eq!(filter.judge(&event(0x1000, 2), false), Verdict::Deliver);
        assert_eq!(filter.judge(&event(0x1000, 3), true), Verdict::Retry);
    }

    #[test]
    fn test_judge_more_faults_than_remembered_forgets_the_oldest() {
        let mut filter = StageTwoFilter::default();
        for page in 0..=REMEMBERED as u64 {
            assert_eq!(filter.judge(&event(page << 12, 1), true), Verdict::Retry);
        }

        assert_eq!(filter.judge(&event(1 << 12, 2), true), Verdict::Abort);
        assert_eq!(filter.judge(&event(0, 2), true), Verdict::Retry);
    }
}
