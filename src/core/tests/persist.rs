// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::rig::{desc, limits, record, sid, Rig};
use crate::core::{Attachment, Phase, RestoreError, SnapshotError};
use crate::state::{DeviceState, StateData};
use crate::wire::{
    Message, MessageType, Released, Submission, ATTACH_FLAG_PRI, DEVICE_NONE, U16, U32, U64,
};

/// A drained rig with two devices and three submissions (tickets 1 to 3 of 0 to 3).
fn source() -> Rig {
    let mut rig = Rig::new();
    rig.attach(&Attachment {
        pri: true,
        max_outstanding: 3,
        ..desc(1, 1)
    });
    rig.submit(0);
    rig.messages();
    rig.drain(5, 100);
    rig.submit(0);
    rig.submit(1);
    rig.submit(0);
    rig.quiesced(DEVICE_NONE, 5);
    rig.probe();
    rig.messages();
    rig
}

fn destination() -> Rig {
    let mut rig = Rig::new();
    rig.attach(&Attachment {
        pri: true,
        ..desc(1, 1)
    });
    rig
}

fn restore(state: &StateData) -> Result<(), RestoreError> {
    let mut rig = destination();
    let result = rig.core.restore(state, rig.now);
    if result.is_err() {
        assert_eq!(rig.core.phase(), Phase::Running);
        assert_eq!(rig.core.pending(), 0);
        assert_eq!(rig.core.next_ticket(), 0);
    }
    result
}

#[test]
fn test_snapshot_holds_what_moves() {
    let rig = source();

    let state = rig.core.snapshot().unwrap();

    assert_eq!(state.general.generation, 5);
    assert_eq!(state.general.next_ticket, 4);
    assert_eq!(state.general.next_replay, 1);
    assert_eq!(state.general.phase, Phase::Drained as u32);
    let second = DeviceState {
        device: 1,
        vsid: sid(1),
        flags: ATTACH_FLAG_PRI,
    };
    assert_eq!(state.devices.len(), 2);
    assert_eq!(state.devices[1], second);
    let tickets: Vec<u64> = state
        .pending
        .iter()
        .map(|m| m.payload::<Submission>().ticket.get())
        .collect();
    assert_eq!(tickets, [1, 2, 3]);
    assert_eq!(state.counters, Some([0, 0, 0, 0, 4, 1, 1, 0]));
}

#[test]
fn test_snapshot_twice_is_the_same_and_changes_nothing() {
    let mut rig = source();

    let first = rig.core.snapshot().unwrap();
    let second = rig.core.snapshot().unwrap();
    rig.release(5);

    assert_eq!(first, second);
    assert_eq!(rig.messages().len(), 4);
}

#[test]
fn test_snapshot_with_outstanding_fault_is_refused() {
    let mut rig = source();
    rig.fault(0, &record(0, 1));

    let outstanding = rig.core.snapshot();
    rig.reset(0);
    let unwritten = rig.core.snapshot();
    rig.answers(0);

    let refused = Err(SnapshotError::FaultsOutstanding { outstanding: 1 });
    assert_eq!(outstanding, refused);
    assert_eq!(unwritten, refused);
    rig.core.snapshot().unwrap();
}

#[test]
fn test_restore_replays_the_rest_in_order_and_goes_on_counting() {
    let state = source().core.snapshot().unwrap();
    let mut rig = destination();

    rig.core.restore(&state, rig.now).unwrap();
    assert_eq!(rig.core.phase(), Phase::Loaded);
    assert_eq!(rig.messages(), []);
    rig.ticket = 4;
    rig.submit(1);
    rig.release(0);
    let messages = rig.messages();

    let replays: Vec<(u32, u64)> = messages[..4]
        .iter()
        .map(|m| (m.device.get(), m.payload::<Submission>().ticket.get()))
        .collect();
    assert_eq!(replays, [(0, 1), (1, 2), (0, 3), (1, 4)]);
    let released: Released = messages[4].payload();
    assert_eq!(released.generation.get(), 0);
    assert_eq!(released.next_ticket.get(), 5);
    assert_eq!(rig.core.phase(), Phase::Running);
    assert_eq!(rig.core.counters().submissions, 5);
    assert_eq!(rig.core.counters().replays, 5);
}

