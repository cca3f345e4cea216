// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who reads the messages and the event log, or does not, holds nobody; nor does who makes the
//! process talk.

use std::{
    fs::File,
    os::{
        fd::AsFd,
        unix::{
            fs::symlink,
            net::{UnixDatagram, UnixStream},
        },
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::fs::{
    fcntl_getfl, fcntl_setfl, memfd_create, mknodat, FileType, MemfdFlags, Mode, OFlags, CWD,
};
use vhost_user_vsva::frontend::Frontend;

use crate::{
    raw::{self, Raw},
    support::{
        attachment, command, connect, event_records, options, retry_on_intr, terminate, Backend,
        OneDevice, HANG,
    },
};

#[test]
fn test_event_log_fifo_without_reader_does_not_hold_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("events");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    let backend = Backend::start_with(&["--event-log", fifo.to_str().unwrap()]);
    backend.connect();
    assert!(backend.terminate().success());
}

/// So many faults make the whole way, one after the other.
fn serve_faults(vm: &mut OneDevice, count: u64) {
    for page in 0..count {
        let (_, event) = vm.stall(0x1000 * page);
        vm.resume(&event);
        vm.source.answer();
    }
}

/// A back-end that tells `stderr` all that it can, and its front end.
fn start_with_stderr(socket: &Path, stderr: Stdio) -> (Child, OneDevice) {
    let mut child = command()
        .args(["--log-level", "trace", "--socket-path"])
        .arg(socket)
        .stderr(stderr)
        .spawn()
        .unwrap();
    let frontend = Frontend::from_stream(connect(&mut child, socket), &options()).unwrap();
    (child, OneDevice::with_frontend(frontend))
}

/// A pipe that takes nothing more, as what is written to and what holds it open.
fn full_pipe() -> (Stdio, File) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    for size in [4096, 1] {
        while rustix::io::write(&writer, &[b'x'; 4096][..size]).is_ok() {}
    }
    fcntl_setfl(&writer, flags).unwrap();
    (writer.into(), reader.into())
}

#[test]
fn test_stderr_that_nobody_reads_holds_neither_faults_nor_clients_nor_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let (stderr, reader) = full_pipe();
    let socket = dir.path().join("vsva.sock");
    let (mut child, mut vm) = start_with_stderr(&socket, stderr);
    serve_faults(&mut vm, 100);
    drop(vm);
    let stream = UnixStream::connect(&socket).unwrap();
    assert_eq!(Raw::over(stream).ask(raw::GET_FEATURES, &[]).body.len(), 8);
    terminate(&mut child);
    drop(reader);
}

#[test]
fn test_trace_fifo_without_reader_holds_neither_the_start_nor_faults_nor_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("trace");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    let backend = Backend::start_with(&["--trace", fifo.to_str().unwrap()]);
    let mut vm = OneDevice::new(&backend);
    serve_faults(&mut vm, 1000);
    assert!(backend.terminate().success());
}

#[test]
fn test_full_disk_of_the_trace_holds_neither_faults_nor_the_event_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("events.jsonl");
    let options = ["--trace", "/dev/full", "--event-log", log.to_str().unwrap()];
    let backend = Backend::start_with(&options);
    let mut vm = OneDevice::new(&backend);
    serve_faults(&mut vm, 100);
    assert!(backend.terminate().success());
    let written = |record: &serde_json::Value| record["event"] == "answer_written";
    let records = event_records(&log);
    assert_eq!(records.iter().filter(|record| written(record)).count(), 100);
}

#[test]
fn test_trace_that_cannot_be_opened_fails_and_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let done = command()
        .args(["--trace", "/nonexistent/trace", "--socket-path"])
        .arg(dir.path().join("vsva.sock"))
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(1));
    let message = String::from_utf8(done.stderr).unwrap();
    assert!(
        message.contains("Cannot open the trace \"/nonexistent/trace\""),
        "{message}"
    );
}

/// Starts it with the two, which must fail.
fn assert_same_file_is_refused(log: &Path, trace: &Path) {
    let socket = log.with_extension("sock");
    let done = command()
        .arg("--socket-path")
        .arg(socket)
        .arg("--event-log")
        .arg(log)
        .arg("--trace")
        .arg(trace)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let message = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(2), "{message}");
    assert!(
        message.contains("--event-log and --trace are both"),
        "{message}"
    );
}

