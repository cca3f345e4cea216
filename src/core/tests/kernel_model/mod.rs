// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random interleavings on fault files of the kernel: page tables that are replaced with and
//! without HOLD, cookies that come again, page request groups, vEVENTQs, broadcasts, deadlines met
//! exactly, devices that get another SID and `dev_id`, moves to another host, new connections, and
//! a front end that breaks the rules. Figures, order and reasons must be exact.

mod channels;
mod check;
mod front_end;
mod guest;
mod kernel;
mod world;

use proptest::prelude::*;

use crate::wire::SSID_MAX;
use world::World;

#[derive(Clone, Debug)]
enum Op {
    Raise {
        device: u32,
        records: u32,
        pasid: Option<u32>,
    },
    Read {
        channel: usize,
        groups: u32,
    },
    Emit {
        buffers: u32,
    },
    Resume {
        pick: usize,
        success: bool,
    },
    PriResp {
        pick: usize,
        success: bool,
    },
    PriGuess {
        device: u32,
        group: u32,
    },
    StallTerm {
        device: u32,
    },
    WriteAnswers {
        channel: usize,
        count: usize,
    },
    Hold {
        device: u32,
    },
    Replace {
        device: u32,
    },
    Unhold {
        device: u32,
    },
    /// As a front end does that does not know HOLD.
    ReplaceWithoutHold {
        device: u32,
    },
    StageOne {
        device: Option<u32>,
        stall: bool,
        lost: u32,
        record: bool,
    },
    Submit {
        device: u32,
    },
    Drain {
        timeout_ms: u32,
    },
    Quiesce {
        device: Option<u32>,
    },
    Release {
        zero: bool,
    },
    Reset {
        device: Option<u32>,
    },
    Attach {
        device: u32,
        vsid: u32,
        dev_id: u32,
    },
    Detach {
        device: u32,
    },
    /// The state moves to a host on which each `dev_id` is so much higher.
    Load {
        moved: u32,
    },
    Reconnect {
        resend: usize,
    },
    Deadline,
    Pass {
        ms: u64,
    },
    Break {
        how: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let device = 0..world::DEVICES;
    let any_or_all = prop::option::weighted(0.8, 0..world::DEVICES);
    let pasid = prop_oneof![
        6 => Just(Some(7)),
        2 => Just(None),
        1 => Just(Some(SSID_MAX)),
        1 => Just(Some(SSID_MAX + 1)),
    ];
    prop_oneof![
        12 => (device.clone(), 1..4u32, pasid)
            .prop_map(|(device, records, pasid)| Op::Raise { device, records, pasid }),
        14 => (0..2usize, 1..3u32).prop_map(|(channel, groups)| Op::Read { channel, groups }),
        14 => (1..5u32).prop_map(|buffers| Op::Emit { buffers }),
        12 => (any::<usize>(), any::<bool>())
            .prop_map(|(pick, success)| Op::Resume { pick, success }),
        6 => (any::<usize>(), any::<bool>())
            .prop_map(|(pick, success)| Op::PriResp { pick, success }),
        1 => (device.clone(), 0..4u32).prop_map(|(device, group)| Op::PriGuess { device, group }),
        1 => device.clone().prop_map(|device| Op::StallTerm { device }),
        12 => (0..2usize, 1..4usize)
            .prop_map(|(channel, count)| Op::WriteAnswers { channel, count }),
        4 => device.clone().prop_map(|device| Op::Hold { device }),
        3 => device.clone().prop_map(|device| Op::Replace { device }),
        6 => device.clone().prop_map(|device| Op::Unhold { device }),
        2 => device.clone().prop_map(|device| Op::ReplaceWithoutHold { device }),
        4 => (prop::option::weighted(0.9, device.clone()), any::<bool>(), 0..3u32, any::<bool>())
            .prop_map(|(device, stall, lost, record)| Op::StageOne { device, stall, lost, record }),
        8 => device.clone().prop_map(|device| Op::Submit { device }),
        4 => (0..40u32).prop_map(|timeout_ms| Op::Drain { timeout_ms }),
        10 => any_or_all.clone().prop_map(|device| Op::Quiesce { device }),
        4 => any::<bool>().prop_map(|zero| Op::Release { zero }),
        1 => any_or_all.prop_map(|device| Op::Reset { device }),
        6 => (device.clone(), 0..world::IDS, 0..world::IDS)
            .prop_map(|(device, vsid, dev_id)| Op::Attach { device, vsid, dev_id }),
        2 => device.prop_map(|device| Op::Detach { device }),
        4 => (0..world::IDS).prop_map(|moved| Op::Load { moved }),
        1 => (0..4usize).prop_map(|resend| Op::Reconnect { resend }),
        1 => Just(Op::Deadline),
        2 => (1..20u64).prop_map(|ms| Op::Pass { ms }),
        3 => (0..8u8).prop_map(|how| Op::Break { how }),
    ]
}

proptest! {
    #[test]
    fn test_model_of_kernel_channels_keeps_order_figures_and_reasons(
        ops in prop::collection::vec(op(), 1..250),
    ) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
        }
        world.finish();
    }
}
