// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The back-end is killed at every place at which that could matter, and another goes on.
//!
//! The device is the oracle: each of its faults gets one answer, and the one that the guest gave.
//! So is the guest: it sees each fault once. So is the portal: each submission is executed once, in
//! order.

mod channel;
mod fence;
mod hold;
mod hostile;
mod kernel_file;
mod kills;
mod lost_events;
mod migration;
mod places;
mod random;
mod reconnect;
mod reset;
mod vm;

/// Runs a scenario, which says how many processes have ended, with the first process killed at
/// each passing of a place, or at some. Returns how often it was killed.
fn kill_at_each(scenario: impl Fn(&[String]) -> u32, place: &str, step: usize) -> u32 {
    let mut killed = 0;
    for number in (1..).step_by(step) {
        let kills = scenario(&[format!("{place}:{number}")]);
        if kills == 0 {
            break;
        }
        killed += kills;
    }
    killed
}

/// All of them take long: VSVA_KILL_EVERY=1.
fn kill_step(default: usize) -> usize {
    let step = std::env::var("VSVA_KILL_EVERY").ok();
    step.map_or(default, |step| step.parse().expect("a number"))
}
