// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The life of the process: start, sockets, signals, options.

use std::{
    fs,
    io::{ErrorKind, Read},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            fs::symlink,
            net::{UnixListener, UnixStream},
            process::ExitStatusExt,
        },
    },
    process::{Child, Command, Output, Stdio},
    thread::JoinHandle,
};

use rustix::{
    io::{fcntl_setfd, FdFlags},
    process::{kill_process, Pid, Signal},
};
use vhost_user_vsva::frontend::Frontend;

use crate::support::{
    command, connect, event_records, options, show_messages, terminate, Backend, OneDevice,
};

fn run(command: &mut Command) -> Output {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap()
}

/// Runs the program, which must fail with one line that has all of `texts`.
fn assert_fails(command: &mut Command, texts: &[&str]) {
    let output = run(command);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{stderr}");
    for text in texts {
        assert!(stderr.contains(text), "{text:?} in {stderr:?}");
    }
    assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr:?}");
}

/// Lets the child inherit `fd`; it has the same number there.
fn inherit(fd: &impl AsFd) -> String {
    fcntl_setfd(fd, FdFlags::empty()).unwrap();
    fd.as_fd().as_raw_fd().to_string()
}

#[test]
fn test_limit_out_of_range_ends_with_the_status_of_a_wrong_option() {
    let output = run(command().args(["--socket-path", "/nonexistent/x", "--max-devices", "500"]));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("--max-devices: 500 is out of range"),
        "{stderr}"
    );
}

#[test]
fn test_option_with_a_wrong_value_is_answered_with_those_that_it_may_have() {
    for (words, allowed) in [
        (
            ["--log-level=loud"].as_slice(),
            "off, error, warn, info, debug, trace",
        ),
        (&["--seccomp=maybe"], "none, kill, log, trap"),
        (&["--sandbox=maybe"], "landlock, none"),
        (&["--busy-poll-us=1001"], "from 0 to 1000"),
        (&["--busy-poll-us=x"], "from 0 to 1000"),
        (&["--fd=x"], "from 0 to 2147483647"),
        (&["--fd=-1"], "from 0 to 2147483647"),
        (&["--max-devices=many"], "from 1 to 256"),
        (&["--max-faults=-1"], "from 1 to 65536"),
        (&["--max-device-faults="], "from 0 to 65536"),
        (&["--max-device-faults=x"], "from 0 to 65536"),
        (&["--max-pending=99999999999"], "from 1 to "),
        (
            &["--socket-path="],
            "value is required for '--socket-path <PATH>'",
        ),
        (
            &["--status-socket="],
            "value is required for '--status-socket <PATH>'",
        ),
        (
            &["--event-log="],
            "value is required for '--event-log <FILE>'",
        ),
        (&["--trace="], "value is required for '--trace <FILE>'"),
        (
            &["report", "--generation=x", "log"],
            "from 0 to 18446744073709551615",
        ),
        (
            &["report", "--output=", "log"],
            "value is required for '--output <FILE>'",
        ),
        (
            &["trace", "--output="],
            "value is required for '--output <FILE>'",
        ),
    ] {
        let output = run(command().args(words));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {stderr}");
        assert!(stderr.contains(allowed), "{words:?}: {stderr}");
    }
}

#[test]
fn test_start_with_one_socket_for_two_purposes_fails_and_leaves_none() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    symlink(dir.path(), &link).unwrap();
    let socket = dir.path().join("vsva.sock");
    for other in [socket.clone(), link.join("vsva.sock")] {
        assert_fails(
            command()
                .args(["--socket-path".as_ref(), socket.as_os_str()])
                .arg("--status-socket")
                .arg(other),
            &["--socket-path and --status-socket are both", "vsva.sock"],
        );
        assert!(!socket.exists());
    }
}

#[test]
fn test_start_with_any_limit_of_open_files_leaves_no_socket_when_it_has_ended() {
    for limit in 3..=40 {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("vsva.sock");
        let script = format!(
            "ulimit -n {limit}; \
             exec \"$0\" --socket-path \"$1/vsva.sock\" --status-socket \"$1/status.sock\""
        );
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .arg(env!("CARGO_BIN_EXE_vhost-user-vsva"))
            .arg(dir.path())
            .env_remove("RUST_LOG")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while child.try_wait().unwrap().is_none() {
            // Signals wait since before there is a socket.
            if UnixStream::connect(&socket).is_ok() {
                let _ = kill_process(Pid::from_child(&child), Signal::TERM);
                child.wait().unwrap();
            }
        }
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
        assert!(left.is_empty(), "ulimit -n {limit} leaves {left:?}");
    }
}

