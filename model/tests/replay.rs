// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Recordings of real QEMUs and back-ends (traces/), as they are and with a line that is wrong.

mod recording;

use recording::{Recording, ALL};

/// A step that is no step: what it tells of shows in no other line.
fn may_be_left_out(line: &str) -> bool {
    const SILENT: [&str; 10] = [
        "savevm_state_",
        "vmstate_downtime_save",
        "vmstate_load",
        "vsva_smmu_event",
        "vsva_saved",
        "vsva_drained_expired",
        "vsva_release_taken_back",
        "vsva_backend_gone",
        "(shutdown)",
        "(postmigrate)",
    ];
    SILENT.iter().any(|name| line.contains(name))
}

#[test]
fn test_each_recording_keeps_the_rules() {
    for name in ALL {
        let summary = Recording::new(name).replay().unwrap();
        assert!(summary.steps > 0 && summary.messages > 0, "{name}");
    }
}

#[test]
fn test_trace_that_ends_anywhere_keeps_the_rules() {
    for name in ALL {
        let whole = Recording::new(name);
        for lines in 0..whole.lines("source.log").len() {
            let mut cut = Recording::new(name).without_back_ends();
            cut.only("source.log").cut("source.log", lines);
            cut.replay().unwrap();
        }
    }
}

#[test]
fn test_event_log_that_ends_anywhere_keeps_the_rules() {
    for name in ALL {
        let whole = Recording::new(name);
        // The front end is there with its reset.
        for lines in 3..whole.lines("source.jsonl").len() {
            let mut cut = Recording::new(name);
            cut.cut("source.jsonl", lines);
            cut.replay().unwrap();
        }
    }
}

#[test]
fn test_any_step_left_out_is_noticed() {
    for name in ALL {
        for file in Recording::new(name).traces() {
            let lines = Recording::new(name).lines(&file).to_vec();
            for (index, line) in lines.iter().enumerate() {
                let mut wrong = Recording::new(name);
                wrong.remove_line(&file, index);
                let result = wrong.replay();
                // The back-end may have ended before it could take what was posted last.
                let last = name == "lost" && line.contains("vsva_quiesced");
                let noticed = result.is_err() || may_be_left_out(line) || last;
                assert!(noticed, "{name}/{file}:{}: {line}", index + 1);
            }
        }
    }
}

/// What QEMU does only once it must not do twice. These say the same when they are repeated.
fn may_be_repeated(line: &str) -> bool {
    const IDEMPOTENT: [&str; 12] = [
        "savevm_state_",
        "vmstate_downtime_save",
        "vmstate_load",
        "vm_state_notify",
        "vsva_smmu_event",
        "vsva_saved",
        "vsva_loaded",
        "vsva_backend_gone",
        "vsva_release_taken_back",
        "vsva_connected",
        "vsva_client_attach",
        "vsva_client_reset",
    ];
    IDEMPOTENT.iter().any(|name| line.contains(name))
}

#[test]
fn test_any_step_repeated_is_noticed() {
    for name in ALL {
        for file in Recording::new(name).traces() {
            let lines = Recording::new(name).lines(&file).to_vec();
            for (index, line) in lines.iter().enumerate() {
                let mut wrong = Recording::new(name);
                wrong.repeat_line(&file, index);
                let noticed = wrong.replay().is_err() || may_be_repeated(line);
                assert!(noticed, "{name}/{file}:{}: {line}", index + 1);
            }
        }
    }
}

#[test]
fn test_any_message_left_out_of_an_event_log_is_noticed() {
    const TAKEN: [&str; 5] = [
        "submission_queued",
        "drain_begin",
        "quiesced",
        "\"release\"",
        "device_reset",
    ];
    const SENT: [&str; 3] = ["replay", "drain_failed_sent", "released"];
    let is = |line: &str, events: &[&str]| events.iter().any(|event| line.contains(event));
    for name in ALL {
        let lines = Recording::new(name).lines("source.jsonl").to_vec();
        for (index, line) in lines.iter().enumerate() {
            // What was posted last may never have been taken.
            let taken = is(line, &TAKEN) && lines[index + 1..].iter().any(|next| is(next, &TAKEN));
            if taken || is(line, &SENT) {
                let mut wrong = Recording::new(name);
                wrong.remove_line("source.jsonl", index);
                let noticed = wrong.replay().is_err();
                assert!(noticed, "{name}/source.jsonl:{}: {line}", index + 1);
            }
        }
    }
}

// F1: order.

#[test]
fn test_device_not_trapped_before_the_drain_breaks_f1() {
    let mut wrong = Recording::new("migration");
    wrong.remove("source.log", "vsva_portal_trap vsva0 device 0 trap 1");
    wrong.breaks("F1", "vsva_state vsva0 0 -> 1");
}

