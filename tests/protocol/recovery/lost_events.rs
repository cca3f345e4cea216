// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Records of a vEVENTQ that were read and not delivered: the guest is told that some are lost.

use super::{kill_at_each, kill_step, vm::Vm};

pub fn scenario(fail_at: &[String]) -> u32 {
    let mut vm = Vm::new(fail_at);
    vm.raise(0, 1);
    vm.until("an answer", Vm::answered);
    for sequence in 1..=2 {
        let before = vm.events_lost;
        vm.lose_event(sequence);
        vm.until("EVENTS_LOST", |vm| vm.events_lost > before);
    }
    let said = vm.events_lost;
    vm.raise(0, 1);
    vm.check();
    // Twice is no harm where the process has ended between the queue and the message; but what the
    // front end has been told is over.
    let kills = vm.kills;
    vm.reconnect();
    vm.raise(1, 1);
    vm.check();
    assert_eq!(vm.events_lost, said);
    assert!((2..=2 + kills).contains(&said), "{said}");
    kills
}

#[test]
fn test_kill_while_a_vevent_is_on_its_way_tells_the_guest_that_one_is_lost() {
    assert_eq!(scenario(&[]), 0);
    for place in ["queue read", "emitted", "step", "one"] {
        assert!(kill_at_each(scenario, place, 1) > 0, "{place}");
    }
    assert!(kill_at_each(scenario, "store", kill_step(23)) > 0);
}
