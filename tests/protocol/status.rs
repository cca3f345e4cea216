// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The status socket, and the subcommand that asks it.

use std::{
    fs,
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::{fcntl_setfd, FdFlags},
    net::sockopt,
    process::{getrlimit, prlimit, Pid, Resource, Rlimit},
};
use serde_json::Value;
use vhost_user_vsva::{
    frontend::{Attachment, Event, Frontend},
    wire::PERM_READ,
};

use crate::support::{
    attachment, command, options, retry_on_intr, show_messages, submission, Backend, FaultSource,
    OneDevice, HANG, LONG,
};

/// More than are served at a time.
const CROWD: usize = 100;
const CLIENTS: usize = 64;

/// A back-end with a status socket.
struct Watched {
    backend: Backend,
    status: PathBuf,
}

impl Watched {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(words: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let status = dir.path().join("vm1.status.sock");
        let option = format!("--status-socket={}", status.display());
        let backend = Backend::start_at(dir, &[&[option.as_str()], words].concat());
        Watched { backend, status }
    }

    fn status(&self) -> Value {
        serde_json::from_str(&get(&self.status, "/status")).unwrap()
    }

    /// Waits until the document is as wanted: it is read without waiting for the service.
    fn wait(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let document = self.status();
            if wanted(&document) {
                return document;
            }
            assert!(start.elapsed() < HANG, "{document:#}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    stream
}

/// What is said in all to these bytes.
fn say(path: &Path, request: &[u8]) -> String {
    String::from_utf8(say_bytes(path, request)).unwrap()
}

fn say_bytes(path: &Path, request: &[u8]) -> Vec<u8> {
    let mut stream = connect(path);
    // It may have been refused before its end.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let mut bytes = [0; 4096];
    // It hangs up on what it has not read.
    while let Ok(count @ 1..) = retry_on_intr(|| stream.read(&mut bytes)) {
        answer.extend_from_slice(&bytes[..count]);
    }
    answer
}

/// The body of the answer to GET.
fn get(path: &Path, target: &str) -> String {
    let answer = say(
        path,
        format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes(),
    );
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(
        head.contains(&format!("Content-Length: {}", body.len())),
        "{head}"
    );
    body.to_owned()
}

/// The value of a line of metrics.
fn metric(text: &str, line: &str) -> f64 {
    let value = text
        .lines()
        .find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    value
        .unwrap_or_else(|| panic!("no {line} in {text}"))
        .parse()
        .unwrap()
}

fn run_status(words: &[&str], paths: &[&Path]) -> Output {
    command()
        .arg("status")
        .args(words)
        .args(paths)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap()
}

#[test]
fn test_status_of_an_outstanding_fault_names_it_and_its_device() {
    let watched = Watched::start();
    let mut vm = OneDevice::new(&watched.backend);
    vm.stall(0x5000);
    let document = watched.wait(|document| document["faults"]["oldest"].is_object());

    assert_eq!(document["version"], 1);
    assert_eq!(document["phase"], "running");
    assert_eq!(document["connected"], true);
    let faults = &document["faults"];
    assert_eq!(faults["outstanding"], 1);
    assert_eq!(faults["max"], 4096);
    assert_eq!(faults["share"], 2048);
    let oldest = &faults["oldest"];
    assert_eq!(
        (&oldest["sid"], &oldest["ssid"]),
        (&Value::from(0x10), &Value::from(1))
    );
    assert_eq!(oldest["addr"], 0x5000);
    assert!(oldest["age_ms"].is_u64());
    let device = &document["devices"][0];
    assert_eq!(device["sid"], 0x10);
    assert_eq!(device["unanswered"], 1);
    assert_eq!(faults["times"]["read_to_event"]["count"], 1);
    assert_eq!(faults["times"]["whole"]["count"], 0);
}

#[test]
fn test_status_of_answered_faults_has_the_time_of_each_step() {
    let watched = Watched::start();
    let mut vm = OneDevice::new(&watched.backend);
    for page in 0..10 {
        let (_, event) = vm.stall(0x1000 * page);
        vm.resume(&event);
        vm.source.answer();
    }
    let document = watched.wait(|document| document["faults"]["times"]["whole"]["count"] == 10);

    assert_eq!(document["faults"]["answered"], 10);
    assert_eq!(document["devices"][0]["unanswered"], 0);
    let times = document["faults"]["times"].as_object().unwrap();
    let number = |step: &str, member: &str| times[step][member].as_u64().unwrap();
    let mut sum = 0;
    for step in ["read_to_event", "event_to_answer", "answer_to_written"] {
        assert_eq!(number(step, "count"), 10, "{step}");
        assert!(number(step, "p50_ns") <= number(step, "p99_ns"));
        assert!(number(step, "p99_ns") <= number(step, "max_ns"));
        sum += number(step, "sum_ns");
    }
    assert_eq!(number("whole", "sum_ns"), sum);
}

#[test]
fn test_metrics_say_what_the_status_says() {
    let watched = Watched::start();
    let mut vm = OneDevice::new(&watched.backend);
    let (_, event) = vm.stall(0x1000);
    vm.resume(&event);
    vm.source.answer();
    vm.stall(0x2000);
    watched.wait(|document| document["faults"]["answered"] == 1);
    let text = get(&watched.status, "/metrics");

    assert_eq!(metric(&text, "vsva_up"), 1.0);
    assert_eq!(metric(&text, "vsva_faults_read_total"), 2.0);
    assert_eq!(metric(&text, "vsva_faults_outstanding"), 1.0);
    assert_eq!(metric(&text, r#"vsva_phase{phase="running"}"#), 1.0);
    assert_eq!(metric(&text, r#"vsva_phase{phase="draining"}"#), 0.0);
    let whole = |name: &str| metric(&text, &format!("vsva_fault_duration_seconds{name}"));
    assert_eq!(whole(r#"_count{step="whole"}"#), 1.0);
    assert_eq!(whole(r#"_bucket{step="whole",le="+Inf"}"#), 1.0);
    assert!(whole(r#"_sum{step="whole"}"#) > 0.0);
    let device = r#"vsva_device_faults_unanswered{sid="0x10"}"#;
    assert_eq!(metric(&text, device), 1.0);
}

#[test]
fn test_device_that_floods_is_shown_at_its_limit_in_each_form() {
    let watched = Watched::start_with(&["--max-device-faults=5", "--max-pending=8"]);
    let mut frontend = watched.backend.connect();
    let mut attach = frontend.attach_channel().unwrap();
    let (mut flood, fd) = FaultSource::new(100);
    attach.attach(&attachment(0), Some(fd.as_fd())).unwrap();
    let (_other, fd) = FaultSource::new(101);
    let own = Attachment {
        max_outstanding: 3,
        ..attachment(1)
    };
    attach.attach(&own, Some(fd.as_fd())).unwrap();
    let faults: Vec<_> = (0..9)
        .map(|page| flood.fault(1, page << 12, PERM_READ))
        .collect();
    flood.raise(&faults);
    frontend.drain(1, LONG).unwrap();
    frontend.submit(1, &submission(0)).unwrap();
    let document = watched.wait(|document| {
        document["devices"][0]["unanswered"] == 5 && document["submissions"]["pending"] == 1
    });

    let figures = |device: usize| {
        [
            "unanswered",
            "fault_limit",
            "max_outstanding",
            "pending",
            "pending_limit",
        ]
        .map(|member| document["devices"][device][member].as_u64().unwrap())
    };
    assert_eq!(figures(0), [5, 5, 0, 0, 8]);
    assert_eq!(figures(1), [0, 3, 3, 1, 8]);
    let text = get(&watched.status, "/metrics");
    let of = |name: &str, sid: &str| metric(&text, &format!("vsva_device_{name}{{sid=\"{sid}\"}}"));
    assert_eq!(of("faults_unanswered", "0x10"), 5.0);
    assert_eq!(of("faults_max", "0x10"), 5.0);
    assert_eq!(of("faults_max", "0x11"), 3.0);
    assert_eq!(of("submissions_pending", "0x11"), 1.0);
    let screen = run_status(&[], &[&watched.status]);
    let screen = String::from_utf8(screen.stdout).unwrap();
    for line in [
        "SID 0x10, 5 of 5 faults outstanding (its share), 0 of 8 submissions pending;",
        "SID 0x11, 0 of 3 faults outstanding (its own limit), 1 of 8 submissions pending;",
    ] {
        assert!(screen.contains(line), "{screen}");
    }
}

#[test]
fn test_drain_that_is_complete_is_the_last_one_and_counted() {
    let watched = Watched::start();
    let mut vm = OneDevice::new(&watched.backend);
    vm.frontend.drain(7, LONG).unwrap();
    let document = watched.wait(|document| document["drains"]["last"].is_object());
    assert_eq!(document["drains"]["last"]["outcome"], "draining");
    assert_eq!(document["phase"], "draining");
    vm.frontend.submit(0, &submission(0)).unwrap();
    vm.frontend.quiesced(0, 7).unwrap();
    assert!(matches!(
        vm.frontend.wait_event().unwrap(),
        Event::Drained(_)
    ));
    let document = watched.wait(|document| document["drains"]["times"]["count"] == 1);

    assert_eq!(document["generation"], 7);
    assert_eq!(document["drains"]["last"]["outcome"], "drained");
    assert_eq!(document["drains"]["last"]["generation"], 7);
    assert_eq!(document["submissions"]["pending"], 1);
    assert_eq!(document["devices"][0]["submissions"], 1);
}

#[test]
fn test_drain_that_fails_says_why_and_names_the_oldest_fault() {
    let watched = Watched::start();
    let mut vm = OneDevice::new(&watched.backend);
    vm.stall(0x7000);
    vm.frontend.drain(1, Duration::from_millis(1)).unwrap();
    assert!(matches!(
        vm.frontend.wait_event().unwrap(),
        Event::DrainFailed(_)
    ));
    let document = watched.wait(|document| document["drains"]["failed"] == 1);
    let last = &document["drains"]["last"];
    assert_eq!(last["outcome"], "failed");
    assert_eq!(last["reason"], "deadline");
    assert_eq!(last["outstanding"], 1);
    assert_eq!(last["oldest"]["addr"], 0x7000);

    let screen = run_status(&[], &[&watched.status]);
    let screen = String::from_utf8(screen.stdout).unwrap();
    assert!(
        screen.contains("not drained at its deadline, 1 faults outstanding"),
        "{screen}"
    );
    assert!(
        screen.contains("SID 0x10, SSID 0x1, address 0x7000"),
        "{screen}"
    );
}

#[test]
fn test_drain_that_is_released_is_given_up() {
    let watched = Watched::start();
    let mut vm = OneDevice::new(&watched.backend);
    vm.frontend.drain(1, LONG).unwrap();
    vm.frontend.release(1).unwrap();
    watched.wait(|document| document["drains"]["last"]["outcome"] == "given_up");
}

#[test]
fn test_estimate_of_a_fault_that_is_not_answered_is_open() {
    let watched = Watched::start();
    let mut vm = OneDevice::new(&watched.backend);
    let (_, event) = vm.stall(0x1000);
    let open = |document: &Value| document["drains"]["estimate"]["at_least"]["open"].clone();
    watched.wait(|document| open(document).as_u64() > Some(0));
    vm.resume(&event);
    vm.source.answer();
    let document = watched.wait(|document| open(document) == 0);
    let estimate = &document["drains"]["estimate"];
    assert!(estimate["at_least"]["max_ns"].as_u64() > Some(0));
    assert_eq!(
        estimate["at_least"]["max_ns"],
        estimate["at_most"]["max_ns"]
    );
}

#[test]
fn test_devices_that_go_are_not_shown_and_what_they_had_is_not_outstanding() {
    let watched = Watched::start();
    let mut vm = OneDevice::new(&watched.backend);
    vm.stall(0x1000);
    vm.attach.detach(0).unwrap();
    let document = watched.wait(|document| document["devices"].as_array().unwrap().is_empty());
    assert_eq!(document["faults"]["aborted"], 1);
    assert_eq!(document["faults"]["times"]["whole"]["count"], 0);
}

/// Four events each.
fn make_faults(vm: &mut OneDevice, count: u64) {
    for page in 0..count {
        let (_, event) = vm.stall(0x1000 * page);
        vm.resume(&event);
        vm.source.answer();
    }
}

#[test]
fn test_answer_larger_than_the_sockets_buffer_reaches_a_client_that_reads_slowly() {
    let watched = Watched::start();
    let mut vm = OneDevice::new(&watched.backend);
    make_faults(&mut vm, 1000);
    let mut client = connect(&watched.status);
    client.write_all(b"GET /trace HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = vec![0];
    client.read_exact(&mut answer).unwrap();
    // Its buffer is full, and both are served meanwhile.
    make_faults(&mut vm, 3);
    assert_eq!(watched.status()["faults"]["outstanding"], 0);
    let mut bytes = [0; 65536];
    while let Ok(count @ 1..) = retry_on_intr(|| client.read(&mut bytes)) {
        answer.extend_from_slice(&bytes[..count]);
    }
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap()
        + 4;
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let length = format!("Content-Length: {}\r\n", answer.len() - end);
    assert!(head.contains(&length), "{head}");
    let buffer = sockopt::socket_send_buffer_size(&client).unwrap();
    assert!(
        answer.len() > buffer,
        "{} is not over {buffer}",
        answer.len()
    );
}

#[test]
fn test_traces_that_are_asked_for_all_the_time_are_refused_and_the_program_waits_for_its_turn() {
    let watched = Watched::start();
    let refused = |_| {
        let answer = say_bytes(&watched.status, b"GET /trace HTTP/1.1\r\n\r\n");
        answer.starts_with(b"HTTP/1.1 429 ")
    };
    assert!((0..200).any(refused));
    let output = watched.status.with_file_name("trace");
    let done = command()
        .args(["trace", "--output"])
        .args([&output, &watched.status])
        .status()
        .unwrap();
    assert!(done.success());
    assert!(fs::metadata(output).unwrap().len() > 0);
}

#[test]
fn test_trace_of_what_is_no_status_socket_says_so_and_leaves_no_file() {
    let watched = Watched::start();
    let output = watched.status.with_file_name("trace");
    let done = command()
        .args(["trace", "--output"])
        .args([&output, &watched.backend.socket()])
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(1));
    let message = String::from_utf8(done.stderr).unwrap();
    assert!(message.contains("vsva.sock\" "), "{message}");
    assert!(!output.exists());
}

#[test]
fn test_requests_that_are_not_served_are_refused_with_a_status() {
    let watched = Watched::start();
    for (request, status) in [
        (b"POST /status HTTP/1.1\r\n\r\n".as_slice(), "405"),
        (b"GET /reset HTTP/1.1\r\n\r\n", "404"),
        (b"\0\0\0\0", "400"),
        (&[b'x'; 100_000], "431"),
    ] {
        let answer = say(&watched.status, request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer:?}"
        );
    }
    watched.status();
}

/// The service and the status socket work while these are connected.
fn assert_served_beside(watched: &Watched, clients: Vec<UnixStream>) {
    let mut vm = OneDevice::new(&watched.backend);
    for page in 0..200 {
        let (cookie, event) = vm.stall(0x1000 * page);
        vm.resume(&event);
        assert_eq!(vm.source.answer().0, cookie);
    }
    assert!(watched.status()["faults"]["read"].as_u64() >= Some(200));
    let descriptors = watched.backend.descriptors(&mut vm.frontend);
    let sockets = descriptors.iter().filter(|name| *name == "socket");
    // Besides those of the service itself.
    assert!(sockets.count() <= CLIENTS + 12, "{descriptors:?}");
    drop(clients);
}

#[test]
fn test_clients_that_say_nothing_hold_nobody() {
    let watched = Watched::start();
    let clients = (0..CROWD).map(|_| connect(&watched.status)).collect();
    assert_served_beside(&watched, clients);
}

#[test]
fn test_clients_with_half_requests_hold_nobody() {
    let watched = Watched::start();
    let half = |_| {
        let mut client = connect(&watched.status);
        client.write_all(b"GET /status HTT").unwrap();
        client
    };
    let clients = (0..CROWD).map(half).collect();
    assert_served_beside(&watched, clients);
}

#[test]
fn test_clients_that_never_read_hold_nobody() {
    let watched = Watched::start();
    let deaf = |_| {
        let mut client = connect(&watched.status);
        client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        client
    };
    let clients = (0..CROWD).map(deaf).collect();
    assert_served_beside(&watched, clients);
}

#[test]
fn test_clients_that_go_at_once_hold_nobody() {
    let watched = Watched::start();
    for _ in 0..CROWD {
        let mut client = connect(&watched.status);
        let _ = client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n");
    }
    assert_served_beside(&watched, Vec::new());
}

/// Hundredths of a second of a processor that a process has had.
fn processor_time(pid: Pid) -> u64 {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let stat = fs::read_to_string(path).unwrap();
    let fields = stat.rsplit_once(") ").unwrap().1.split(' ');
    // utime and stime; the state, the third field, is the first here.
    fields
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum()
}

#[test]
fn test_client_that_there_is_no_descriptor_for_holds_nobody_and_is_served_later() {
    let watched = Watched::start();
    let mut vm = OneDevice::new(&watched.backend);
    let pid = watched.backend.pid();
    // It keeps what it has, and the next one has no number.
    let free = |fd: &u64| !Path::new(&format!("/proc/{}/fd/{fd}", pid.as_raw_nonzero())).exists();
    let none = Rlimit {
        current: (0..).find(free),
        ..getrlimit(Resource::Nofile)
    };
    let before = prlimit(Some(pid), Resource::Nofile, none).unwrap();
    let mut client = connect(&watched.status);
    client.write_all(b"GET /status HTTP/1.1\r\n\r\n").unwrap();
    make_faults(&mut vm, 100);
    let used = processor_time(pid);
    thread::sleep(Duration::from_secs(1));
    let used = processor_time(pid) - used;
    assert!(used < 50, "{used} of 100: it does not rest");
    prlimit(Some(pid), Resource::Nofile, before).unwrap();

    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[test]
fn test_client_that_says_a_byte_from_time_to_time_is_hung_up_on() {
    let watched = Watched::start();
    let mut client = connect(&watched.status);
    let start = Instant::now();
    // Until it is refused.
    while client.write_all(b"G").is_ok() {
        assert!(start.elapsed() < HANG, "it is still served");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn test_many_clients_at_once_are_all_answered() {
    let watched = Watched::start();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..5 {
                    watched.status();
                }
            });
        }
    });
}

#[test]
fn test_status_socket_is_for_owner_and_group_and_goes_with_the_process() {
    let watched = Watched::start();
    let mode = fs::metadata(&watched.status).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let status = watched.status.clone();
    assert!(watched.backend.terminate().success());
    assert!(!status.exists());
}

#[test]
fn test_status_socket_from_systemd_is_served_whatever_its_place() {
    for names in ["vm1.socket:status", "status:vm1.socket"] {
        let dir = tempfile::tempdir().unwrap();
        let paths = names.split(':').map(|name| dir.path().join(name));
        let listeners: Vec<OwnedFd> = paths
            .map(|path| UnixListener::bind(path).unwrap().into())
            .collect();
        let numbers: Vec<_> = listeners
            .iter()
            .map(|fd| {
                fcntl_setfd(fd, FdFlags::empty()).unwrap();
                fd.as_raw_fd()
            })
            .collect();
        // By way of high numbers, as one of them may be 3 or 4.
        let script = format!(
            "exec 100<&{0} 101<&{1}; exec 3<&100 4<&101; \
             LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES={names} exec {2}",
            numbers[0],
            numbers[1],
            command().get_program().to_string_lossy()
        );
        let mut child = std::process::Command::new("/bin/bash")
            .args(["-c", &script])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let messages = show_messages(&mut child);
        let frontend = Frontend::connect(dir.path().join("vm1.socket"), &options());
        let status: Value =
            serde_json::from_str(&get(&dir.path().join("status"), "/status")).unwrap();
        crate::support::terminate(&mut child);
        messages.join().unwrap();

        frontend.unwrap();
        assert_eq!(status["connections"], 1);
    }
}

#[test]
fn test_status_of_several_back_ends_is_one_table_one_object_one_text() {
    let (one, other) = (Watched::start(), Watched::start());
    let gone = one.status.with_file_name("gone.status.sock");
    let second = one.status.with_file_name("vm2.status.sock");
    std::os::unix::fs::symlink(&other.status, &second).unwrap();
    let paths = [&*one.status, &second, &gone];

    let table = run_status(&[], &paths);
    assert_eq!(table.status.code(), Some(1), "one does not answer");
    let table = String::from_utf8(table.stdout).unwrap();
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("VM "), "{table}");
    assert!(lines[1].starts_with("vm1") && lines[1].contains("RUNNING"));
    assert!(lines[2].starts_with("vm2") && lines[3].starts_with("gone"));
    assert!(table.contains("does not answer"), "{table}");

    let json = run_status(&["--json"], &paths);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["vm2"]["phase"], "running");
    assert!(json["gone"]["error"].is_string());

    let metrics = run_status(&["--metrics"], &paths[..2]);
    assert!(metrics.status.success());
    let text = String::from_utf8(run_status(&["--metrics"], &paths).stdout).unwrap();
    for (vm, up) in [("vm1", 1.0), ("vm2", 1.0), ("gone", 0.0)] {
        assert_eq!(metric(&text, &format!("vsva_up{{vm=\"{vm}\"}}")), up);
    }
    let types = text
        .lines()
        .filter(|line| line.starts_with("# TYPE vsva_faults_read_total"));
    assert_eq!(types.count(), 1);
}

#[test]
fn test_status_of_sockets_of_one_name_has_each_of_them() {
    let (one, other) = (Watched::start(), Watched::start());
    let paths = [&*one.status, &*other.status];
    let json = run_status(&["--json"], &paths);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let metrics = String::from_utf8(run_status(&["--metrics"], &paths).stdout).unwrap();
    for path in paths {
        let path = path.to_str().unwrap();
        assert_eq!(json[path]["phase"], "running", "{json}");
        assert_eq!(metric(&metrics, &format!("vsva_up{{vm=\"{path}\"}}")), 1.0);
    }
}

#[test]
fn test_status_of_what_is_no_status_socket_says_so() {
    let watched = Watched::start();
    let output = run_status(&[], &[&watched.backend.socket()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("does not answer") || text.contains("gives no status"),
        "{text}"
    );
}

#[test]
fn test_status_for_a_reader_that_has_gone_ends() {
    let watched = Watched::start();
    let mut child = command()
        .args(["status", "--watch", "--json"])
        .arg(&watched.status)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert!(child.wait().unwrap().success());
}

/// What begins like the names of metrics, without what Prometheus adds to those of a histogram.
fn metric_names(text: &str) -> impl Iterator<Item = String> + '_ {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("vsva_")).map(|word| {
        let part = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|part| word.strip_suffix(part));
        part.unwrap_or(word).to_owned()
    })
}

#[test]
fn test_dashboard_and_alerts_name_only_metrics_that_a_back_end_has() {
    let watched = Watched::start();
    let mut vm = OneDevice::new(&watched.backend);
    vm.frontend.drain(1, LONG).unwrap();
    watched.wait(|document| document["drains"]["last"].is_object());
    let text = get(&watched.status, "/metrics");
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let known: Vec<&str> = types.filter_map(|line| line.split(' ').next()).collect();

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring");
    let dashboard = fs::read_to_string(folder.join("dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut expressions: Vec<String> = targets
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect();
    let alerts = fs::read_to_string(folder.join("alerts.yml")).unwrap();
    expressions.push(alerts);

    let mut seen = 0;
    for name in expressions.iter().flat_map(|text| metric_names(text)) {
        assert!(known.contains(&&*name), "{name}");
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
}

/// More than can be closed one for one answer in the time that a client waits.
const IDLE: usize = 900;

#[test]
fn test_idle_connections_of_any_number_let_a_request_through() {
    let watched = Watched::start();
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(Resource::Nofile, raised).unwrap();
    // It has a limit of its own, which a test machine may exceed once.
    let answered = (0..3).any(|_| {
        let _idle: Vec<_> = (0..IDLE).map(|_| connect(&watched.status)).collect();
        run_status(&["--json"], &[&watched.status]).status.success()
    });
    assert!(answered);
}

#[test]
fn test_status_and_trace_without_a_back_end_say_where_they_have_looked() {
    // Whatever runs on this host, it is not there.
    if Path::new("/run/vhost-user-vsva").exists() {
        return;
    }
    for words in [["status"].as_slice(), &["trace"]] {
        let done = command()
            .args(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let text = [done.stdout, done.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        let place = "no status socket in /run/vhost-user-vsva";
        assert!(text.contains(place), "{text}");
    }
}
