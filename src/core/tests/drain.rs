// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::rig::{desc, part, record, sid, Rig, MS};
use crate::core::{Observation, Phase};
use crate::wire::{
    DrainFailed, DrainFailedReason, Drained, Message, MessageType, Released, Submission,
    DEVICE_NONE, FAULT_INFO_SSID_VALID, FAULT_INFO_VALID,
};

fn drained(messages: &[Message]) -> Drained {
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].message_type(), Some(MessageType::Drained));
    messages[0].payload()
}

fn failed(messages: &[Message]) -> DrainFailed {
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].message_type(), Some(MessageType::DrainFailed));
    messages[0].payload()
}

fn tickets(messages: &[Message]) -> Vec<u64> {
    messages
        .iter()
        .filter(|m| m.message_type() == Some(MessageType::Replay))
        .map(|m| m.payload::<Submission>().ticket.get())
        .collect()
}

/// A rig that is drained in generation 1.
fn drained_rig() -> Rig {
    let mut rig = Rig::new();
    rig.drain(1, 100);
    rig.quiesced(0, 1);
    rig.probe();
    drained(&rig.messages());
    rig
}

#[test]
fn test_drain_without_device_ends_at_once() {
    let mut rig = Rig::with_limits(super::rig::limits());

    rig.drain(1, 100);

    let drained = drained(&rig.messages());
    assert_eq!(drained.generation.get(), 1);
    assert_eq!(rig.core.phase(), Phase::Drained);
}

#[test]
fn test_drain_waits_for_every_device_to_quiesce() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 0));
    rig.drain(1, 100);
    rig.quiesced(1, 1);
    rig.probe();
    assert_eq!(rig.messages(), []);

    rig.quiesced(0, 1);
    rig.probe();

    drained(&rig.messages());
}

#[test]
fn test_quiesced_of_another_generation_is_ignored() {
    let mut rig = Rig::new();
    rig.drain(2, 100);

    rig.quiesced(0, 1);
    rig.quiesced(0, 3);
    rig.probe();

    assert_eq!(rig.messages(), []);
    assert_eq!(rig.core.phase(), Phase::Draining);
}

#[test]
fn test_quiesced_of_all_devices_counts_for_each() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 1));
    rig.drain(1, 100);

    rig.quiesced(DEVICE_NONE, 1);
    rig.probe();

    drained(&rig.messages());
}

#[test]
fn test_drain_reads_each_channel_after_the_quiesce() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 1));
    rig.core.channel_empty(0, rig.now);
    rig.core.channel_empty(1, rig.now);
    rig.drain(1, 100);
    assert_eq!(rig.core.next_probe(), None);
    rig.core.channel_empty(0, rig.now);
    rig.core.channel_empty(1, rig.now);
    rig.quiesced(0, 1);
    rig.quiesced(1, 1);
    assert_eq!(rig.messages(), []);

    assert_eq!(rig.core.next_probe(), Some(0));
    rig.core.channel_empty(0, rig.now);
    assert_eq!(rig.core.next_probe(), Some(1));
    rig.core.channel_empty(1, rig.now);

    assert_eq!(rig.core.next_probe(), None);
    drained(&rig.messages());
}

#[test]
fn test_drain_finds_an_unread_fault_when_it_probes() {
    let mut rig = Rig::new();
    rig.drain(1, 100);
    rig.quiesced(0, 1);
    assert_eq!(rig.core.next_probe(), Some(0));

    rig.fault(0, &record(0, 1));
    rig.core.channel_empty(0, rig.now);
    assert_eq!(rig.core.next_probe(), None);
    let stags = rig.stags();
    rig.resume(0, stags[0]);
    rig.answers(0);
    rig.probe();

    assert_eq!(drained(&rig.messages()).answered.get(), 1);
}

#[test]
fn test_drain_waits_until_the_answer_is_written() {
    let mut rig = Rig::new();
    let stag = rig.delivered(1);
    rig.submit(0);
    rig.messages();
    rig.drain(1, 100);
    rig.submit(0);
    rig.quiesced(0, 1);
    rig.core.channel_empty(0, rig.now);
    rig.now += 5 * MS;
    rig.resume(0, stag);
    rig.probe();
    assert_eq!(rig.messages(), []);
    rig.now += 2 * MS;

    rig.answers(0);
    rig.probe();

    let drained = drained(&rig.messages());
    assert_eq!(drained.duration_ns.get(), 7 * MS);
    assert_eq!(drained.answered.get(), 1);
    assert_eq!(drained.pending.get(), 1);
}

