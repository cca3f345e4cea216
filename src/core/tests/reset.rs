// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::rig::{desc, limits, part, record, sid, submission, Log, Rig, MS};
use crate::core::{Core, Observation, Phase};
use crate::wire::{LostReason, Message, MessageType, SmmuCommand, Submission};

/// What a front end can see is as it is in a core that was just made.
fn assert_as_new(rig: &mut Rig) {
    let new = Core::new(limits(), Log::default()).unwrap();
    assert_eq!(rig.core.config_space(rig.now), new.config_space(rig.now));
    assert_eq!(rig.core.generation(), 0);
    assert_eq!(rig.core.next_ticket(), 0);
    assert_eq!(rig.core.deadline(), None);
    assert_eq!(rig.core.next_probe(), None);
    assert_eq!(rig.messages(), []);
    rig.core.snapshot().unwrap();
}

/// The front end that comes next.
fn begin_anew(rig: &mut Rig) {
    rig.core.reset(rig.now);
    rig.seq = 0;
    rig.ticket = 0;
}

#[test]
fn test_reset_while_draining_answers_the_faults_and_is_as_new() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 1));
    rig.delivered(1);
    rig.fault(0, &record(0, 2));
    rig.fault(1, &part(1, 7));
    rig.drain(3, 100);
    rig.submit(0);
    rig.submit(1);
    rig.now += 5 * MS;

    begin_anew(&mut rig);

    assert_eq!(rig.core.phase(), Phase::Running);
    assert_eq!(rig.answers(0), [(1, 1), (2, 1)]);
    assert_eq!(rig.answers(1), [(7, 1)]);
    assert!(!rig.core.channel_in_use(0) && !rig.core.channel_in_use(1));
    assert_as_new(&mut rig);
    assert!(rig.observed(&Observation::Reset { devices: 2 }));
}

#[test]
fn test_reset_answer_aborted_by_the_kernel_is_not_counted() {
    let mut rig = Rig::new();
    rig.delivered(1);

    begin_anew(&mut rig);
    rig.core.answer_aborted(0, rig.now);

    assert_as_new(&mut rig);
}

#[test]
fn test_reset_of_a_held_device_answers_its_faults() {
    let mut rig = Rig::new();
    rig.core.set_kernel_channel(0);
    rig.delivered(1);
    rig.core.hold(0, rig.now).unwrap();

    begin_anew(&mut rig);

    assert_eq!(rig.answers(0), [(1, 1)]);
    assert_as_new(&mut rig);
}

#[test]
fn test_reset_with_a_lost_device_reports_no_loss() {
    let mut rig = Rig::new();
    rig.core.channel_lost(0, LostReason::Ended, rig.now);

    begin_anew(&mut rig);

    assert_as_new(&mut rig);
    rig.attach(&desc(0, 0));
    assert_eq!(rig.messages(), []);
}

#[test]
fn test_reset_with_messages_to_send_sends_none() {
    for release in [false, true] {
        let mut rig = Rig::new();
        rig.drain(1, 100);
        rig.submit(0);
        rig.quiesced(0, 1);
        rig.probe();
        assert_eq!(rig.core.phase(), Phase::Drained);
        if release {
            rig.release(1);
        }

        begin_anew(&mut rig);

        assert_as_new(&mut rig);
    }
}

#[test]
fn test_reset_of_a_drain_that_waits_for_one_device_does_not_complete_it() {
    let mut rig = Rig::new();
    rig.drain(1, 100);

    begin_anew(&mut rig);

    let complete = |seen: &Observation| matches!(seen, Observation::DrainComplete { .. });
    assert!(!rig.core.observer().0.iter().any(complete));
}

#[test]
fn test_front_end_after_reset_begins_with_seq_1_and_ticket_0() {
    let mut rig = Rig::new();
    rig.submit(0);
    rig.messages();

    begin_anew(&mut rig);
    rig.attach(&desc(0, 0));
    rig.submit(0);

    let messages = rig.messages();
    let seqs: Vec<u64> = messages.iter().map(|message| message.seq.get()).collect();
    assert_eq!(seqs, [1, 2]);
    assert_eq!(messages[0].payload::<Submission>(), submission(0));
    assert_eq!(messages[1].message_type(), Some(MessageType::Released));
}

#[test]
fn test_answer_of_the_guest_before_reset_matches_nothing_after_it() {
    let mut rig = Rig::new();
    let stag = rig.delivered(1);

    begin_anew(&mut rig);
    rig.answers(0);
    rig.attach(&desc(0, 0));
    rig.command(SmmuCommand::StallTerm { sid: sid(0) });
    rig.resume(0, stag);

    assert_eq!(rig.core.counters().unknown_answers, 2);
    assert_eq!(rig.answers(0), []);
}

#[test]
fn test_restore_after_reset_is_accepted() {
    let mut saved = Rig::new();
    saved.drain(4, 100);
    saved.submit(0);
    let state = saved.core.snapshot().unwrap();
    let mut rig = Rig::new();
    rig.delivered(1);
    rig.drain(9, 100);
    rig.submit(0);
    assert!(rig.core.restore(&state, rig.now).is_err());

    begin_anew(&mut rig);
    rig.answers(0);
    rig.attach(&desc(0, 0));
    rig.core.restore(&state, rig.now).unwrap();

    assert_eq!(rig.core.phase(), Phase::Loaded);
    assert_eq!(rig.core.next_ticket(), 1);
    rig.release(0);
    let replayed: Vec<Message> = rig.messages();
    assert_eq!(replayed[0].payload::<Submission>(), submission(0));
}