#[test]
fn test_restored_state_saved_again_is_the_same_but_for_the_phase() {
    let state = source().core.snapshot().unwrap();
    let mut rig = destination();
    rig.core.restore(&state, rig.now).unwrap();

    let mut again = rig.core.snapshot().unwrap();

    assert_eq!(again.general.phase, Phase::Loaded as u32);
    again.general.phase = state.general.phase;
    again.devices.clone_from(&state.devices);
    assert_eq!(again, state);
}

#[test]
fn test_drain_in_loaded_keeps_the_queue() {
    let state = source().core.snapshot().unwrap();
    let mut rig = destination();
    rig.core.restore(&state, rig.now).unwrap();

    rig.drain(1, 100);
    rig.quiesced(DEVICE_NONE, 1);
    rig.probe();

    assert_eq!(rig.message_types(), [MessageType::Drained]);
    assert_eq!(rig.core.snapshot().unwrap().pending, state.pending);
}

#[test]
fn test_restore_without_counters_starts_them_at_zero() {
    let mut state = source().core.snapshot().unwrap();
    state.counters = None;
    state.general.faults_read = 7;
    state.general.faults_answered = 6;
    let mut rig = destination();

    rig.core.restore(&state, rig.now).unwrap();

    assert_eq!(rig.core.counters().submissions, 0);
    assert_eq!(rig.core.counters().faults_read, 7);
    assert_eq!(rig.core.counters().faults_answered, 6);
}

#[test]
fn test_restore_of_queue_with_dropped_submissions_is_accepted() {
    let mut rig = source();
    rig.reset(1);
    let state = rig.core.snapshot().unwrap();

    assert_eq!(state.pending.len(), 2);
    assert_eq!(restore(&state), Ok(()));
}

#[test]
fn test_restore_in_another_phase_is_refused() {
    let state = source().core.snapshot().unwrap();
    let mut rig = destination();
    rig.core.restore(&state, rig.now).unwrap();

    let twice = rig.core.restore(&state, rig.now);

    let phase = Phase::Loaded;
    assert_eq!(twice, Err(RestoreError::Phase { phase }));
}

#[test]
fn test_restore_over_own_work_is_refused() {
    let state = source().core.snapshot().unwrap();
    let mut with_fault = destination();
    with_fault.fault(0, &record(0, 1));
    let mut with_submission = destination();
    with_submission.submit(0);

    let fault = with_fault.core.restore(&state, 0);
    let submission = with_submission.core.restore(&state, 0);

    let busy = |pending, outstanding| {
        Err(RestoreError::Busy {
            pending,
            outstanding,
        })
    };
    assert_eq!(fault, busy(0, 1));
    assert_eq!(submission, busy(1, 0));
}

#[test]
fn test_restore_of_missing_or_other_device_names_it() {
    let state = source().core.snapshot().unwrap();
    let mut missing = Rig::new();
    let mut other = Rig::new();
    other.attach(&Attachment {
        vsid: 0x777,
        ..desc(1, 1)
    });

    assert_eq!(
        missing.core.restore(&state, 0),
        Err(RestoreError::DeviceMissing {
            device: 1,
            vsid: sid(1)
        })
    );
    assert_eq!(
        other.core.restore(&state, 0),
        Err(RestoreError::DeviceDiffers {
            device: 1,
            saved: sid(1),
            attached: 0x777
        })
    );
}

#[test]
fn test_restore_of_pri_device_over_one_that_is_not_is_refused() {
    let state = source().core.snapshot().unwrap();
    let mut other = Rig::new();
    other.attach(&desc(1, 1));

    assert_eq!(
        other.core.restore(&state, 0),
        Err(RestoreError::FlagsDiffer {
            device: 1,
            saved: ATTACH_FLAG_PRI,
            attached: 0
        })
    );
}

#[test]
fn test_restore_of_device_with_another_limit_of_faults_is_accepted() {
    let state = source().core.snapshot().unwrap();
    let mut other = Rig::new();
    other.attach(&Attachment {
        pri: true,
        max_outstanding: 1,
        ..desc(1, 1)
    });

    assert_eq!(other.core.restore(&state, 0), Ok(()));
}

#[test]
fn test_restore_of_device_listed_twice_is_refused() {
    let mut state = source().core.snapshot().unwrap();
    state.devices.push(state.devices[0]);

    assert_eq!(
        restore(&state),
        Err(RestoreError::DeviceTwice { device: 0 })
    );
}

#[test]
fn test_restore_of_unknown_phase_is_refused() {
    let mut state = source().core.snapshot().unwrap();
    state.general.phase = 6;

    assert_eq!(
        restore(&state),
        Err(RestoreError::UnknownPhase { phase: 6 })
    );
}