#[test]
fn test_drain_counts_an_aborted_answer_as_done() {
    let mut rig = Rig::new();
    let stag = rig.delivered(1);
    rig.drain(1, 100);
    rig.quiesced(0, 1);
    rig.core.channel_empty(0, rig.now);
    rig.resume(0, stag);

    rig.core.answer_aborted(0, rig.now);

    assert_eq!(drained(&rig.messages()).answered.get(), 0);
}

#[test]
fn test_drain_waits_for_a_group_that_is_not_complete() {
    let mut rig = Rig::new();
    rig.fault(0, &part(0, 1));
    let stags = rig.stags();
    rig.resume(0, stags[0]);
    rig.drain(1, 100);
    rig.quiesced(0, 1);
    rig.core.channel_empty(0, rig.now);

    assert_eq!(rig.core.next_probe(), None);
    assert_eq!(rig.messages(), []);
}

#[test]
fn test_faults_are_served_while_draining() {
    let mut rig = Rig::new();
    rig.drain(1, 100);

    for cookie in 1..=20 {
        let stag = rig.delivered(cookie);
        rig.resume(0, stag);
        assert_eq!(rig.answers(0), [(cookie, 0)]);
    }
    rig.quiesced(0, 1);
    rig.probe();

    assert_eq!(drained(&rig.messages()).answered.get(), 20);
}

#[test]
fn test_drain_at_its_deadline_names_the_oldest_fault() {
    let mut rig = Rig::new();
    rig.delivered(7);
    rig.now += 30 * MS;
    rig.drain(1, 100);
    rig.delivered(8);
    let deadline = rig.core.deadline().unwrap();
    assert_eq!(deadline, rig.now + 100 * MS);

    rig.core.tick(deadline - 1);
    assert_eq!(rig.core.phase(), Phase::Draining);
    rig.core.tick(deadline);

    let failed = failed(&rig.messages());
    assert_eq!(failed.generation.get(), 1);
    assert_eq!(failed.reason.get(), DrainFailedReason::Deadline as u32);
    assert_eq!(failed.outstanding.get(), 2);
    assert_eq!(failed.sid.get(), sid(0));
    assert_eq!(failed.ssid.get(), 1);
    assert_eq!(failed.addr.get(), 0x7000);
    assert_eq!(failed.age_ms.get(), 130);
    let flags = FAULT_INFO_VALID | FAULT_INFO_SSID_VALID;
    assert_eq!(failed.flags.get(), flags);
    assert_eq!(rig.core.phase(), Phase::Failed);
    assert_eq!(rig.core.deadline(), None);
    assert_eq!(rig.core.counters().drains_failed, 1);
}

#[test]
fn test_drain_at_its_deadline_without_fault_has_no_fault_fields() {
    let mut rig = Rig::new();
    rig.drain(1, 0);

    rig.core.tick(rig.now);

    let failed = failed(&rig.messages());
    assert_eq!(failed.outstanding.get(), 0);
    assert_eq!(failed.flags.get(), 0);
}

#[test]
fn test_drain_with_full_table_at_its_deadline_says_so() {
    let mut rig = Rig::new();
    for cookie in 1..=8 {
        rig.fault(0, &record(0, cookie));
    }
    rig.messages();
    rig.try_fault(0, &record(0, 9)).unwrap_err();
    rig.drain(1, 100);

    rig.core.tick(rig.core.deadline().unwrap());

    let failed = failed(&rig.messages());
    assert_eq!(
        failed.reason.get(),
        DrainFailedReason::FaultTableFull as u32
    );
    assert_eq!(failed.outstanding.get(), 8);
}

#[test]
fn test_drain_with_full_table_that_goes_on_succeeds() {
    let mut rig = Rig::new();
    for cookie in 1..=8 {
        rig.fault(0, &record(0, cookie));
    }
    let stags = rig.stags();
    rig.try_fault(0, &record(0, 9)).unwrap_err();
    rig.drain(1, 100);
    rig.quiesced(0, 1);
    for stag in stags {
        rig.resume(0, stag);
    }
    rig.answers(0);
    // The shell still keeps the record that found no room.
    rig.core.channel_empty(0, rig.now);
    assert_eq!(rig.core.next_probe(), None);
    assert_eq!(rig.messages(), []);

    rig.fault(0, &record(0, 9));
    let last = rig.stags();
    rig.resume(0, last[0]);
    rig.answers(0);
    rig.probe();

    assert_eq!(drained(&rig.messages()).answered.get(), 9);
}