#[test]
fn test_output_that_cannot_be_written_is_an_error_and_no_panic() {
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    for to_stderr in [false, true] {
        let mut command = command();
        if to_stderr {
            command.args(["report", "/nonexistent"]).stderr(full());
        } else {
            command.arg("--print-capabilities").stdout(full());
        }
        assert_eq!(command.status().unwrap().code(), Some(1), "{command:?}");
    }
}

#[test]
fn test_print_capabilities_prints_json_and_ignores_other_options() {
    let output = run(command().args([
        "--print-capabilities",
        "--socket-path",
        "/nonexistent/x",
        "--other",
    ]));

    assert!(output.status.success());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["type"], "vsva");
    let features = json["features"].as_array().unwrap();
    assert!(features.contains(&"migration-blocking".into()));
    assert_eq!(json["recovery-layout"], 1);
}

#[test]
fn test_start_without_socket_fails() {
    assert_fails(&mut command(), &["--socket-path", "--fd"]);
}

#[test]
fn test_start_with_limit_out_of_range_fails_and_names_the_option() {
    for (option, name) in [
        ("--max-faults=0", "--max-faults"),
        ("--max-faults=65537", "--max-faults"),
        ("--max-devices=100000", "--max-devices"),
        ("--max-pending=0", "--max-pending"),
    ] {
        assert_fails(
            command().args(["--socket-path=/nonexistent/x", option]),
            &[name],
        );
    }
}

#[test]
fn test_start_with_unusable_path_fails_and_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();

    assert_fails(
        command().args(["--socket-path", "/nonexistent/vsva.sock"]),
        &["/nonexistent/vsva.sock"],
    );
    assert_fails(command().arg("--socket-path").arg(&file), &["not a socket"]);
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

#[test]
fn test_start_on_socket_of_running_backend_fails() {
    let mut backend = Backend::start();

    assert_fails(
        command().arg("--socket-path").arg(backend.socket()),
        &["another process is listening"],
    );
    backend.assert_alive();
    backend.connect();
}

#[test]
fn test_start_on_socket_left_behind_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsva.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());

    let backend = Backend::start_at(dir, &[]);

    backend.connect();
}

#[test]
fn test_event_log_that_cannot_be_opened_fails_and_names_it() {
    let dir = tempfile::tempdir().unwrap();

    assert_fails(
        command()
            .args(["--event-log", "/nonexistent/log", "--socket-path"])
            .arg(dir.path().join("vsva.sock")),
        &["/nonexistent/log"],
    );
    assert!(!dir.path().join("vsva.sock").exists());
}

/// Both sockets are made before the log is opened, and the first one before the second.
#[test]
fn test_start_that_fails_leaves_no_socket_behind() {
    let dir = tempfile::tempdir().unwrap();
    let start = |status: &str, log: &str, text: &str| {
        let mut command = command();
        command
            .arg("--socket-path")
            .arg(dir.path().join("vsva.sock"));
        command.arg("--status-socket").arg(dir.path().join(status));
        assert_fails(command.args(["--event-log", log]), &[text]);
    };

    start("status.sock", "/nonexistent/log", "/nonexistent/log");
    start("missing/status.sock", "/dev/null", "missing/status.sock");

    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn test_signal_while_nobody_is_connected_ends_it_and_removes_the_socket() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut backend = Backend::start();
        backend.signal(signal);
        assert!(backend.child.wait().unwrap().success());
        assert!(!backend.socket().exists());
    }
}

#[test]
fn test_signal_that_was_ignored_at_the_start_stays_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("vsva.sock");
    let mut child = Command::new("sh")
        .args(["-c", "trap '' HUP INT; exec \"$0\" --socket-path \"$1\""])
        .arg(env!("CARGO_BIN_EXE_vhost-user-vsva"))
        .arg(&socket)
        .env_remove("RUST_LOG")
        .spawn()
        .unwrap();
    let frontend = Frontend::from_stream(connect(&mut child, &socket), &options()).unwrap();
    let mut vm = OneDevice::with_frontend(frontend);
    for signal in [Signal::HUP, Signal::INT] {
        kill_process(Pid::from_child(&child), signal).unwrap();
    }
    // A signal that was heeded would end the connection.
    vm.frontend.config().unwrap();
    vm.stall(0x1000);
    terminate(&mut child);
}

