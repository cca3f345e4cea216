// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::rig::{desc, part, record, submission, Rig};
use crate::core::{Observation, Phase, PortalError};
use crate::wire::{
    DrainRequest, GenerationPayload, Message, MessageType, Released, SmmuCommand, Submission,
    DEVICE_NONE, U16, U32, U64,
};

#[test]
fn test_portal_sequence_gap_or_repetition_is_an_error() {
    let mut rig = Rig::new();
    rig.submit(0);
    let mut message = Message::new(MessageType::Submit, 0, &submission(1));

    message.seq.set(3);
    let gap = rig.core.portal(&message, rig.now);
    message.seq.set(1);
    let repeated = rig.core.portal(&message, rig.now);

    let expected = |found| Err(PortalError::Sequence { expected: 2, found });
    assert_eq!(gap, expected(3));
    assert_eq!(repeated, expected(1));
    assert_eq!(rig.core.counters().submissions, 1);
}

#[test]
fn test_portal_unknown_type_is_an_error() {
    let mut rig = Rig::new();
    let mut message = Message::new(MessageType::Submit, 0, &submission(0));
    message.seq.set(1);
    for kind in [0, 7, MessageType::Replay as u16, u16::MAX] {
        message.kind = U16::new(kind);

        let result = rig.core.portal(&message, rig.now);

        assert_eq!(result, Err(PortalError::UnknownType { seq: 1, kind }));
    }
}

#[test]
fn test_submit_while_running_is_replayed_and_released() {
    let mut rig = Rig::new();

    rig.submit(0);
    let messages = rig.messages();

    assert_eq!(messages[0].message_type(), Some(MessageType::Replay));
    assert_eq!(messages[0].payload::<Submission>(), submission(0));
    let released: Released = messages[1].payload();
    assert_eq!(released.generation.get(), 0);
    assert_eq!(released.next_ticket.get(), 1);
    assert_eq!(rig.core.phase(), Phase::Running);
}

#[test]
fn test_submit_ticket_gap_is_an_error() {
    let mut rig = Rig::new();
    rig.submit(0);

    let gap = rig.try_portal(MessageType::Submit, 0, &submission(2));
    let repeated = rig.try_portal(MessageType::Submit, 0, &submission(0));

    let expected = |found| Err(PortalError::Ticket { expected: 1, found });
    assert_eq!(gap, expected(2));
    assert_eq!(repeated, expected(0));
}

#[test]
fn test_submit_known_tickets_after_reconnection_are_ignored() {
    let mut rig = Rig::new();
    rig.drain(1, 100);
    rig.submit(0);
    rig.submit(0);
    rig.core.rings_reset();
    rig.seq = 0;

    rig.portal(MessageType::Submit, 0, &submission(1));
    rig.portal(MessageType::Submit, 0, &submission(2));
    let late = rig.try_portal(MessageType::Submit, 0, &submission(1));

    assert_eq!(rig.core.pending(), 3);
    assert_eq!(rig.core.counters().submissions, 3);
    assert!(late.is_err());
    let known = Observation::SubmissionKnown {
        device: 0,
        ticket: 1,
    };
    assert!(rig.observed(&known));
}

#[test]
fn test_submit_of_impossible_size_is_an_error() {
    let mut rig = Rig::new();
    let mut wide = submission(0);
    wide.size = U32::new(32);

    let result = rig.try_portal(MessageType::Submit, 0, &wide);

    let error = PortalError::SubmissionSize {
        ticket: 0,
        size: 32,
    };
    assert_eq!(result, Err(error));
}

#[test]
fn test_submit_beyond_the_credit_is_an_error() {
    let mut rig = Rig::new();
    rig.drain(1, 100);
    for _ in 0..8 {
        rig.submit(0);
    }

    let result = rig.try_portal(MessageType::Submit, 0, &submission(8));

    let error = PortalError::Credit {
        ticket: 8,
        max_pending: 8,
    };
    assert_eq!(result, Err(error));
    assert_eq!(rig.core.pending(), 8);
}

