// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The subcommand `report`, on what back-ends have written.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use vhost_user_vsva::frontend::Event;

use crate::support::{command, event_records, submission, Backend, OneDevice, LONG};

fn run_report(output: &Path, logs: &[&Path]) -> Output {
    command()
        .args(["report", "--output"])
        .arg(output)
        .args(logs)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap()
}

#[test]
fn test_report_of_a_back_ends_log_tells_its_drain_and_draws_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("events.jsonl");
    let picture = dir.path().join("drain.svg");
    let backend = Backend::start_with(&["--event-log", log.to_str().unwrap()]);
    let mut vm = OneDevice::new(&backend);
    let (_, event) = vm.stall(0x5000);
    vm.frontend.drain(7, LONG).unwrap();
    vm.frontend.submit(0, &submission(0)).unwrap();
    vm.resume(&event);
    vm.source.answer();
    vm.frontend.quiesced(0, 7).unwrap();
    assert!(matches!(
        vm.frontend.wait_event().unwrap(),
        Event::Drained(_)
    ));
    drop(vm);
    assert!(backend.terminate().success());

    let done = run_report(&picture, &[&log]);
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{text}");
    for words in [
        "faults: 1 read, 1 answered",
        "drains: 1 begun, 1 drained",
        "generation 7",
        "1 submissions queued",
        "address 0x5000, answered after",
    ] {
        assert!(text.contains(words), "no {words} in {text}");
    }
    let picture = fs::read_to_string(picture).unwrap();
    assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
    assert!(picture.contains("device 0 at rest"), "{picture}");
}

#[test]
fn test_report_of_something_else_names_file_and_line_and_leaves_no_picture() {
    let dir = tempfile::tempdir().unwrap();
    let (log, picture) = (dir.path().join("log"), dir.path().join("picture.svg"));
    fs::write(&log, "hello\n").unwrap();
    let done = run_report(&picture, &[&log]);
    let message = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(message.contains("log\", line 1: "), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(!picture.exists());
}

#[test]
fn test_output_that_is_as_large_as_it_may_be_is_an_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (log, picture) = (dir.path().join("log"), dir.path().join("picture.svg"));
    fs::write(
        &log,
        "{\"t_us\":1,\"actor\":\"backend\",\"event\":\"listening\"}\n",
    )
    .unwrap();
    fs::write(&picture, "before").unwrap();
    for words in [
        "report --output picture.svg log >/dev/null",
        "status --json missing >stdout",
    ] {
        let done = Command::new("sh")
            .args(["-c", &format!("ulimit -f 0; exec \"$0\" {words}")])
            .arg(env!("CARGO_BIN_EXE_vhost-user-vsva"))
            .current_dir(dir.path())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let message = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(1), "{message}");
        assert!(message.contains("File too large"), "{message}");
    }
    assert_eq!(fs::read_to_string(&picture).unwrap(), "before");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn test_log_whose_last_line_is_torn_goes_on_in_a_line_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("events.jsonl");
    let first = Backend::start_with(&["--event-log", log.to_str().unwrap()]);
    assert!(first.terminate().success());
    let count = event_records(&log).len();
    let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
    file.write_all(br#"{"t_us":1"#).unwrap();
    let second = Backend::start_with(&["--event-log", log.to_str().unwrap()]);
    assert!(second.terminate().success());

    let text = fs::read_to_string(&log).unwrap();
    let next = text.lines().nth(count + 1).unwrap();
    assert!(next.contains(r#""event":"listening""#), "{text}");
    let done = run_report(&dir.path().join("picture.svg"), &[&log]);
    let text = String::from_utf8(done.stdout).unwrap();
    let told = format!("line {} is torn and left out", count + 1);
    assert!(text.contains(&told), "{text}");
}
