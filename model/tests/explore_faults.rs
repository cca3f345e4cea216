// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Two devices and their fault files, explored exhaustively for small counts.

mod checker;
mod faults;

use faults::{seen, Budget, Rules, Setup, World};

const APART: Setup = Setup {
    shared: false,
    records: [1, 1],
    pri: false,
    max_faults: 3,
    max_outstanding: 2,
    threads: false,
};

/// One fault file for both, and a table that is soon full.
const SHARED: Setup = Setup {
    shared: true,
    max_faults: 2,
    max_outstanding: 1,
    ..APART
};

const NOTHING: Budget = Budget {
    faults: [0, 0],
    invalid: 0,
    holds: 0,
    events: 0,
    resets: 0,
    terms: 0,
    detaches: 0,
    attaches: 0,
    losses: 0,
    drains: 1,
    deadlines: 0,
};

fn assert_kept(setup: Setup, budget: Budget, reached: u32) {
    checker::assert_kept(World::new(Rules::ALL, setup, budget), reached, &seen::ALL);
}

fn assert_needed(rules: Rules, setup: Setup, budget: Budget, wrong: &str) {
    checker::assert_found(World::new(rules, setup, budget), wrong);
}

#[test]
fn test_two_devices_that_fault_and_drain_twice_answer_each_fault_once() {
    let budget = Budget {
        faults: [2, 1],
        invalid: 1,
        drains: 2,
        deadlines: 1,
        ..NOTHING
    };
    assert_kept(APART, budget, seen::DRAINED | seen::FAILED);
}

#[test]
fn test_page_table_replaced_at_any_moment_of_a_drain_keeps_the_rules() {
    use seen::*;
    let budget = Budget {
        faults: [2, 1],
        holds: 2,
        ..NOTHING
    };
    let reached = DRAINED | HELD_DRAINING | REPLACED | DISTURBED;
    assert_kept(APART, budget, reached);
}

#[test]
fn test_page_table_replaced_with_no_room_in_a_shared_channel_keeps_the_rules() {
    use seen::*;
    let budget = Budget {
        faults: [2, 1],
        holds: 2,
        ..NOTHING
    };
    assert_kept(SHARED, budget, DRAINED | HELD_DRAINING | REPLACED | NO_ROOM);
}

#[test]
fn test_device_held_detached_and_attached_again_keeps_the_rules() {
    let budget = Budget {
        faults: [2, 1],
        holds: 1,
        detaches: 1,
        attaches: 1,
        ..NOTHING
    };
    assert_kept(SHARED, budget, seen::DRAINED | seen::NO_ROOM);
}

#[test]
fn test_veventq_beside_faults_is_waited_for_by_a_drain() {
    let budget = Budget {
        faults: [1, 1],
        events: 2,
        resets: 1,
        ..NOTHING
    };
    assert_kept(APART, budget, seen::DRAINED | seen::DISTURBED);
}

#[test]
fn test_page_requests_beside_stalls_are_answered_as_a_whole() {
    let setup = Setup {
        records: [2, 1],
        pri: true,
        max_faults: 4,
        ..APART
    };
    let budget = Budget {
        faults: [2, 1],
        invalid: 1,
        resets: 1,
        terms: 1,
        ..NOTHING
    };
    assert_kept(setup, budget, seen::DRAINED | seen::NO_ROOM);
}

#[test]
fn test_page_request_larger_than_the_limit_does_not_wait_for_ever() {
    let setup = Setup {
        records: [2, 1],
        pri: true,
        shared: true,
        max_faults: 3,
        max_outstanding: 1,
        threads: false,
    };
    let budget = Budget {
        faults: [2, 1],
        holds: 1,
        ..NOTHING
    };
    assert_kept(setup, budget, seen::DRAINED | seen::REFUSED);
}

#[test]
fn test_channel_lost_or_device_reset_at_any_moment_keeps_the_rules() {
    let budget = Budget {
        faults: [2, 1],
        resets: 1,
        terms: 1,
        losses: 1,
        attaches: 1,
        ..NOTHING
    };
    assert_kept(APART, budget, seen::DRAINED | seen::FAILED);
}

#[test]
fn test_page_table_replaced_without_hold_answers_another_fault() {
    let rules = Rules {
        holds: false,
        ..Rules::ALL
    };
    let budget = Budget {
        faults: [3, 1],
        holds: 1,
        ..NOTHING
    };
    assert_needed(rules, SHARED, budget, "an answer meets another fault");
}

