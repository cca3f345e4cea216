// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faults of stage 2, which the kernel hands out as if they were the guest's.

use vhost_user_vsva::{
    frontend::{StageTwoFilter, Verdict},
    wire::ResponseCode::{Invalid, Success},
};

use super::nested;
use crate::{
    hardware::{Access, Hardware, Nested, VA},
    session::Session,
    smmu::PAGE,
};

pub fn test_stage_two_fault_is_recognised_and_not_shown_to_the_guest() {
    let mut hardware = nested(1);
    let mut session = Session::start();
    session.attach(&hardware, 0);
    let mut filter = StageTwoFilter::default();
    let mut judge = |hardware: &mut Nested, event| {
        let mapped = hardware.guest().translate(1, VA).expect("tables").is_some();
        filter.judge(event, mapped)
    };
    // The guest maps a page of memory that it does not have.
    hardware
        .resolve_to(Some(1), VA, Nested::unmapped_page(), true)
        .expect("tables");

    let id = hardware
        .access(0, &Access::read(VA).ssid(1))
        .expect("access");
    let event = session.event();
    assert_eq!(judge(&mut hardware, &event), Verdict::Retry);
    session.answer(&event, Success);
    let event = session.event();
    assert_eq!(judge(&mut hardware, &event), Verdict::Abort);
    session.answer(&event, Invalid);

    session.expect_aborted(&mut hardware, id);
    // A fault of stage 1 is still the guest's.
    let id = hardware
        .access(0, &Access::read(VA + PAGE).ssid(1))
        .expect("access");
    let event = session.event();
    let mapped = hardware
        .guest()
        .translate(1, event.addr)
        .expect("tables")
        .is_some();
    assert_eq!(filter.judge(&event, mapped), Verdict::Deliver);
    session.handle(&mut hardware, &event);
    session.expect_done(&mut hardware, id);
    session.finish(3);
}