#[test]
fn test_fault_before_drained_is_sent_resumes_the_drain() {
    let mut rig = Rig::new();
    rig.drain(1, 100);
    rig.quiesced(0, 1);
    rig.probe();
    assert_eq!(rig.core.phase(), Phase::Drained);

    rig.fault(0, &record(0, 1));

    assert_eq!(rig.core.phase(), Phase::Draining);
    assert_eq!(rig.message_types(), [MessageType::SmmuEvent]);
    assert!(rig.observed(&Observation::DrainResumed { generation: 1 }));
    rig.core.tick(rig.core.deadline().unwrap());
    failed(&rig.messages());
}

#[test]
fn test_fault_after_drained_was_sent_is_served_and_reported() {
    let mut rig = drained_rig();

    let stag = rig.delivered(1);
    rig.resume(0, stag);

    assert_eq!(rig.answers(0), [(1, 0)]);
    assert_eq!(rig.core.phase(), Phase::Drained);
    assert!(rig.observed(&Observation::DisturbedAfterDrained { generation: 1 }));
}

#[test]
fn test_attach_before_drained_is_sent_resumes_the_drain() {
    let mut rig = Rig::new();
    rig.drain(1, 100);
    rig.quiesced(0, 1);
    rig.probe();

    rig.attach(&desc(1, 1));
    assert_eq!(rig.messages(), []);
    rig.quiesced(1, 1);
    rig.probe();

    drained(&rig.messages());
}

#[test]
fn test_detach_of_the_last_busy_device_ends_the_drain() {
    let mut rig = Rig::new();
    rig.delivered(1);
    rig.drain(1, 100);

    rig.core.detach(0, rig.now).unwrap();
    assert_eq!(rig.messages(), []);
    rig.answers(0);

    drained(&rig.messages());
}

#[test]
fn test_detach_while_draining_has_the_shared_channel_read_again() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 0));
    rig.drain(1, 100);
    rig.quiesced(1, 1);
    rig.core.channel_empty(0, rig.now);

    rig.core.detach(0, rig.now).unwrap();

    assert_eq!(rig.core.phase(), Phase::Draining);
    assert_eq!(rig.core.next_probe(), Some(0));
    rig.fault(0, &record(0, 1));
    assert_eq!(rig.answers(0), [(1, 1)]);
    rig.probe();
    drained(&rig.messages());
}

#[test]
fn test_submissions_are_queued_until_release() {
    let mut rig = Rig::new();
    rig.drain(1, 100);
    rig.submit(0);
    rig.quiesced(0, 1);
    rig.submit(0);
    rig.probe();
    drained(&rig.messages());
    rig.submit(0);
    assert_eq!(rig.messages(), []);
    assert_eq!(rig.core.config_space(0).pending.get(), 3);

    rig.release(1);
    assert_eq!(rig.core.phase(), Phase::Releasing);
    let messages = rig.messages();

    assert_eq!(tickets(&messages), [0, 1, 2]);
    let released: Released = messages[3].payload();
    assert_eq!(released.generation.get(), 1);
    assert_eq!(released.next_ticket.get(), 3);
    assert_eq!(released.replayed.get(), 3);
    assert_eq!(rig.core.phase(), Phase::Running);
}

#[test]
fn test_release_with_empty_queue_is_answered() {
    let mut rig = drained_rig();

    rig.release(1);

    assert_eq!(rig.message_types(), [MessageType::Released]);
    assert_eq!(rig.core.phase(), Phase::Running);
}

#[test]
fn test_submission_while_releasing_goes_behind_the_queue() {
    let mut rig = drained_rig();
    rig.submit(0);
    rig.submit(0);
    rig.release(1);
    let first = rig.next_message().unwrap();

    rig.submit(0);
    let messages = rig.messages();

    assert_eq!(tickets(&[first]), [0]);
    assert_eq!(tickets(&messages), [1, 2]);
    assert_eq!(messages[2].payload::<Released>().replayed.get(), 3);
}

