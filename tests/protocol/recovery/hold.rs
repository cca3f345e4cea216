// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! HOLD, UNHOLD and DETACH of devices of the kernel, and faults that the kernel aborts.

use super::{
    kill_at_each, kill_step,
    vm::{Vm, KERNEL},
};

const HELD: u32 = KERNEL[0];
const OTHER: u32 = KERNEL[1];

/// Page tables are replaced with and without faults that wait, one while there is no back-end, and
/// a device goes away while it is held.
pub fn scenario(fail_at: &[String]) -> u32 {
    let mut vm = Vm::new(fail_at);
    vm.raise(HELD, 2);
    vm.until("an answer", |vm| vm.answers.len() == 1);
    // Seen and not answered, of both devices of the channel.
    vm.withhold = true;
    vm.raise(HELD, 1);
    vm.raise(HELD, 2);
    vm.raise(OTHER, 1);
    vm.until("events", Vm::seen);
    vm.hold(HELD);
    vm.raise(HELD, 1);
    vm.unhold(HELD, true);
    vm.answer_withheld();
    vm.until("answers after the abort", Vm::answered);
    vm.raise(HELD, 1);
    vm.until("an answer after the abort", Vm::answered);
    // Answered while it is held, and nothing is aborted.
    vm.withhold = true;
    vm.raise(HELD, 1);
    vm.until("an event", Vm::seen);
    vm.hold(HELD);
    vm.answer_withheld();
    vm.until("what the guest has said", Vm::caught_up);
    assert!(!vm.answered(), "answered while it is held");
    vm.raise(OTHER, 1);
    vm.unhold(HELD, false);
    vm.until("answers", Vm::answered);
    vm.hold(HELD);
    vm.detach(HELD);
    vm.raise(OTHER, 2);
    vm.check();
    vm.kills
}

/// The kernel aborts faults while there is no back-end; the processes after the first end where
/// they are told to.
fn aborted_while_away(fail_at: &[String]) -> u32 {
    let mut vm = Vm::new(&[]);
    vm.withhold = true;
    vm.raise(HELD, 1);
    vm.raise(OTHER, 1);
    vm.until("events", Vm::seen);
    vm.fail_at = fail_at.iter().cloned().collect();
    vm.abort_while_away(HELD);
    vm.raise(HELD, 1);
    vm.answer_withheld();
    vm.check();
    vm.kills - 1
}

#[test]
fn test_devices_that_are_held_are_served_once_when_nothing_is_killed() {
    assert_eq!(scenario(&[]), 0);
    assert_eq!(aborted_while_away(&[]), 0);
}

#[test]
fn test_kill_around_hold_unhold_and_detach_answers_each_fault_once() {
    for place in ["request", "replying"] {
        let killed = kill_at_each(scenario, place, 1);
        assert_eq!(killed, 12, "{place}");
    }
}

#[test]
fn test_kill_at_every_step_with_held_devices_answers_each_fault_once() {
    for place in ["step", "stepped", "one"] {
        assert!(kill_at_each(scenario, place, 1) > 0, "{place}");
    }
    assert!(kill_at_each(scenario, "store", kill_step(61)) > 0);
}

#[test]
fn test_kill_around_reads_and_writes_of_a_kernel_file_answers_each_fault_once() {
    for place in ["read", "has read", "write", "has written"] {
        assert!(kill_at_each(scenario, place, 1) > 0, "{place}");
    }
}

#[test]
fn test_kill_during_hold_and_again_during_the_recovery_answers_each_fault_once() {
    // SHARED_MEMORY and ATTACH of five devices come first.
    let places = ["request:7", "replying:7", "request:8", "replying:8"];
    for first in places {
        for then in places.iter().chain(&["finish:1", "step:8", "stepped:8"]) {
            let fail_at = [first.to_owned(), (*then).to_owned()];
            assert_eq!(scenario(&fail_at), 2, "{fail_at:?}");
        }
    }
}

#[test]
fn test_kill_while_aborted_faults_are_forgotten_answers_the_others_once() {
    for place in ["request", "replying", "step", "stepped", "finish"] {
        assert!(kill_at_each(aborted_while_away, place, 1) > 0, "{place}");
    }
}
