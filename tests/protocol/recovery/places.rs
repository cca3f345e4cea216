// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Each place at which a process can be made to end is passed by a test.

use vhost_user_vsva::recovery::POINTS;

use super::{hold, kills, lost_events, migration, reset};

#[test]
fn test_every_place_is_passed_by_some_scenario_that_survives_a_kill_there() {
    let scenarios: [fn(&[String]) -> u32; 6] = [
        kills::scenario,
        hold::scenario,
        lost_events::scenario,
        migration::at_source,
        migration::at_destination,
        reset::scenario,
    ];
    for place in POINTS {
        let fail_at = [format!("{place}:1")];
        let killed = scenarios.iter().any(|scenario| scenario(&fail_at) > 0);
        assert!(killed, "{place} is never passed");
    }
}
