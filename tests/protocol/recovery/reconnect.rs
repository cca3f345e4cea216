// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Only the connection is lost: the process recovers from the area as another one would.

use super::vm::{Vm, KERNEL, PRI};

/// Everything that can be under way is under way when the connection ends.
pub fn scenario(fail_at: &[String]) -> u32 {
    let mut vm = Vm::new(fail_at);
    vm.raise(0, 1);
    vm.until("an answer", Vm::answered);
    vm.withhold = true;
    for device in [0, 1, PRI, KERNEL[0], KERNEL[1]] {
        vm.raise(device, 1);
        vm.submit(device);
    }
    vm.reconnect();
    vm.until("events", Vm::seen);
    vm.reconnect();
    vm.answer_withheld();
    vm.reconnect();
    vm.until("answers", Vm::answered);
    vm.drain();
    vm.submit(0);
    vm.submit(1);
    vm.reconnect();
    vm.until("a drain", |vm| vm.drained);
    vm.reconnect();
    vm.until("the drain again", |vm| vm.drained);
    vm.release();
    vm.reconnect();
    vm.until("an empty queue", |vm| vm.copies.is_empty());
    vm.hold(KERNEL[0]);
    vm.reconnect();
    vm.raise(KERNEL[0], 2);
    vm.unhold(KERNEL[0], false);
    vm.check();
    vm.kills
}

#[test]
fn test_connection_that_is_lost_again_and_again_loses_and_doubles_nothing() {
    assert_eq!(scenario(&[]), 0);
}

#[test]
fn test_kill_after_a_connection_was_lost_loses_and_doubles_nothing() {
    for place in ["recover", "finish", "has read", "has written", "emitted"] {
        assert!(super::kill_at_each(scenario, place, 1) > 0, "{place}");
    }
}