#[test]
fn test_fast_path_before_released_breaks_f1() {
    let mut wrong = Recording::new("migration");
    let trap = "vsva_portal_trap vsva0 device 0 trap 0";
    wrong.swap("destination.log", trap, "vsva_released");
    wrong.breaks("F1", trap);
}

#[test]
fn test_device_at_rest_twice_breaks_f1() {
    let mut wrong = Recording::new("migration");
    wrong.repeat("source.log", "vsva_quiesced vsva0 device 1");
    wrong.breaks("F1", "vsva_quiesced vsva0 device 1");
}

#[test]
fn test_messages_taken_in_another_order_than_posted_break_f1() {
    let mut wrong = Recording::new("migration");
    let submission = r#""event":"submission_queued","device":1,"ticket":0,"#;
    wrong.swap("source.jsonl", submission, r#""event":"drain_begin""#);
    wrong.breaks("F1", "submission_queued");
}

// F2 to F4: the stop.

#[test]
fn test_vm_stopped_while_draining_breaks_f2() {
    let mut wrong = Recording::new("migration");
    wrong
        .remove("source.log", "vsva_drained ")
        .remove("source.log", "vsva_state vsva0 1 -> 2");
    wrong.breaks("F2", "(finish-migrate)");
}

#[test]
fn test_release_of_a_stopped_vm_breaks_f3() {
    let mut wrong = Recording::new("failed");
    let state = "vsva_state vsva0 1 -> 3";
    wrong.move_after("source.log", "vsva_release ", state);
    wrong.breaks("F3", "vsva_release ");
}

#[test]
fn test_replay_into_a_stopped_vm_whose_release_was_not_taken_back_breaks_f4() {
    let mut wrong = Recording::new("taken-back").without_back_ends();
    let stopped = "vm_state_notify running 0 reason 4 (paused)";
    wrong.move_after(
        "source.log",
        "vsva_replay vsva0 device 0 ticket 0 ",
        stopped,
    );
    wrong.breaks("F4", "vsva_replay vsva0 device 0 ticket 0 ");
}

// F5: the save.

#[test]
fn test_vm_saved_while_draining_breaks_f5() {
    let mut wrong = Recording::new("failed");
    let saved = "vsva_saved vsva0 generation 1 next ticket 8 replayed 0 backend state 760 bytes";
    wrong.insert_after("source.log", saved, "idstr=ram");
    wrong.breaks("F5", "vsva_saved");
}

#[test]
fn test_replay_into_a_vm_that_is_being_saved_breaks_f5() {
    let mut wrong = Recording::new("failed");
    wrong.move_after(
        "source.log",
        "vsva_replay vsva0 device 0 ticket 0 ",
        "idstr=ram",
    );
    wrong.breaks("F5", "vsva_replay vsva0 device 0 ticket 0 ");
}

#[test]
fn test_event_into_a_vm_that_is_being_saved_breaks_f5() {
    let mut wrong = Recording::new("migration");
    let event = "vsva_smmu_event vsva0 device 0 sid 0x80 ssid 1 stag 0x0 addr 0x1000 delivered 1";
    wrong.insert_after("source.log", event, "idstr=ram");
    wrong.breaks("F5", "vsva_smmu_event");
}

#[test]
fn test_submission_of_a_stopped_vm_breaks_f5() {
    let mut wrong = Recording::new("failed");
    let stopped = "vm_state_notify running 0 reason 4 (paused)";
    wrong.move_after(
        "source.log",
        "vsva_submit vsva0 device 0 ticket 7 ",
        stopped,
    );
    wrong.breaks("F5", "vsva_submit");
}

// F6 and F7: what ends by itself, and the start.

#[test]
fn test_drain_before_what_expired_is_released_breaks_f6() {
    let mut wrong = Recording::new("expired");
    wrong.move_after(
        "source.log",
        "vsva_drain_start vsva0 generation 2",
        "vsva_state vsva0 2 -> 5",
    );
    wrong.breaks("F6", "vsva_drain_start vsva0 generation 2");
}

#[test]
fn test_drain_that_expires_before_it_is_drained_breaks_f6() {
    let mut wrong = Recording::new("expired");
    wrong.move_after(
        "source.log",
        "vsva_drained_expired",
        "vsva_submit vsva0 device 0 ticket 7 ",
    );
    wrong.breaks("F6", "vsva_drained_expired");
}

#[test]
fn test_vm_that_runs_with_a_failed_drain_breaks_f7() {
    let mut wrong = Recording::new("failed").without_back_ends();
    let started = "vm_state_notify running 1 reason 9 (running)";
    let last = wrong
        .lines("source.log")
        .iter()
        .rposition(|line| line.contains(started));
    wrong.move_line(
        "source.log",
        "vsva_submit vsva0 device 0 ticket 7 ",
        last.unwrap(),
    );
    wrong.breaks("F7", "vsva_submit");
}

// F8 to F10: the copies.

#[test]
fn test_replay_left_out_breaks_f8() {
    let mut wrong = Recording::new("migration");
    wrong.remove("destination.log", "vsva_replay vsva0 device 1 ticket 3 ");
    wrong.breaks("F8", "vsva_replay vsva0 device 1 ticket 4 ");
}

#[test]
fn test_replays_in_another_order_break_f8() {
    let mut wrong = Recording::new("migration");
    let (one, other) = ("device 1 ticket 3 ", "device 1 ticket 4 ");
    wrong.swap("destination.log", one, other);
    wrong.breaks("F8", "vsva_replay vsva0 device 1 ticket 4 ");
}

#[test]
fn test_replay_for_another_device_breaks_f8() {
    let mut wrong = Recording::new("migration");
    wrong.replace(
        "destination.log",
        "device 1 ticket 3 ",
        "device 0 ticket 3 ",
    );
    wrong.breaks("F8", "device 0 ticket 3 ");
}

#[test]
fn test_replay_in_drained_breaks_f8() {
    let mut wrong = Recording::new("expired");
    let replay = "vsva_replay vsva0 device 0 ticket 0 ";
    let expires = wrong.find("source.log", "vsva_drained_expired");
    wrong.move_line("source.log", replay, expires);
    wrong.breaks("F8", replay);
}

#[test]
fn test_replay_that_the_front_end_has_not_taken_breaks_f8() {
    let mut wrong = Recording::new("expired");
    let replay = r#"{"t_us":1,"actor":"backend","event":"replay","device":0,"ticket":7,"seq":9}"#;
    wrong.insert_line(
        "source.jsonl",
        replay,
        r#""event":"replay","device":0,"ticket":7"#,
    );
    wrong.breaks("F8", "replay");
}

#[test]
fn test_state_that_nobody_has_saved_breaks_f9() {
    let mut wrong = Recording::new("migration");
    wrong.remove("source.log", "vsva_saved");
    wrong.breaks("F9", "vsva_loaded");
}

#[test]
fn test_state_with_what_a_reset_has_dropped_breaks_f9() {
    let mut wrong = Recording::new("reset");
    wrong.replace("destination.log", "replayed 8 ", "replayed 0 ");
    wrong.breaks("F9", "vsva_loaded");
}

#[test]
fn test_replay_of_what_a_reset_has_dropped_breaks_f10() {
    let mut wrong = Recording::new("migration").without_back_ends();
    wrong.insert_after(
        "destination.log",
        "vsva_client_reset vsva0 device 1",
        "vsva_loaded",
    );
    wrong.breaks("F10", "vsva_replay vsva0 device 1 ticket 0 ");
}

#[test]
fn test_event_of_a_device_that_is_gone_breaks_f10() {
    let mut wrong = Recording::new("migration").without_back_ends();
    wrong.insert_after(
        "destination.log",
        "vsva_client_detach vsva0 td1 device 1",
        "5 -> 0",
    );
    let event = "vsva_smmu_event vsva0 device 1 sid 0x88 ssid 1 stag 0x0 addr 0x1000 delivered 1";
    wrong.insert_after("destination.log", event, "vsva_client_detach");
    wrong.breaks("F10", "vsva_smmu_event");
}

// F11: no back-end.

#[test]
fn test_copy_not_executed_without_a_back_end_breaks_f11() {
    let mut wrong = Recording::new("lost");
    wrong.remove("source.log", "vsva_replay vsva0 device 0 ticket 3 ");
    wrong.breaks("F11", "vsva_replay vsva0 device 0 ticket 4 ");
}

#[test]
fn test_drain_without_a_back_end_breaks_f11() {
    let mut wrong = Recording::new("lost");
    let drain = "vsva_drain_start vsva0 generation 2 timeout 60000 ms";
    wrong.insert_after("source.log", drain, "vsva_state vsva0 3 -> 0");
    wrong.breaks("F11", "vsva_drain_start vsva0 generation 2");
}

// F12: what the back-end says.

#[test]
fn test_drained_before_each_device_is_at_rest_breaks_f12() {
    let mut wrong = Recording::new("migration");
    wrong.remove("source.log", "vsva_quiesced vsva0 device 1");
    wrong.breaks("F12", "vsva_drained ");
}

#[test]
fn test_drained_that_the_back_end_has_not_sent_breaks_f12() {
    let mut wrong = Recording::new("migration");
    wrong.remove("source.jsonl", r#""event":"drained""#);
    wrong.breaks("F12", "");
}

#[test]
fn test_drained_of_another_generation_breaks_f12() {
    let mut wrong = Recording::new("migration");
    wrong.replace(
        "source.log",
        "vsva_drained vsva0 generation 1",
        "vsva_drained vsva0 generation 2",
    );
    wrong.breaks("F12", "vsva_drained ");
}

#[test]
fn test_event_with_the_sid_of_another_device_breaks_f12() {
    let mut wrong = Recording::new("migration");
    let event = "vsva_smmu_event vsva0 device 0 sid 0x88 ssid 1 stag 0x0 addr 0x1000 delivered 1";
    wrong.insert_after("source.log", event, "vsva_state vsva0 0 -> 1");
    wrong.breaks("F12", "vsva_smmu_event");
}

#[test]
fn test_stall_that_is_no_fault_breaks_f12() {
    let mut wrong = Recording::new("migration");
    let event = "vsva_smmu_event vsva0 device 0 sid 0x80 ssid 1 stag 0x0 addr 0x1000 delivered 1 \
                 type 0x4 stall 1";
    wrong.insert_after("source.log", event, "vsva_state vsva0 0 -> 1");
    wrong.breaks("F12", "vsva_smmu_event");
}

/// What newer traces say at the end of the line.
fn with_drain(name: &str, drain: u8) -> Recording {
    let mut recording = Recording::new(name).without_back_ends();
    let line = "limits: devices 16 pending 65536 faults 4096";
    let drain = format!("{line} drain {drain}");
    recording
        .only("source.log")
        .replace("source.log", line, &drain);
    recording
}

#[test]
fn test_drains_that_are_off_though_nobody_asked_for_that_break_f2() {
    with_drain("failed", 1).replay().unwrap();
    with_drain("failed", 0).breaks("F2", "vsva_connected");
}

#[test]
fn test_drains_follow_what_the_back_end_offers() {
    let old = |drain| {
        let mut recording = with_drain("failed", drain);
        recording.replace("source.log", "features 0x140000001", "features 0x140000000");
        recording.cut("source.log", 1);
        recording
    };
    old(0).replay().unwrap();
    old(1).breaks("F2", "vsva_connected");
}

#[test]
fn test_drains_that_are_on_are_checked_though_they_may_be_off() {
    let undrained = |drain| {
        let mut recording = with_drain("migration", drain);
        recording.remove("source.log", "vsva_drained vsva0 generation 1");
        recording.remove("source.log", "vsva_state vsva0 1 -> 2");
        let stop = recording.find("source.log", "new_state 7 (finish-migrate)");
        recording.cut("source.log", stop + 2);
        recording.without_drain()
    };
    undrained(1).breaks("F2", "(finish-migrate)");
    undrained(0).replay().unwrap();
}

// The program's own messages.

#[test]
fn test_illegal_step_names_line_rule_and_state() {
    let mut wrong = Recording::new("migration");
    wrong.remove("source.log", "vsva_quiesced vsva0 device 1");
    let line = wrong.find("source.log", "vsva_drained ") + 1;
    let text = wrong.replay().unwrap_err().to_string();
    assert!(
        text.contains(&format!(
            "source.log:{line}: F12: DRAINED before every device"
        )),
        "{text}"
    );
    assert!(
        text.contains("phase Draining, generation 1, VM Running, tickets 0 to 8"),
        "{text}"
    );
}

#[test]
fn test_vm_paused_while_it_is_stopped_for_a_migration_keeps_the_rules() {
    let mut both = Recording::new("migration");
    both.insert_after(
        "source.log",
        "runstate_set current_run_state 4 (paused) new_state 7 (finish-migrate)",
        "runstate_set current_run_state 9 (running) new_state 7 (finish-migrate)",
    )
    .replace(
        "source.log",
        "9 (running) new_state 7 (finish-migrate)",
        "9 (running) new_state 4 (paused)",
    )
    .replace(
        "source.log",
        "running 0 reason 7 (finish-migrate)",
        "running 0 reason 4 (paused)",
    );
    both.replay().unwrap();
}

#[test]
fn test_notice_of_a_run_state_that_the_vm_has_not_had_is_not_understood() {
    let mut wrong = Recording::new("migration");
    wrong.replace(
        "source.log",
        "running 0 reason 7 (finish-migrate)",
        "running 0 reason 4 (paused)",
    );
    let text = wrong.replay().unwrap_err().to_string();
    assert!(text.contains("not understood, the run state"), "{text}");
}

#[test]
fn test_line_without_a_field_is_not_understood() {
    let mut wrong = Recording::new("migration");
    wrong.replace("source.log", "device 1 ticket 5 ", "device 1 ");
    let text = wrong.replay().unwrap_err().to_string();
    assert!(
        text.contains("not understood, there is no 'ticket'"),
        "{text}"
    );
}