#[test]
fn test_restore_beyond_the_limit_is_refused() {
    let state = source().core.snapshot().unwrap();
    let mut rig = Rig::with_limits(crate::core::Limits {
        max_pending: 2,
        ..limits()
    });
    rig.attach(&desc(0, 0));
    rig.attach(&Attachment {
        pri: true,
        ..desc(1, 1)
    });

    let result = rig.core.restore(&state, rig.now);

    assert_eq!(
        result,
        Err(RestoreError::TooManyPending {
            pending: 3,
            max_pending: 2
        })
    );
}

#[test]
fn test_restore_of_wrong_submission_names_its_place() {
    let state = source().core.snapshot().unwrap();
    let with = |change: fn(&mut Message, &mut Submission)| {
        let mut state = state.clone();
        let mut submission = state.pending[1].payload();
        change(&mut state.pending[1], &mut submission);
        let message = Message::new(MessageType::Submit, 0, &submission);
        state.pending[1].payload = message.payload;
        restore(&state)
    };

    assert_eq!(
        with(|message, _| message.kind = U16::new(0x102)),
        Err(RestoreError::PendingType {
            index: 1,
            kind: 0x102
        })
    );
    assert_eq!(
        with(|message, _| message.device = U32::new(2)),
        Err(RestoreError::PendingDevice {
            index: 1,
            device: 2
        })
    );
    assert_eq!(
        with(|_, submission| submission.size = U32::new(3)),
        Err(RestoreError::PendingSize { index: 1, size: 3 })
    );
}

#[test]
fn test_restore_of_wrong_ticket_is_refused() {
    let state = source().core.snapshot().unwrap();
    let with_ticket = |index: usize, ticket| {
        let mut state = state.clone();
        let mut submission: Submission = state.pending[index].payload();
        submission.ticket = U64::new(ticket);
        state.pending[index] = Message::new(MessageType::Submit, 0, &submission);
        restore(&state)
    };
    let error = |index, ticket, low, high| {
        Err(RestoreError::PendingTicket {
            index,
            ticket,
            low,
            high,
        })
    };

    assert_eq!(with_ticket(0, 0), error(0, 0, 1, 1));
    assert_eq!(with_ticket(1, 1), error(1, 1, 2, 3));
    assert_eq!(with_ticket(1, 3), error(2, 3, 4, 3));
    assert_eq!(with_ticket(2, 4), error(2, 4, 3, 3));
    assert_eq!(with_ticket(2, u64::MAX), error(2, u64::MAX, 3, 3));
}

#[test]
fn test_restore_of_contradicting_tickets_is_refused() {
    let state = source().core.snapshot().unwrap();
    let with = |next_replay, next_ticket, keep: bool| {
        let mut state = state.clone();
        state.general.next_replay = next_replay;
        state.general.next_ticket = next_ticket;
        if !keep {
            state.pending.clear();
        }
        restore(&state)
    };
    let error = |next_replay, next_ticket, pending| {
        Err(RestoreError::Tickets {
            next_ticket,
            next_replay,
            pending,
        })
    };

    assert_eq!(with(4, 1, true), error(4, 1, 3));
    assert_eq!(with(1, 3, true), error(1, 3, 3));
    assert_eq!(with(1, 4, false), error(1, 4, 0));
    assert_eq!(with(4, 4, false), Ok(()));
    assert_eq!(with(u64::MAX, u64::MAX, false), Ok(()));
}

#[test]
fn test_counters_restored_at_their_limit_go_on_at_zero() {
    let mut state = source().core.snapshot().unwrap();
    state.counters = Some([u64::MAX; 8]);
    state.general.faults_read = u64::MAX;
    state.general.faults_answered = u64::MAX;
    let mut rig = destination();
    rig.core.restore(&state, rig.now).unwrap();
    rig.ticket = 4;

    let stag = rig.delivered(1);
    rig.resume(0, stag);
    rig.resume(0, stag);
    rig.answers(0);
    rig.submit(0);
    rig.drain(6, 0);
    rig.core.tick(rig.now);
    rig.release(6);
    rig.messages();

    let counters = rig.core.counters();
    assert_eq!((counters.faults_read, counters.faults_answered), (0, 0));
    assert_eq!((counters.unknown_answers, counters.submissions), (0, 0));
    assert_eq!((counters.drains, counters.drains_failed), (0, 0));
    assert_eq!(counters.replays, 3);
}
