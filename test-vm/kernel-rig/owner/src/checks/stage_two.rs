// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faults of stage 2, which the kernel hands out as if they were the guest's.

use vhost_user_vsva::{
    frontend::{StageTwoFilter, Verdict},
    wire::{
        EventRecord,
        ResponseCode::{Invalid, Success},
    },
};

use super::common::{page, raise, served_nested};
use crate::hardware::Nested;

pub fn test_stage_two_fault_is_recognised_and_not_shown_to_the_guest() {
    let (mut hardware, mut session) = served_nested(1);
    let mut filter = StageTwoFilter::default();
    let mut judge = |hardware: &mut Nested, event: &EventRecord| {
        let translation = hardware.guest().translate(1, event.addr);
        filter.judge(event, translation.expect("tables").is_some())
    };
    // The guest maps a page of memory that it does not have.
    hardware
        .resolve_to(Some(1), page(0), Nested::unmapped_page(), true)
        .expect("tables");

    let id = raise(&mut hardware, 0);
    let event = session.event();
    assert_eq!(judge(&mut hardware, &event), Verdict::Retry);
    session.answer(&event, Success);
    let event = session.event();
    assert_eq!(judge(&mut hardware, &event), Verdict::Abort);
    session.answer(&event, Invalid);

    session.expect_aborted(&mut hardware, id);
    // A fault of stage 1 is still the guest's.
    let id = raise(&mut hardware, 1);
    let event = session.event();
    assert_eq!(judge(&mut hardware, &event), Verdict::Deliver);
    session.handle(&mut hardware, &event);
    session.expect_done(&mut hardware, id);
    session.finish(3);
}
