// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random interleavings of everything that can happen, against simple models of the other sides:
//! hardware that raises faults and wants each group answered once, a guest that answers events, and
//! a front end that keeps to the protocol and wants each submission replayed once and in order,
//! over drains, resets, migrations and reconnections. Another front end may take its place and
//! begin anew. The process of the core ends, and another goes on from what it has saved.

mod check;
mod front_end;
mod hardware;
mod kill;
mod world;

use proptest::prelude::*;

use world::{World, DEVICES};

#[derive(Clone, Debug)]
enum Op {
    Raise { device: u32, records: u32 },
    Read { device: u32, records: u32 },
    Emit { buffers: u32 },
    EmitFails,
    Answer { pick: usize, success: bool },
    Guess { device: u32, stag: u16 },
    StallTerm { device: u32 },
    WriteAnswers { device: u32, count: usize },
    AbortAnswer { device: u32 },
    Submit { device: u32 },
    Drain { timeout_ms: u32 },
    Quiesce { device: u32 },
    Release,
    Reset { device: u32 },
    Detach { device: u32 },
    Attach { device: u32 },
    ChannelLost { device: u32, reason: u32 },
    Pass { ms: u64 },
    SaveAndStay,
    Migrate,
    Reconnect { resend: usize },
    BeginAnew { writable: bool },
    Kill,
}

fn op() -> impl Strategy<Value = Op> {
    let device = 0..DEVICES;
    prop_oneof![
        12 => (device.clone(), 1..4u32).prop_map(|(device, records)| Op::Raise { device, records }),
        16 => (device.clone(), 1..5u32).prop_map(|(device, records)| Op::Read { device, records }),
        14 => (1..6u32).prop_map(|buffers| Op::Emit { buffers }),
        1 => Just(Op::EmitFails),
        16 => (any::<usize>(), any::<bool>())
            .prop_map(|(pick, success)| Op::Answer { pick, success }),
        2 => (device.clone(), 0..6u16).prop_map(|(device, stag)| Op::Guess { device, stag }),
        1 => device.clone().prop_map(|device| Op::StallTerm { device }),
        14 => (device.clone(), 1..4usize)
            .prop_map(|(device, count)| Op::WriteAnswers { device, count }),
        1 => device.clone().prop_map(|device| Op::AbortAnswer { device }),
        10 => device.clone().prop_map(|device| Op::Submit { device }),
        4 => (1..60u32).prop_map(|timeout_ms| Op::Drain { timeout_ms }),
        12 => device.clone().prop_map(|device| Op::Quiesce { device }),
        4 => Just(Op::Release),
        1 => device.clone().prop_map(|device| Op::Reset { device }),
        1 => device.clone().prop_map(|device| Op::Detach { device }),
        2 => device.clone().prop_map(|device| Op::Attach { device }),
        1 => (device, 1..5u32).prop_map(|(device, reason)| Op::ChannelLost { device, reason }),
        3 => (1..30u64).prop_map(|ms| Op::Pass { ms }),
        2 => Just(Op::SaveAndStay),
        3 => Just(Op::Migrate),
        1 => (0..4usize).prop_map(|resend| Op::Reconnect { resend }),
        1 => any::<bool>().prop_map(|writable| Op::BeginAnew { writable }),
        3 => Just(Op::Kill),
    ]
}

proptest! {
    #[test]
    fn test_model_random_interleavings_keep_the_invariants(
        ops in prop::collection::vec(op(), 1..250),
    ) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
        }
        world.finish();
    }
}