#[test]
fn test_signal_while_connected_ends_it_and_the_connection() {
    let mut backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    vm.stall(0x1000);

    backend.signal(Signal::TERM);

    assert!(backend.child.wait().unwrap().success());
    assert!(!backend.socket().exists());
    vm.frontend.config().unwrap_err();
}

#[test]
fn test_signal_before_negotiation_ends_it() {
    let mut backend = Backend::start();
    let mut stream = backend.stream();

    backend.signal(Signal::TERM);

    assert!(backend.child.wait().unwrap().success());
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn test_end_leaves_socket_of_another_process_alone() {
    let mut backend = Backend::start();
    fs::remove_file(backend.socket()).unwrap();
    let _other = UnixListener::bind(backend.socket()).unwrap();

    backend.signal(Signal::TERM);

    assert!(backend.child.wait().unwrap().success());
    assert!(backend.socket().exists());
}

#[test]
fn test_fd_listening_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsva.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut child = command()
        .args(["--fd", &inherit(&listener)])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let messages = show_messages(&mut child);

    let stream = UnixStream::connect(&path).unwrap();
    let frontend = Frontend::from_stream(stream, &options());
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();

    assert!(child.wait().unwrap().success());
    messages.join().unwrap();
    frontend.unwrap();
    assert!(path.exists(), "it belongs to whoever made it");
}

/// Started as a front end starts it, which keeps the socket's path for itself.
fn start_one_off(listener: &UnixListener) -> (Child, JoinHandle<String>) {
    let mut child = command()
        .args(["--one-off", "--fd", &inherit(listener)])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let messages = show_messages(&mut child);
    (child, messages)
}

#[test]
fn test_one_off_serves_the_connection_that_waits_and_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsva.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let stream = UnixStream::connect(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let (mut child, messages) = start_one_off(&listener);

    let mut frontend = Frontend::from_stream(stream, &options()).unwrap();
    frontend.config().unwrap();
    assert!(child.try_wait().unwrap().is_none());
    drop(frontend);

    assert!(child.wait().unwrap().success());
    messages.join().unwrap();
}

#[test]
fn test_one_off_ends_with_a_connection_that_ended_before_it_began() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsva.sock");
    let listener = UnixListener::bind(&path).unwrap();
    drop(UnixStream::connect(&path).unwrap());

    let (mut child, messages) = start_one_off(&listener);

    assert!(child.wait().unwrap().success());
    messages.join().unwrap();
}

#[test]
fn test_one_off_refuses_every_other_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsva.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let stream = UnixStream::connect(&path).unwrap();
    let (mut child, messages) = start_one_off(&listener);
    let frontend = Frontend::from_stream(stream, &options()).unwrap();

    let refused = UnixStream::connect(&path).unwrap_err();

    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    drop(frontend);
    assert!(child.wait().unwrap().success());
    messages.join().unwrap();
}

#[test]
fn test_one_off_leaves_signals_of_the_terminal_to_the_front_end_and_ends_at_sigterm() {
    let mut backend = Backend::start_with(&["--one-off"]);
    let mut vm = OneDevice::new(&backend);

    backend.signal(Signal::INT);
    backend.signal(Signal::HUP);
    // A signal that was heeded would end the connection.
    vm.frontend.config().unwrap();
    vm.stall(0x1000);
    backend.assert_alive();
    backend.signal(Signal::TERM);

    assert!(backend.child.wait().unwrap().success());
    vm.frontend.config().unwrap_err();
}

#[test]
fn test_one_off_removes_the_socket_that_it_has_made() {
    let mut backend = Backend::start_with(&["--one-off"]);
    let vm = OneDevice::new(&backend);
    assert!(backend.socket().exists());

    drop(vm);

    assert!(backend.child.wait().unwrap().success());
    assert!(!backend.socket().exists());
}

