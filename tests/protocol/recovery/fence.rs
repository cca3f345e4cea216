// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A back-end is stopped, given up, replaced, and continued: it finds that it has been replaced,
//! and ends without having done anything.

use super::{
    kill_at_each, kill_step,
    vm::{Vm, KERNEL, PRI},
};

/// A process is stopped where it is told to, and another goes on. The first is continued when the
/// other has recovered, and while faults come. Returns how many were stopped.
fn scenario(stop_at: &[String]) -> u32 {
    let stop_at: Vec<String> = stop_at
        .iter()
        .map(|place| format!("{place}:stop"))
        .collect();
    let mut vm = Vm::new(&stop_at);
    let mut continued = 0;
    for round in 0..4 {
        vm.withhold = round == 1;
        for device in [0, PRI, KERNEL[0], KERNEL[1]] {
            vm.raise(device, 1);
        }
        vm.submit(0);
        vm.until("events", Vm::seen);
        vm.answer_withheld();
        if round == 2 {
            vm.drain();
            vm.submit(1);
            vm.until("a drain", |vm| vm.drained);
            vm.release();
        }
        continued += go_on(&mut vm);
        vm.until("answers", Vm::answered);
        vm.until("an empty queue", |vm| vm.copies.is_empty());
    }
    vm.check();
    continued += go_on(&mut vm);
    vm.check();
    assert_eq!(continued, vm.kills);
    continued
}

/// Continues what has been stopped and given up, while there is something to do.
fn go_on(vm: &mut Vm) -> u32 {
    let mut continued = 0;
    for hung in std::mem::take(&mut vm.hung) {
        vm.raise(KERNEL[0], 2);
        vm.raise(1, 1);
        let (status, said) = hung.go_on_and_end();
        assert_eq!(status.code(), Some(1), "{said}");
        let text = "another process has taken over the recovery area, this one ends";
        assert!(said.contains(text), "{said}");
        continued += 1;
    }
    continued
}

#[test]
fn test_back_end_that_was_stopped_and_replaced_ends_when_it_is_continued() {
    assert_eq!(scenario(&[]), 0);
    // Around each call on a fault file, and in the middle of each step.
    for place in [
        "read",
        "has read",
        "write",
        "has written",
        "step",
        "stepped",
        "portal",
        "one",
    ] {
        assert!(kill_at_each(scenario, place, 3) > 0, "{place}");
    }
    for place in ["emitted", "taken"] {
        assert!(kill_at_each(scenario, place, 2) > 0, "{place}");
    }
    assert!(kill_at_each(scenario, "store", kill_step(53)) > 0);
}

#[test]
fn test_back_end_that_was_stopped_while_idle_and_replaced_reads_no_fault_when_it_is_continued() {
    let mut vm = Vm::new(&[]);
    vm.withhold = true;
    vm.raise(KERNEL[0], 1);
    vm.raise(0, 1);
    vm.until("events", Vm::seen);
    vm.backend.signal(rustix::process::Signal::STOP);
    vm.until("another back-end", |vm| vm.hung.len() == 1);
    let hung = vm.hung.remove(0);
    // Both wait for these.
    hung.signal(rustix::process::Signal::CONT);
    for _ in 0..8 {
        vm.raise(KERNEL[0], 1);
        vm.raise(1, 1);
    }
    vm.answer_withheld();
    vm.check();
    let (status, said) = hung.go_on_and_end();
    assert_eq!(status.code(), Some(1), "{said}");
}
