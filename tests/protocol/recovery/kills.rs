// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faults, submissions, a drain, and what a guest does to a device.

use vhost_user_vsva::core::Phase;

use super::{
    kill_at_each, kill_step,
    vm::{Vm, PRI},
};

/// Everything that there is once, with the processes ending where they are told to. Returns how
/// many have.
pub fn scenario(fail_at: &[String]) -> u32 {
    let mut vm = Vm::new(fail_at);
    vm.raise(0, 1);
    vm.until("an answer", |vm| vm.answers.len() == 1);
    vm.submit(0);
    vm.raise(1, 2);
    vm.raise(0, 1);
    vm.raise(PRI, 3);
    vm.submit(1);
    vm.until("four answers", |vm| vm.answers.len() == 4);
    vm.until("an empty queue", |vm| vm.copies.is_empty());
    vm.drain();
    vm.raise(0, 1);
    vm.submit(0);
    vm.submit(PRI);
    vm.until("a drain", |vm| vm.drained);
    assert_eq!(vm.copies.len(), 2);
    vm.release();
    vm.submit(1);
    vm.until("a release", |vm| vm.released && vm.copies.is_empty());
    vm.withhold = true;
    for device in [0, 1, PRI] {
        vm.raise(device, 1);
    }
    vm.until("events", Vm::seen);
    vm.stall_term(0);
    vm.submit(1);
    vm.reset(1);
    vm.until("two answers", |vm| {
        vm.answers.len() + 1 == vm.next_cookie as usize - 1
    });
    vm.detach(PRI);
    vm.until("answers", Vm::answered);
    vm.withhold = false;
    vm.raise(0, 1);
    vm.raise(1, 1);
    vm.submit(0);
    vm.until("an empty queue", |vm| vm.copies.is_empty());
    vm.check();
    vm.until("the phase RUNNING", |vm| {
        let status = vm.memory.status();
        status.is_some_and(|status| status.phase.get() == Phase::Running as u32)
    });
    vm.kills
}

#[test]
fn test_back_end_that_never_ends_serves_everybody_once() {
    assert_eq!(scenario(&[]), 0);
}

fn every(place: &str, step: usize) {
    assert!(
        kill_at_each(scenario, place, step) > 0,
        "{place} is never passed"
    );
}

#[test]
fn test_kill_at_every_step_loses_and_doubles_nothing() {
    every("step", 1);
}

#[test]
fn test_kill_after_every_step_loses_and_doubles_nothing() {
    every("stepped", 1);
}

#[test]
fn test_kill_around_every_read_loses_and_doubles_nothing() {
    every("read", 1);
    every("has read", 1);
}

#[test]
fn test_kill_around_every_answer_loses_and_doubles_nothing() {
    every("write", 1);
    every("has written", 1);
}

#[test]
fn test_kill_around_every_message_loses_and_doubles_nothing() {
    every("emitted", 1);
    every("portal", 1);
    every("taken", 1);
}

/// All of them take long: VSVA_KILL_EVERY=1.
#[test]
fn test_kill_at_stores_loses_and_doubles_nothing() {
    every("store", kill_step(97));
}

#[test]
fn test_kill_around_every_request_loses_and_doubles_nothing() {
    every("request", 1);
    every("replying", 1);
}

#[test]
fn test_kill_at_each_step_of_the_recovery_loses_and_doubles_nothing() {
    let first = ["has read:3", "has written:2", "emitted:2", "taken:2"];
    // The requests of the second connection are its first ones.
    for (first, then) in first.iter().zip(["request", "replying", "step", "read"]) {
        for number in 1..=7 {
            let fail_at = [(*first).to_owned(), format!("{then}:{number}")];
            assert_eq!(scenario(&fail_at), 2, "{fail_at:?}");
        }
    }
    for first in first {
        for then in ["recover:1", "finish:1", "store:9", "store:40"] {
            let fail_at = [first.to_owned(), then.to_owned()];
            assert_eq!(scenario(&fail_at), 2, "{fail_at:?}");
        }
    }
}
