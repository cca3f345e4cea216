// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both halves, explored exhaustively for small counts.

mod both;
mod checker;

use both::{seen, Budget, World};
use vsva_model::front_end::Rules;

const NOTHING: Budget = Budget {
    functions: 1,
    submissions: 0,
    faults: 0,
    migrations: 0,
    asks: 2,
    waits: 0,
    stops: 0,
    saves: 0,
    resets: 0,
    detaches: 0,
    losses: 0,
    disconnects: 0,
    connects: 0,
};

/// A guest that writes and faults while it is migrated.
const MIGRATION: Budget = Budget {
    submissions: 3,
    faults: 1,
    migrations: 1,
    ..NOTHING
};

/// A VM that somebody stops without asking, and that is saved then.
const STOPPED: Budget = Budget {
    submissions: 2,
    faults: 1,
    migrations: 1,
    stops: 1,
    saves: 1,
    ..NOTHING
};

/// A VM that is stopped now and then, and whose connection ends and comes again.
const RECONNECT: Budget = Budget {
    submissions: 2,
    faults: 1,
    asks: 1,
    waits: 1,
    disconnects: 1,
    connects: 1,
    ..NOTHING
};

fn assert_kept(budget: Budget, reached: u32) {
    checker::assert_kept(World::new(Rules::ALL, budget), reached, &seen::ALL);
}

/// Without this rule something goes wrong, and it is this.
fn assert_needed(rules: Rules, budget: Budget, wrong: &str) {
    checker::assert_found(World::new(rules, budget), wrong);
}

#[test]
fn test_migration_of_a_guest_that_writes_and_faults_keeps_the_rules() {
    use seen::*;
    let reached = DRAINED | FAILED | RELEASED | MIGRATED | SAVED_DRAINED | EXPIRED;
    assert_kept(
        MIGRATION,
        reached | RESERVE_USED | REPLAYED_THERE | NOT_READY_ANY_MORE,
    );
}

#[test]
fn test_stop_that_waits_beside_a_migration_keeps_the_rules() {
    let budget = Budget {
        submissions: 2,
        waits: 1,
        saves: 1,
        ..MIGRATION
    };
    assert_kept(budget, seen::DRAINED | seen::SAVED_DRAINED);
}

#[test]
fn test_vm_stopped_without_asking_keeps_the_rules() {
    use seen::*;
    assert_kept(
        STOPPED,
        SAVED_RUNNING | REFUSED_DRAINING | REFUSED_FAILED | TAKEN_BACK,
    );
}

#[test]
fn test_state_saved_again_where_it_was_loaded_keeps_the_rules() {
    let budget = Budget {
        submissions: 2,
        waits: 1,
        saves: 2,
        resets: 1,
        ..NOTHING
    };
    assert_kept(budget, seen::SAVED_LOADED | seen::REPLAYED_THERE);
}

#[test]
fn test_reset_at_any_time_keeps_the_rules() {
    let budget = Budget {
        submissions: 3,
        resets: 1,
        ..MIGRATION
    };
    assert_kept(budget, seen::DRAINED | seen::REPLAYED_THERE);
}

#[test]
fn test_back_end_lost_at_any_time_keeps_the_rules() {
    let budget = Budget {
        faults: 0,
        losses: 1,
        ..STOPPED
    };
    assert_kept(budget, seen::RECOVERED);
}

#[test]
fn test_front_end_that_connects_again_at_any_time_keeps_the_rules() {
    let reached = seen::DRAINED | seen::AGAIN | seen::ANEW;
    assert_kept(RECONNECT, reached);
}

#[test]
fn test_reset_beside_a_new_connection_keeps_the_rules() {
    let budget = Budget {
        faults: 0,
        resets: 1,
        ..RECONNECT
    };
    assert_kept(budget, seen::AGAIN | seen::ANEW);
}

#[test]
fn test_front_end_that_connects_to_a_new_back_end_keeps_the_rules() {
    let budget = Budget {
        losses: 1,
        disconnects: 0,
        ..RECONNECT
    };
    assert_kept(budget, seen::RECOVERED | seen::ANEW);
}

#[test]
fn test_answers_that_are_not_sent_again_on_a_new_connection_leave_a_fault() {
    let rules = Rules {
        commands_again: false,
        ..Rules::ALL
    };
    assert_needed(rules, RECONNECT, "a fault is never answered");
}

#[test]
fn test_dropped_submission_that_is_not_sent_again_on_a_new_connection_is_a_gap() {
    let rules = Rules {
        dropped_again: false,
        ..Rules::ALL
    };
    let budget = Budget {
        faults: 0,
        resets: 1,
        ..RECONNECT
    };
    assert_needed(rules, budget, "the back-end refuses");
}

