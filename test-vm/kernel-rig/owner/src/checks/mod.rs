// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The checks, each a function of its own that panics when it fails.

mod answers;
mod common;
mod defects;
mod drain;
mod faults;
mod kills;
mod lifetime;
mod load;
mod owner;
mod page_table;
mod queue;
mod stage_two;
mod veventq;

pub use owner::run_owner;

use crate::{
    hardware::{Faults, Hardware, Mock, Nested},
    testdev, vfio,
};

/// What the machine offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Test devices behind arm-smmu-v3.
    Nested,
    /// The mock driver of CONFIG_IOMMUFD_TEST.
    Mock,
}

impl Platform {
    /// The one that this machine is.
    pub fn of_this_machine() -> Self {
        match vfio::find_functions(testdev::VENDOR, testdev::DEVICE) {
            Ok(functions) if !functions.is_empty() => Platform::Nested,
            _ => Platform::Mock,
        }
    }

    /// The devices, attached and ready to fault.
    pub fn hardware(self, devices: usize) -> Box<dyn Hardware> {
        match self {
            Platform::Nested => Box::new(nested(devices)),
            Platform::Mock => Box::new(Mock::new(devices).expect("mock devices")),
        }
    }

    /// One more device, which another VMM has.
    pub fn other_hardware(self) -> Box<dyn Hardware> {
        match self {
            Platform::Nested => {
                Box::new(Nested::new(1..2, Faults::Stall).expect("the second test device"))
            }
            Platform::Mock => Box::new(Mock::new(1).expect("mock device")),
        }
    }
}

/// Test devices behind arm-smmu-v3, in one nested configuration.
pub fn nested(devices: usize) -> Nested {
    Nested::new(0..devices, Faults::Stall).expect("test devices in a nested configuration")
}

/// One check.
pub struct Check {
    pub name: &'static str,
    pub run: fn(Platform),
    /// Needs accesses that are really made and end.
    pub nested_only: bool,
}

/// Run only when it is asked for: what it is about is how the kernel fails.
pub const ON_REQUEST: Check = Check {
    name: "provoke_stalls_during_detach",
    run: |_| defects::provoke_stalls_during_detach(),
    nested_only: true,
};

macro_rules! checks {
    ($($module:ident {
        any: [$($any:ident),* $(,)?],
        nested: [$($nested:ident),* $(,)?]
        $(,)?
    })+) => {
        /// All checks, in the order in which they run.
        pub const ALL: &[Check] = &[$(
            $(Check { name: stringify!($any), run: $module::$any, nested_only: false },)*
            $(Check { name: stringify!($nested), run: |_| $module::$nested(), nested_only: true },)*
        )+];
    };
}

checks! {
    queue {
        any: [
            test_fault_queue_empty_reads_nothing,
            test_fault_queue_read_of_partial_record_is_refused,
            test_fault_queue_cookie_is_reused_at_once,
            test_fault_queue_batch_with_unknown_cookie_stops_there,
            test_fault_queue_second_answer_is_refused,
        ],
        nested: [],
    }
    faults {
        any: [
            test_fault_without_ssid_reaches_the_guest,
            test_fault_with_ssid_reaches_the_guest,
            test_fault_permissions_reach_the_guest,
            test_burst_of_faults_is_answered_once_each,
            test_two_devices_on_one_queue_are_told_apart,
        ],
        nested: [
            test_read_fault_answered_reads_the_data,
            test_write_fault_answered_writes_the_data,
            test_write_to_read_only_page_faults_and_is_retried,
        ],
    }
    answers {
        any: [
            test_answers_out_of_order_reach_the_kernel,
            test_cookie_reused_at_once_is_a_new_fault,
            test_answer_to_unknown_stag_is_counted,
            test_stall_term_answers_every_fault_of_the_stream,
        ],
        nested: [
            test_mixed_answers_out_of_order_end_each_access_as_told,
            test_resume_without_retry_aborts_the_access,
            test_resume_with_retry_makes_the_access_whatever_else_it_says,
        ],
    }
    page_table {
        any: [
            test_detach_with_faults_outstanding_aborts_them,
            test_replace_with_faults_outstanding_aborts_them_and_serves_new_ones,
            test_replace_without_hold_makes_answers_refused_and_counted,
            test_cookie_of_aborted_fault_comes_again_as_new_fault,
            test_hold_without_replace_keeps_faults_and_answers,
            test_batch_with_aborted_entry_is_written_to_its_end,
        ],
        nested: [],
    }
    lifetime {
        any: [
            test_backend_killed_successor_aborts_what_it_had_read,
            test_recover_with_nothing_left_aborts_nothing,
        ],
        nested: [],
    }
    kills {
        any: [test_backends_killed_at_random_answer_each_fault_once],
        nested: [],
    }
    owner {
        any: [
            test_owner_killed_with_faults_outstanding_is_noticed,
            test_owner_exits_with_faults_outstanding_is_noticed,
        ],
        nested: [test_owner_gone_unnoticed_makes_answers_refused],
    }
    drain {
        any: [
            test_drain_waits_for_the_last_answer,
            test_drain_does_not_end_while_held,
            test_drain_with_faults_that_keep_coming_saves_and_loads,
        ],
        nested: [],
    }
    veventq {
        any: [],
        nested: [
            test_veventq_records_reach_the_guest_in_order,
            test_veventq_overflow_is_reported_in_its_place,
            test_veventq_sequence_gap_is_reported_in_its_place,
        ],
    }
    stage_two {
        any: [],
        nested: [test_stage_two_fault_is_recognised_and_not_shown_to_the_guest],
    }
    load {
        any: [test_100000_faults_under_load_are_answered_once_each],
        nested: [],
    }
}