#[test]
fn test_fd_connected_is_refused_with_a_reason() {
    let (socket, _peer) = UnixStream::pair().unwrap();

    assert_fails(
        command().args(["--fd", &inherit(&socket)]),
        &["listening", "--socket-path"],
    );
}

#[test]
fn test_fd_that_is_no_socket_is_refused() {
    let file = tempfile::tempfile().unwrap();

    assert_fails(
        command().args(["--fd", &inherit(&file)]),
        &["not a UNIX stream socket"],
    );
    assert_fails(command().args(["--fd", "999"]), &["999"]);
    assert_fails(command().args(["--fd", "0"]), &["standard stream"]);
}

#[test]
fn test_fd_and_socket_path_together_are_refused() {
    let output = run(command().args(["--fd=3", "--socket-path=/tmp/x"]));
    assert!(!output.status.success());
}

#[test]
fn test_socket_from_systemd_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsva.sock");
    let listener = OwnedFd::from(UnixListener::bind(&path).unwrap());
    // The shell sets the process id that the program will have, as systemd does.
    let script = format!(
        "exec 3<&{0}; LISTEN_PID=$$ LISTEN_FDS=1 exec {1}",
        inherit(&listener),
        command().get_program().to_string_lossy()
    );
    let mut child = Command::new("/bin/bash")
        .arg("-c")
        .arg(script)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let messages = show_messages(&mut child);

    let frontend = Frontend::connect(&path, &options());
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();

    assert!(child.wait().unwrap().success());
    messages.join().unwrap();
    frontend.unwrap();
}

#[test]
fn test_event_log_tells_the_life_of_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("events.jsonl");
    let backend = Backend::start_with(&["--event-log", log.to_str().unwrap()]);
    let mut vm = OneDevice::new(&backend);
    let (cookie, event) = vm.stall(0x5000);
    vm.resume(&event);
    vm.source.answer();
    drop(vm);
    assert!(backend.terminate().success());

    let records = event_records(&log);
    let names: Vec<&str> = records
        .iter()
        .map(|r| r["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        names[..7],
        [
            "listening",
            "connected",
            "attach",
            "fault_read",
            "event_emitted",
            "resume_received",
            "answer_written",
        ]
    );
    assert!(names[7..].contains(&"disconnected"));
    assert_eq!(records[3]["addr"], 0x5000);
    assert_eq!(records[3]["cookie"], cookie);
    assert_eq!(records[6]["cookie"], cookie);
    assert_eq!(records[4]["stag"], records[5]["stag"]);
    assert!(records.iter().all(|r| r["actor"] == "backend"));
    let times: Vec<u64> = records
        .iter()
        .map(|r| r["t_us"].as_u64().unwrap())
        .collect();
    assert!(times.is_sorted());
}

#[test]
fn test_sandbox_and_seccomp_each_off_still_serves() {
    for options in [
        &["--seccomp=none", "--sandbox=none"][..],
        &["--seccomp=trap", "--sandbox=none"],
        &["--seccomp=none", "--sandbox=landlock"],
        &["--seccomp=kill", "--sandbox=landlock"],
    ] {
        let backend = Backend::start_with(options);
        let mut vm = OneDevice::new(&backend);
        let (cookie, event) = vm.stall(0x1000);
        vm.resume(&event);
        assert_eq!(vm.source.answer().0, cookie);
    }
}

#[test]
fn test_default_start_has_no_capability_and_a_filter() {
    let backend = Backend::start();
    let status = fs::read_to_string(format!("/proc/{}/status", backend.child.id())).unwrap();
    let value = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(value(set), "0000000000000000", "{set}");
    }
    assert_eq!(value("NoNewPrivs:"), "1");
    assert_eq!(value("Seccomp:"), "2");
}

#[test]
fn test_killed_backend_is_seen_by_the_front_end() {
    let mut backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    backend.signal(Signal::KILL);
    assert_eq!(backend.child.wait().unwrap().signal(), Some(9));
    vm.frontend.config().unwrap_err();
}

#[test]
fn test_sigterm_as_soon_as_the_socket_is_there_ends_the_process_in_order() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("vsva.sock");
        let mut child = command().arg("--socket-path").arg(&socket).spawn().unwrap();
        connect(&mut child, &socket);
        terminate(&mut child);
        assert!(!socket.exists());
    }
}