#[test]
fn test_submission_after_released_is_replayed_and_released_again() {
    let mut rig = drained_rig();
    rig.release(1);
    rig.messages();

    rig.submit(0);
    let messages = rig.messages();

    assert_eq!(tickets(&messages), [0]);
    let released: Released = messages[1].payload();
    assert_eq!(released.generation.get(), 1);
    assert_eq!(released.next_ticket.get(), 1);
}

#[test]
fn test_release_after_failure_replays() {
    let mut rig = Rig::new();
    rig.delivered(1);
    rig.drain(1, 100);
    rig.submit(0);
    rig.core.tick(rig.core.deadline().unwrap());
    failed(&rig.messages());
    rig.submit(0);
    assert_eq!(rig.messages(), []);

    rig.release(1);

    assert_eq!(tickets(&rig.messages()), [0, 1]);
}

#[test]
fn test_release_while_draining_cancels_the_drain() {
    let mut rig = Rig::new();
    let stag = rig.delivered(1);
    rig.drain(1, 100);
    rig.submit(0);

    rig.release(1);
    rig.core.tick(u64::MAX);
    rig.resume(0, stag);
    rig.answers(0);

    assert_eq!(
        rig.message_types(),
        [MessageType::Replay, MessageType::Released]
    );
    assert_eq!(rig.core.counters().drains_failed, 0);
}

#[test]
fn test_release_before_the_outcome_was_sent_drops_it() {
    let mut rig = Rig::new();
    rig.drain(1, 100);
    rig.core.tick(u64::MAX);

    rig.release(0);

    assert_eq!(rig.message_types(), [MessageType::Released]);
}

#[test]
fn test_release_while_running_is_answered_again() {
    let mut rig = Rig::new();

    rig.release(9);

    let messages = rig.messages();
    let released: Released = messages[0].payload();
    assert_eq!(released.generation.get(), 9);
    assert_eq!(rig.core.phase(), Phase::Running);
}

#[test]
fn test_drain_while_draining_begins_anew() {
    let mut rig = Rig::new();
    rig.drain(1, 100);
    rig.quiesced(0, 1);
    rig.now += 50 * MS;

    rig.drain(2, 100);
    rig.quiesced(0, 1);
    rig.probe();

    assert_eq!(rig.messages(), []);
    assert_eq!(rig.core.deadline(), Some(rig.now + 100 * MS));
    rig.quiesced(0, 2);
    rig.probe();
    assert_eq!(drained(&rig.messages()).generation.get(), 2);
}

#[test]
fn test_drain_after_drained_needs_a_new_quiesce() {
    let mut rig = drained_rig();

    rig.drain(2, 100);
    rig.probe();

    assert_eq!(rig.core.phase(), Phase::Draining);
    assert_eq!(rig.messages(), []);
}

#[test]
fn test_drain_after_failure_keeps_the_queue() {
    let mut rig = Rig::new();
    rig.drain(1, 0);
    rig.submit(0);
    rig.core.tick(rig.now);
    rig.messages();

    rig.drain(2, 100);
    rig.quiesced(0, 2);
    rig.probe();

    assert_eq!(drained(&rig.messages()).pending.get(), 1);
    rig.release(2);
    assert_eq!(tickets(&rig.messages()), [0]);
}

#[test]
fn test_drain_while_releasing_stops_the_replay() {
    let mut rig = drained_rig();
    for _ in 0..3 {
        rig.submit(0);
    }
    rig.release(1);
    let first = rig.next_message().unwrap();

    rig.drain(2, 100);
    rig.submit(0);
    rig.quiesced(0, 2);
    rig.probe();

    assert_eq!(tickets(&[first]), [0]);
    assert_eq!(drained(&rig.messages()).pending.get(), 3);
    rig.release(2);
    let messages = rig.messages();
    assert_eq!(tickets(&messages), [1, 2, 3]);
    let released: Released = messages[3].payload();
    assert_eq!(released.generation.get(), 2);
    assert_eq!(released.replayed.get(), 3);
}

#[test]
fn test_drain_before_released_was_sent_drops_it() {
    let mut rig = drained_rig();
    rig.release(1);

    rig.drain(2, 100);

    assert_eq!(rig.messages(), []);
}

#[test]
fn test_deadline_beyond_the_clock_never_comes() {
    let mut rig = Rig::new();
    rig.now = u64::MAX - 5;

    rig.drain(1, u32::MAX);

    assert_eq!(rig.core.deadline(), Some(u64::MAX));
}