#[test]
fn test_submit_at_the_credit_after_one_replay_is_accepted() {
    let mut rig = Rig::new();
    rig.drain(1, 100);
    for _ in 0..8 {
        rig.submit(0);
    }
    rig.release(1);
    rig.next_message();

    rig.submit(0);

    assert_eq!(rig.core.pending(), 8);
}

#[test]
fn test_submit_of_detached_device_counts_as_replayed() {
    let mut rig = Rig::new();
    rig.core.detach(0, rig.now).unwrap();

    rig.submit(0);
    let messages = rig.messages();

    assert_eq!(messages.len(), 1);
    let released: Released = messages[0].payload();
    assert_eq!(released.next_ticket.get(), 1);
}

#[test]
fn test_command_without_effect_is_accepted_in_every_phase() {
    let mut rig = Rig::new();
    let sync = SmmuCommand::Other { opcode: 0x46 };

    rig.command(sync);
    rig.drain(1, 100);
    rig.command(sync);
    rig.release(1);
    rig.command(sync);

    assert_eq!(rig.core.counters().unknown_answers, 0);
}

#[test]
fn test_reset_answers_faults_and_drops_submissions_and_events() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 0));
    rig.drain(1, 100);
    rig.delivered(1);
    rig.fault(0, &record(0, 2));
    rig.fault(0, &record(1, 3));
    rig.submit(0);
    rig.submit(1);

    rig.reset(0);

    assert_eq!(rig.answers(0), [(1, 1), (2, 1)]);
    assert_eq!(rig.stags().len(), 1);
    assert_eq!(rig.core.pending(), 1);
    assert_eq!(rig.core.outstanding(), 1);
}

#[test]
fn test_reset_within_a_group_refuses_the_rest_of_it() {
    let mut rig = Rig::new();
    rig.fault(0, &part(0, 1));

    rig.reset(0);
    assert_eq!(rig.peek_answers(0), []);
    rig.fault(0, &record(0, 1));
    rig.fault(0, &record(0, 2));

    assert_eq!(rig.answers(0), [(1, 1)]);
    assert_eq!(rig.stags().len(), 1);
}

#[test]
fn test_reset_of_all_devices_resets_each() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 1));
    rig.fault(0, &record(0, 1));
    rig.fault(1, &record(1, 1));

    rig.reset(DEVICE_NONE);
    rig.reset(3);

    assert_eq!(rig.answers(0), [(1, 1)]);
    assert_eq!(rig.answers(1), [(1, 1)]);
}

#[test]
fn test_reset_that_empties_the_queue_still_releases() {
    let mut rig = Rig::new();
    rig.drain(1, 100);
    rig.submit(0);
    rig.release(1);

    rig.reset(0);
    let messages = rig.messages();

    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].payload::<Released>().next_ticket.get(), 1);
}

#[test]
fn test_drain_of_generation_zero_is_an_error() {
    let mut rig = Rig::new();
    let request = DrainRequest {
        generation: U64::ZERO,
        timeout_ms: U32::new(1),
        reserved: U32::ZERO,
    };

    let result = rig.try_portal(MessageType::Drain, DEVICE_NONE, &request);

    assert_eq!(result, Err(PortalError::ZeroGeneration));
    assert_eq!(rig.core.phase(), Phase::Running);
}

#[test]
fn test_release_of_another_generation_is_an_error() {
    let mut rig = Rig::new();
    rig.drain(2, 100);
    let payload = GenerationPayload {
        generation: U64::new(1),
    };

    let result = rig.try_portal(MessageType::Release, DEVICE_NONE, &payload);

    let error = PortalError::ReleaseGeneration {
        current: 2,
        found: 1,
    };
    assert_eq!(result, Err(error));
    assert_eq!(rig.core.phase(), Phase::Draining);
}
