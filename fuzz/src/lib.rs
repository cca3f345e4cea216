// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the fuzz targets do with their input. `tests/fuzz_inputs.rs` of the main crate does the
//! same with the seeds.
//!
//! Each function must neither panic nor break what it asserts, whatever the input is.

#![forbid(unsafe_code)]

use vhost_user_vsva::core::{Attachment, Core, FaultError, Limits, Phase};
use vhost_user_vsva::state;
use vhost_user_vsva::wire::{
    LostReason, Message, MessageType, PageResponse, PgFault, Submission, MESSAGE_SIZE,
    PGFAULT_SIZE, U32, U64,
};
use zerocopy::{FromBytes, IntoBytes};

const LIMITS: Limits = Limits {
    max_devices: 3,
    max_pending: 8,
    max_faults: 8,
    max_device_faults: 0,
};
/// Flags of the byte before each message or record.
const KEEP_SEQUENCE: u8 = 1 << 7;
const KEEP_TICKET: u8 = 1 << 6;

fn core() -> Core {
    let mut core = Core::new(LIMITS, ()).expect("limits are in range");
    for (device, channel) in [(0, 0), (1, 0), (2, 1)] {
        let desc = Attachment {
            device,
            vsid: device,
            dev_id: device,
            channel,
            max_outstanding: [0, 2, 0][device as usize],
            pri: device == 2,
        };
        core.attach(&desc, 0).expect("devices differ");
    }
    core
}

/// Lets the core send so many messages.
fn emit(core: &mut Core, now: u64, buffers: u8) {
    for _ in 0..buffers {
        let sent = core.emit(now, |message| {
            assert!(message.message_type().is_some());
            Ok::<(), ()>(())
        });
        if sent == Ok(false) {
            break;
        }
    }
}

fn write_answers(core: &mut Core, now: u64) {
    let mut answers = [PageResponse {
        cookie: U32::ZERO,
        code: U32::ZERO,
    }; 4];
    for channel in 0..2 {
        let count = core.answers(channel, &mut answers);
        assert!(answers[..count].iter().all(|answer| answer.code.get() <= 1));
        core.answers_written(channel, count, now);
    }
}

fn check(core: &Core, now: u64) {
    let config = core.config_space(now);
    assert!(config.pending.get() <= LIMITS.max_pending);
    assert!(config.backlog.get() <= LIMITS.max_faults);
    if let Ok(saved) = core.snapshot() {
        let stream = state::encode(&saved);
        let loaded = state::decode(&stream[..]).expect("what was written can be read");
        assert_eq!(saved, loaded);
    }
}

/// Messages of the portal ring, as a front end that is broken or hostile sends them. Before each
/// comes a byte: its low bits say how many messages may be sent back, its high bits whether to keep
/// the numbers that the message has.
pub fn portal(data: &[u8]) {
    let mut core = core();
    let mut seq = 0;
    for (step, chunk) in (1..).zip(data.chunks_exact(1 + MESSAGE_SIZE)) {
        let now = step * 1_000_000;
        let mut message = Message::read_from_bytes(&chunk[1..]).expect("of the right size");
        if chunk[0] & KEEP_SEQUENCE == 0 {
            message.seq = U64::new(seq + 1);
        }
        if chunk[0] & KEEP_TICKET == 0 && message.message_type() == Some(MessageType::Submit) {
            let mut submission: Submission = message.payload();
            submission.ticket = U64::new(core.next_ticket());
            message.payload.copy_from_slice(submission.as_bytes());
        }
        if core.portal(&message, now).is_ok() {
            seq += 1;
            assert_eq!(message.seq.get(), seq);
        }
        core.tick(now);
        emit(&mut core, now, chunk[0] & 0x0f);
        while let Some(channel) = core.next_probe() {
            core.channel_empty(channel, now);
        }
        check(&core, now);
    }
}

/// Records of fault channels, as a broken kernel or device sends them. Before each comes a byte:
/// bit 0 is the channel, bit 1 has the guest answer all faults of the device named by bits 2 and 3,
/// bits 4 to 7 are the buffers of the event ring.
pub fn fault_records(data: &[u8]) {
    let mut core = core();
    let mut seq = 0;
    for (step, chunk) in (1..).zip(data.chunks_exact(1 + PGFAULT_SIZE)) {
        let now = step * 1_000_000;
        let channel = u32::from(chunk[0] & 1);
        let record = PgFault::read_from_bytes(&chunk[1..]).expect("of the right size");
        match core.fault(channel, &record, now) {
            Ok(()) => {}
            Err(FaultError::NoRoom { .. }) => assert!(!core.wants_read(channel)),
            Err(error) => {
                assert!(error.is_fatal());
                core.channel_lost(channel, LostReason::Protocol, now);
                assert!(!core.channel_in_use(channel));
            }
        }
        emit(&mut core, now, chunk[0] >> 4);
        if chunk[0] & 2 != 0 {
            seq += 1;
            let sid = u32::from((chunk[0] >> 2) & 3);
            let mut command = [0; 16];
            command[0] = 0x45;
            command[4..8].copy_from_slice(&sid.to_le_bytes());
            let mut message = Message::new(MessageType::SmmuCmd, u32::MAX, &command);
            message.seq = U64::new(seq);
            core.portal(&message, now).expect("a command is no error");
            write_answers(&mut core, now);
        }
        check(&core, now);
    }
}

/// A state stream from a hostile source. What it says is judged by a back-end that could load it.
pub fn state_stream(data: &[u8]) {
    let Ok(loaded) = state::decode(data) else {
        return;
    };
    let again = state::decode(&state::encode(&loaded)[..]).expect("what was written can be read");
    assert_eq!(loaded, again);
    let mut core = core();
    if core.restore(&loaded, 0).is_ok() {
        assert_eq!(core.phase(), Phase::Loaded);
        assert_eq!(core.pending() as usize, loaded.pending.len());
        let saved = core.snapshot().expect("nothing is outstanding");
        let content = |message: &Message| (message.device, message.payload);
        let saved = saved.pending.iter().map(content);
        assert!(saved.eq(loaded.pending.iter().map(content)));
        check(&core, 0);
    } else {
        assert_eq!(core.phase(), Phase::Running);
        assert_eq!(core.pending(), 0);
    }
}
