// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kills at random places, under load.

use super::vm::{Vm, DEVICES, KERNEL, PRI};

/// Numbers that are as good as random, and the same for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, most: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

fn variable(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("a number"))
}

/// VSVA_KILLS: how many; VSVA_SEED: those of another run.
#[test]
fn test_kills_at_random_places_under_load_lose_and_double_nothing() {
    let kills = variable("VSVA_KILLS").unwrap_or(40);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = variable("VSVA_SEED").unwrap_or(now.unwrap().as_secs());
    eprintln!("VSVA_KILLS={kills} VSVA_SEED={seed}");
    let mut random = Random(seed);
    let mut vm = Vm::new(&[format!("store:{}", 1 + random.below(300))]);
    while u64::from(vm.kills) < kills {
        if vm.fail_at.is_empty() {
            // Some end by themselves, in the middle of a step or of a recovery; others are killed.
            let most = [10, 100, 600, 3000][usize::try_from(random.below(4)).unwrap()];
            let place = format!("store:{}", 1 + random.below(most));
            vm.fail_at.push_back(place);
        }
        match random.below(14) {
            0..=4 => {
                let device = u32::try_from(random.below(DEVICES.into())).unwrap();
                let records = 1 + u32::try_from(random.below(3)).unwrap();
                let group = device == PRI || KERNEL.contains(&device);
                vm.raise(device, if group { records } else { 1 });
            }
            5..=6 => {
                if vm.copies.len() < 100 {
                    vm.submit(u32::try_from(random.below(3)).unwrap());
                }
            }
            7 => vm.withhold = true,
            8 => vm.answer_withheld(),
            9 if !vm.drain => {
                vm.answer_withheld();
                vm.drain();
            }
            9 => vm.release(),
            10 => {
                vm.withhold = true;
                vm.until("events", Vm::seen);
                let device = u32::try_from(random.below(DEVICES.into())).unwrap();
                if random.below(2) == 0 {
                    vm.reset(device);
                } else {
                    vm.stall_term(device);
                }
                vm.answer_withheld();
                // A fault that comes before the command would be meant by it.
                vm.until("commands", Vm::caught_up);
                vm.until("answers", Vm::answered);
            }
            11 => {
                let device = KERNEL[usize::try_from(random.below(2)).unwrap()];
                match random.below(3) {
                    0 => vm.abort_while_away(device),
                    aborted => {
                        vm.hold(device);
                        vm.unhold(device, aborted == 1);
                    }
                }
            }
            12 => vm.reconnect(),
            _ => {
                if random.below(4) == 0 {
                    let _ = vm.backend.child.kill();
                }
                let calls = random.below(20);
                for _ in 0..calls {
                    vm.until("nothing", |_| true);
                }
            }
        }
        if random.below(8) == 0 {
            vm.answer_withheld();
            vm.until("answers", Vm::answered);
        }
    }
    vm.fail_at.clear();
    vm.answer_withheld();
    vm.release();
    vm.until("an empty queue", |vm| vm.copies.is_empty());
    vm.check();
    eprintln!(
        "{} faults, {} submissions, {} answers came again",
        vm.next_cookie - 1,
        vm.next_ticket,
        vm.again
    );
}
