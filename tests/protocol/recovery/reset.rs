// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM is reset, and nothing of what was before comes back.

use super::{
    kill_at_each,
    vm::{Vm, KERNEL, PRI},
};

pub fn scenario(fail_at: &[String]) -> u32 {
    let mut vm = Vm::new(fail_at);
    for _ in 0..2 {
        vm.withhold = true;
        for device in [0, PRI, KERNEL[0]] {
            vm.raise(device, 1);
        }
        vm.submit(0);
        vm.until("events", Vm::seen);
        vm.drain();
        vm.submit(1);
        // A reset drops what is still in the rings: then nobody would be killed for it.
        vm.until("every message to have taken effect", Vm::sent);
        vm.reset_all();
        vm.withhold = false;
    }
    vm.raise(0, 1);
    vm.raise(KERNEL[1], 2);
    vm.submit(1);
    vm.until("an empty queue", |vm| vm.copies.is_empty());
    vm.check();
    vm.kills
}

#[test]
fn test_kill_around_the_reset_of_a_vm_leaves_nothing_to_the_next() {
    assert_eq!(scenario(&[]), 0);
    assert_eq!(kill_at_each(scenario, "reset", 1), 4);
    for place in ["step", "taken"] {
        assert!(kill_at_each(scenario, place, 1) > 0, "{place}");
    }
}
