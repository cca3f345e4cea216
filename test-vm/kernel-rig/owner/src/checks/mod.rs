// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The checks, each a function of its own that panics when it fails.

mod answers;
mod faults;
mod queue;

use crate::{
    hardware::{Hardware, Mock, Nested, StageTwo},
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
}

/// Test devices behind arm-smmu-v3.
pub fn nested(devices: usize) -> Nested {
    Nested::new(devices, StageTwo::Usual).expect("test devices in a nested configuration")
}

/// One check.
pub struct Check {
    pub name: &'static str,
    pub run: fn(Platform),
    /// Needs accesses that are really made and end.
    pub nested_only: bool,
}

macro_rules! checks {
    ($($module:ident { any: [$($any:ident),* $(,)?], nested: [$($nested:ident),* $(,)?] $(,)? })+) => {
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
            test_answer_to_unknown_stag_is_counted,
            test_stall_term_answers_every_fault_of_the_stream,
        ],
        nested: [
            test_mixed_answers_out_of_order_end_each_access_as_told,
            test_every_other_response_aborts_the_access,
        ],
    }
}