#[test]
fn test_event_log_and_trace_in_one_file_are_refused_and_leave_it_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let [log, link, hard, fifo] = ["log", "link", "hard", "fifo"].map(|name| dir.path().join(name));
    std::fs::write(&log, "precious\n").unwrap();
    symlink(&log, &link).unwrap();
    std::fs::hard_link(&log, &hard).unwrap();
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    for (one, other) in [(&log, &log), (&log, &link), (&hard, &log), (&fifo, &fifo)] {
        assert_same_file_is_refused(one, other);
    }
    assert_eq!(std::fs::read(&log).unwrap(), b"precious\n");
    // One that is not there yet.
    let new = dir.path().join("new");
    assert_same_file_is_refused(&new, &new);
}

#[test]
fn test_event_log_in_the_place_of_a_socket_is_refused_and_leaves_none() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("vsva.sock");
    for option in ["--event-log", "--trace"] {
        let done = command()
            .arg("--socket-path")
            .arg(&socket)
            .arg(option)
            .arg(&socket)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let message = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(1), "{message}");
        assert!(message.contains("it is a socket"), "{message}");
        assert!(!socket.exists());
    }
}

#[test]
fn test_event_log_and_trace_that_are_both_thrown_away_are_two() {
    let backend = Backend::start_with(&["--event-log", "/dev/null", "--trace", "/dev/null"]);
    assert!(backend.terminate().success());
}

#[test]
fn test_event_log_that_nobody_reads_holds_neither_faults_nor_deadlines_nor_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("events");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    let backend = Backend::start_with(&["--event-log", fifo.to_str().unwrap()]);
    let mut vm = OneDevice::new(&backend);
    serve_faults(&mut vm, 1000);
    assert!(backend.terminate().success());
}

#[test]
fn test_files_that_are_as_large_as_they_may_be_do_not_end_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let [log, trace, messages] = ["events", "trace", "messages"].map(|name| {
        let path = dir.path().join(name);
        std::fs::write(&path, [b'\n'; 8192]).unwrap();
        path
    });
    let socket = dir.path().join("vsva.sock");
    let mut child = Command::new("sh")
        .args([
            "-c",
            "ulimit -f 1; exec \"$0\" --log-level=trace --socket-path \"$1\" --event-log \"$2\" \
             --trace \"$3\" 2>>\"$4\"",
        ])
        .args([
            env!("CARGO_BIN_EXE_vhost-user-vsva").as_ref(),
            &*socket,
            &*log,
            &*trace,
            &*messages,
        ])
        .env_remove("RUST_LOG")
        .spawn()
        .unwrap();
    let frontend = Frontend::from_stream(connect(&mut child, &socket), &options()).unwrap();
    serve_faults(&mut OneDevice::with_frontend(frontend), 1000);
    terminate(&mut child);
    for (path, most) in [(log, 8192), (trace, 1024), (messages, 8192)] {
        let length = std::fs::metadata(&path).unwrap().len();
        assert!(length <= most, "{path:?} has {length} bytes");
    }
}

#[test]
fn test_event_log_on_a_full_disk_holds_neither_faults_nor_sigterm() {
    let backend = Backend::start_with(&["--event-log", "/dev/full"]);
    let mut vm = OneDevice::new(&backend);
    serve_faults(&mut vm, 100);
    assert!(backend.terminate().success());
}

#[test]
fn test_stderr_that_cannot_be_written_holds_neither_faults_nor_sigterm() {
    let gone = || rustix::pipe::pipe().unwrap().1;
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for stderr in [Stdio::from(full()), Stdio::from(gone()), Stdio::null()] {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("vsva.sock");
        let (mut child, mut vm) = start_with_stderr(&socket, stderr);
        serve_faults(&mut vm, 100);
        drop(vm);
        terminate(&mut child);
    }
}

#[test]
fn test_service_manager_that_does_not_read_does_not_hold_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let notify = dir.path().join("notify");
    let _manager = UnixDatagram::bind(&notify).unwrap();
    let other = UnixDatagram::unbound().unwrap();
    other.set_nonblocking(true).unwrap();
    while other.send_to(b"x", &notify).is_ok() {}
    let socket = dir.path().join("vsva.sock");
    let mut child = command()
        .arg("--socket-path")
        .arg(&socket)
        .env("NOTIFY_SOCKET", &notify)
        .spawn()
        .unwrap();
    let stream = connect(&mut child, &socket);
    assert_eq!(Raw::over(stream).ask(raw::GET_FEATURES, &[]).body.len(), 8);
    terminate(&mut child);
}

