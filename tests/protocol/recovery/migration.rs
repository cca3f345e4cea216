// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM moves to another back-end, and the processes on both sides are killed.

use super::{
    kill_at_each, kill_step,
    vm::{Vm, KERNEL, PRI},
};

fn traffic(vm: &mut Vm) {
    vm.raise(0, 1);
    vm.raise(KERNEL[0], 2);
    vm.submit(0);
    vm.submit(PRI);
    vm.until("answers", Vm::answered);
    vm.until("an empty queue", |vm| vm.copies.is_empty());
}

fn drain(vm: &mut Vm) {
    vm.drain();
    vm.raise(1, 1);
    for device in [0, PRI, KERNEL[1]] {
        vm.submit(device);
    }
    vm.until("a drain", |vm| vm.drained && vm.answered());
}

/// The processes end where they are told to: those before the state has been saved, and those
/// after.
fn scenario(source: &[String], destination: &[String], by_copies: bool) -> u32 {
    let mut vm = Vm::new(source);
    traffic(&mut vm);
    drain(&mut vm);
    let state = vm.save();
    vm.fail_at = destination.iter().cloned().collect();
    vm.load(&state, by_copies);
    vm.go_on();
    traffic(&mut vm);
    // And once more, to see that the second is as good as the first.
    vm.fail_at.clear();
    drain(&mut vm);
    let state = vm.save();
    vm.load(&state, by_copies);
    vm.go_on();
    traffic(&mut vm);
    vm.check();
    vm.kills
}

pub fn at_source(fail_at: &[String]) -> u32 {
    scenario(fail_at, &[], true)
}

pub fn at_destination(fail_at: &[String]) -> u32 {
    scenario(&[], fail_at, true)
}

fn at_destination_loaded_again(fail_at: &[String]) -> u32 {
    scenario(&[], fail_at, false)
}

#[test]
fn test_migration_without_kills_executes_each_submission_once() {
    assert_eq!(at_source(&[]), 0);
}

#[test]
fn test_kill_while_saving_saves_the_same_again() {
    for place in ["saving", "checking"] {
        assert_eq!(kill_at_each(at_source, place, 1), 1, "{place}");
    }
}

#[test]
fn test_kill_before_while_and_after_loading_executes_each_submission_once() {
    for scenario in [at_destination, at_destination_loaded_again] {
        for place in ["checking", "loading", "loaded"] {
            assert!(kill_at_each(scenario, place, 1) >= 1, "{place}");
        }
    }
}

#[test]
fn test_kill_while_replaying_executes_each_submission_once() {
    for place in ["emitted", "taken", "portal"] {
        assert!(kill_at_each(at_destination, place, 1) > 0, "{place}");
    }
}

#[test]
fn test_kill_at_every_step_of_a_drain_and_a_save_executes_each_submission_once() {
    for place in ["step", "stepped", "taken", "emitted"] {
        assert!(kill_at_each(at_source, place, 1) > 0, "{place}");
    }
    assert!(kill_at_each(at_source, "store", kill_step(83)) > 0);
}

#[test]
fn test_kill_before_and_after_a_migration_in_each_order_loses_nothing() {
    let first = [
        "step:9",
        "has read:2",
        "taken:2",
        "emitted:2",
        "has written:1",
    ];
    let second = [
        "step:9",
        "has read:1",
        "taken:1",
        "emitted:1",
        "has written:1",
    ];
    for first in first {
        for second in second {
            let (source, destination) = ([first.to_owned()], [second.to_owned()]);
            let kills = scenario(&source, &destination, true);
            assert_eq!(kills, 2, "{first}, then {second}");
        }
    }
}

#[test]
fn test_kills_during_the_recoveries_before_and_after_a_migration_lose_nothing() {
    for then in ["recover:1", "request:3", "finish:1", "step:2", "taken:1"] {
        let source = ["saving:1".to_owned(), then.to_owned()];
        let destination = ["loaded:1".to_owned(), then.to_owned()];
        let kills = scenario(&source, &destination, true);
        assert!((3..=4).contains(&kills), "{then}: {kills}");
    }
}