#[test]
fn test_abort_that_is_not_told_answers_another_fault() {
    let rules = Rules {
        tells_aborted: false,
        ..Rules::ALL
    };
    let budget = Budget {
        faults: [3, 1],
        holds: 1,
        ..NOTHING
    };
    assert_needed(rules, SHARED, budget, "an answer meets another fault");
}

#[test]
fn test_cookie_that_comes_again_and_is_not_forgotten_is_refused() {
    let rules = Rules {
        forgets_stale: false,
        holds: false,
        ..Rules::ALL
    };
    let budget = Budget {
        faults: [2, 0],
        holds: 1,
        ..NOTHING
    };
    assert_needed(rules, APART, budget, "a fault is refused");
}

#[test]
fn test_device_that_is_not_at_rest_when_it_says_so_faults_after_drained() {
    let rules = Rules {
        quiesced_at_rest: false,
        ..Rules::ALL
    };
    let budget = Budget {
        faults: [1, 0],
        ..NOTHING
    };
    assert_needed(rules, APART, budget, "DRAINED, but");
}

/// Two threads of the shell, and what each is told to do.
const THREADS: Setup = Setup {
    threads: true,
    ..APART
};

/// One channel for both devices, with room for one fault of each.
const THREADS_SHARED: Setup = Setup {
    threads: true,
    ..SHARED
};

#[test]
fn test_jobs_of_two_threads_beside_a_drain_are_given_out_once() {
    let budget = Budget {
        faults: [2, 1],
        deadlines: 1,
        ..NOTHING
    };
    assert_kept(THREADS, budget, seen::DRAINED | seen::FAILED);
}

#[test]
fn test_jobs_of_two_threads_with_no_room_in_a_shared_channel_are_not_forgotten() {
    let budget = Budget {
        faults: [2, 1],
        terms: 1,
        ..NOTHING
    };
    assert_kept(THREADS_SHARED, budget, seen::DRAINED | seen::NO_ROOM);
}

#[test]
fn test_jobs_of_two_threads_while_a_page_table_is_replaced_are_not_forgotten() {
    let budget = Budget {
        faults: [2, 1],
        holds: 1,
        ..NOTHING
    };
    let reached = seen::DRAINED | seen::HELD_DRAINING | seen::NO_ROOM;
    assert_kept(THREADS_SHARED, budget, reached);
}

#[test]
fn test_jobs_of_two_threads_while_devices_come_and_go_leave_no_channel_open() {
    let budget = Budget {
        faults: [1, 1],
        detaches: 1,
        attaches: 1,
        losses: 1,
        ..NOTHING
    };
    assert_kept(THREADS, budget, seen::DRAINED | seen::FAILED);
    assert_kept(THREADS_SHARED, budget, seen::DRAINED | seen::FAILED);
}

#[test]
fn test_jobs_of_two_threads_that_write_to_one_channel_are_each_done() {
    let setup = Setup {
        records: [2, 1],
        pri: true,
        max_faults: 3,
        ..THREADS_SHARED
    };
    let budget = Budget {
        faults: [2, 1],
        ..NOTHING
    };
    assert_kept(setup, budget, seen::DRAINED | seen::REFUSED);
}

#[test]
fn test_answer_that_is_not_written_leaves_a_command_without_effect() {
    let rules = Rules {
        writes: false,
        ..Rules::ALL
    };
    let budget = Budget {
        faults: [1, 0],
        ..NOTHING
    };
    let wrong = "a command has taken effect before its answer is written";
    assert_needed(rules, THREADS, budget, wrong);
}

#[test]
fn test_channel_that_is_not_read_when_told_is_a_drain_that_never_ends() {
    let rules = Rules {
        reads: false,
        ..Rules::ALL
    };
    let budget = Budget {
        faults: [1, 0],
        ..NOTHING
    };
    let wrong = "a drain goes on with nothing to wait for";
    assert_needed(rules, THREADS, budget, wrong);
}

#[test]
fn test_channel_that_is_not_closed_when_told_is_left_open() {
    let rules = Rules {
        closes: false,
        ..Rules::ALL
    };
    let budget = Budget {
        detaches: 1,
        ..NOTHING
    };
    let wrong = "a channel that nobody uses is left open";
    assert_needed(rules, THREADS, budget, wrong);
}