#[test]
fn test_service_manager_with_a_watchdog_is_told_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let notify = dir.path().join("notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager.set_read_timeout(Some(HANG)).unwrap();
    let mut child = command()
        .arg("--socket-path")
        .arg(dir.path().join("vsva.sock"))
        .env("NOTIFY_SOCKET", &notify)
        .env("WATCHDOG_USEC", "40000")
        .spawn()
        .unwrap();
    let mut told = Vec::new();
    while told.iter().filter(|it| *it == "WATCHDOG=1\n").count() < 5 {
        let mut message = [0; 64];
        let len = retry_on_intr(|| manager.recv(&mut message)).unwrap();
        told.push(String::from_utf8(message[..len].to_vec()).unwrap());
    }
    terminate(&mut child);

    told.retain(|it| it != "WATCHDOG=1\n");
    assert_eq!(told, ["READY=1\n"]);
}

#[test]
fn test_requests_that_are_refused_without_end_are_not_all_logged() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, messages) = (dir.path().join("vsva.sock"), dir.path().join("messages"));
    let mut child = command()
        .arg("--socket-path")
        .arg(&socket)
        .stderr(File::create(&messages).unwrap())
        .spawn()
        .unwrap();
    let stream = connect(&mut child, &socket);
    let mut frontend = Frontend::from_stream(stream, &options()).unwrap();
    let mut attach = frontend.attach_channel().unwrap();
    for _ in 0..5000 {
        attach.attach(&attachment(0), None).unwrap_err();
    }
    terminate(&mut child);

    let text = std::fs::read_to_string(&messages).unwrap();
    let lines = text
        .lines()
        .filter(|line| line.contains("for device 0"))
        .count();
    assert!((100..2500).contains(&lines), "{lines} lines");
    let number = |line: &str| -> Option<usize> {
        let line = line.strip_prefix("vhost-user-vsva: ").unwrap_or(line);
        let words = line.rsplit_once("] ").map_or(line, |(_, words)| words);
        let (count, rest) = words.split_once(" messages ")?;
        rest.contains("suppressed").then(|| count.parse().unwrap())
    };
    let suppressed: usize = text.lines().filter_map(number).sum();
    // The first one of those that are told last is quoted.
    let last = text.lines().any(|line| line.contains("the first: "));
    assert_eq!(lines + suppressed - usize::from(last), 5000, "{text}");
}

/// What a back-end logs that is talked to like this, each time on a connection of its own.
fn messages_of(talks: &[&dyn Fn(Raw)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (socket, messages) = (dir.path().join("vsva.sock"), dir.path().join("messages"));
    let mut child = command()
        .arg("--socket-path")
        .arg(&socket)
        .stderr(File::create(&messages).unwrap())
        .spawn()
        .unwrap();
    for talk in talks {
        let stream = connect(&mut child, &socket);
        talk(Raw::negotiated_over(stream, raw::ALL_PROTOCOL));
    }
    // The next connection is served when the one before has been reported.
    Raw::over(connect(&mut child, &socket)).assert_served();
    terminate(&mut child);
    std::fs::read_to_string(&messages).unwrap()
}

#[test]
fn test_request_that_ends_the_connection_is_named() {
    let mut config = raw::words(&[0, 4, 0]);
    config.extend([1, 2, 3, 4]);
    let unsealed = File::from(memfd_create("rings", MemfdFlags::CLOEXEC).unwrap());
    unsealed.set_len(0x1000).unwrap();
    let mem_table = raw::words(&[1, 0, 0, 0, 0x1000, 0, 0x1000, 0, 0, 0]);

    let text = messages_of(&[
        &|raw| raw.assert_refused(raw::SET_CONFIG, &config),
        &|raw| raw.assert_refused_with(raw::SET_MEM_TABLE, &mem_table, unsealed.as_fd()),
    ]);

    for request in ["SET_CONFIG", "SET_MEM_TABLE"] {
        for line in [
            format!("{request} refused: "),
            format!("the connection has ended after {request}: "),
        ] {
            assert!(text.contains(&line), "no {line:?} in {text}");
        }
    }
}