#[test]
fn test_new_connection_after_copies_were_executed_executes_them_twice() {
    let rules = Rules {
        anew_if_executed: false,
        ..Rules::ALL
    };
    assert_needed(rules, RECONNECT, "F8: ticket 0");
}

#[test]
fn test_device_detached_at_any_time_keeps_the_rules() {
    let budget = Budget {
        detaches: 1,
        ..MIGRATION
    };
    assert_kept(budget, seen::DRAINED);
}

#[test]
fn test_migration_of_two_devices_keeps_the_rules() {
    let budget = Budget {
        functions: 2,
        submissions: 2,
        asks: 1,
        ..MIGRATION
    };
    let reached = seen::DRAINED | seen::FAILED | seen::MIGRATED | seen::REPLAYED_THERE;
    assert_kept(budget, reached);
}

/// Two devices that are written to while they are migrated.
const TWO: Budget = Budget {
    functions: 2,
    submissions: 2,
    faults: 0,
    asks: 1,
    ..MIGRATION
};

#[test]
fn test_one_of_two_devices_reset_beside_a_migration_keeps_the_rules() {
    let budget = Budget { resets: 1, ..TWO };
    assert_kept(budget, seen::DRAINED | seen::REPLAYED_THERE);
}

#[test]
fn test_one_of_two_devices_detached_beside_a_migration_keeps_the_rules() {
    let budget = Budget { detaches: 1, ..TWO };
    assert_kept(budget, seen::DRAINED | seen::REPLAYED_THERE);
}

#[test]
fn test_reset_of_one_device_that_does_not_reach_loaded_submissions_executes_them() {
    let rules = Rules {
        loaded_copies: false,
        ..Rules::ALL
    };
    let budget = Budget { resets: 1, ..TWO };
    assert_needed(rules, budget, "is executed");
}

#[test]
fn test_save_while_the_queue_moves_loses_submissions() {
    let rules = Rules {
        take_back: false,
        saved_at_rest: false,
        ..Rules::ALL
    };
    assert_needed(rules, STOPPED, "executed into a VM that is being saved");
}

#[test]
fn test_ready_not_asked_under_the_lock_stops_the_vm_undrained() {
    let rules = Rules {
        ready_asked_last: false,
        ..Rules::ALL
    };
    assert_needed(rules, MIGRATION, "I1: stopped in");
}

#[test]
fn test_no_reserve_releases_a_vm_that_is_being_stopped() {
    let rules = Rules {
        reserve: false,
        ..Rules::ALL
    };
    let budget = Budget {
        submissions: 4,
        faults: 0,
        ..MIGRATION
    };
    assert_needed(rules, budget, "I1: stopped in");
}

#[test]
fn test_reset_that_does_not_reach_loaded_submissions_executes_them() {
    let rules = Rules {
        loaded_copies: false,
        ..Rules::ALL
    };
    let budget = Budget {
        resets: 1,
        ..MIGRATION
    };
    assert_needed(rules, budget, "is executed, the next is None");
}

#[test]
fn test_back_end_lost_after_a_load_without_copies_loses_submissions() {
    let rules = Rules {
        loaded_copies: false,
        ..Rules::ALL
    };
    let budget = Budget {
        losses: 1,
        ..MIGRATION
    };
    assert_needed(rules, budget, "a write overtakes those that were trapped");
}

#[test]
fn test_drained_without_an_end_traps_the_portal_for_ever() {
    let rules = Rules {
        drained_ends: false,
        ..Rules::ALL
    };
    assert_needed(rules, MIGRATION, "a portal is trapped for ever");
}

#[test]
fn test_drain_right_after_an_expired_one_starves_the_guest() {
    let rules = Rules {
        expired_is_released: false,
        ..Rules::ALL
    };
    assert_needed(rules, MIGRATION, "F6: a new drain before");
}

#[test]
fn test_reset_of_the_head_that_is_not_skipped_cannot_be_loaded() {
    let rules = Rules {
        skips_dropped: false,
        ..Rules::ALL
    };
    let budget = Budget {
        resets: 1,
        ..MIGRATION
    };
    assert_needed(rules, budget, "the destination refuses");
}

#[test]
fn test_back_end_lost_without_recovery_loses_submissions() {
    let rules = Rules {
        recovers: false,
        ..Rules::ALL
    };
    let budget = Budget {
        losses: 1,
        ..MIGRATION
    };
    assert_needed(rules, budget, "a write overtakes those that were trapped");
}
