// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a peer can do to the threads of the process: none of them is held, none ends in silence.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use rustix::{
    event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec},
    fs::{
        fcntl_add_seals, fcntl_getfl, fcntl_setfl, memfd_create, mknodat, FileType, MemfdFlags,
        Mode, OFlags, SealFlags, CWD,
    },
    io::ioctl_fionread,
    process::{kill_process, Pid, Signal},
};
use vhost::vhost_user::message::VhostTransferStateDirection;
use vhost_user_vsva::{
    frontend::Frontend,
    wire::{Message, MessageType, DEVICE_NONE, U64},
};
use vmm_sys_util::{eventfd::EventFd, sock_ctrl_msg::ScmSocket};

use crate::support::{
    attachment, command, event_records, options, submission, Backend, OneDevice, HANG, LONG,
};

/// The flag belongs to the open file, so this changes it for the back-end as well.
fn make_blocking(fd: impl AsFd) {
    let flags = fcntl_getfl(&fd).unwrap();
    fcntl_setfl(&fd, flags - OFlags::NONBLOCK).unwrap();
}

/// Fills the counter of an eventfd and makes writing to it block.
fn make_blocking_and_full(event: &EventFd) {
    let _ = event.read();
    event.write(u64::MAX - 1).unwrap();
    // SAFETY: the eventfd outlives the borrow.
    make_blocking(unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) });
}

#[test]
fn test_call_eventfd_that_blocks_ends_the_connection_and_holds_nobody() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    make_blocking_and_full(vm.frontend.event_ring().call_fd());

    vm.source.raise_read(1, 0x1000);
    while vm.frontend.config().is_ok() {}

    // The next client is served, and the faults are still there.
    assert_eq!(backend.connect().config().unwrap().outstanding.get(), 1);
    assert!(backend.terminate().success());
}

#[test]
fn test_sigterm_while_a_call_eventfd_blocks_ends_the_process() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    make_blocking_and_full(vm.frontend.event_ring().call_fd());
    vm.source.raise_read(1, 0x1000);
    assert!(backend.terminate().success());
}

#[test]
fn test_kick_that_is_gone_when_it_is_read_leaves_the_worker_alive() {
    let backend = Backend::start();
    let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
    let kick = File::from(eventfd(0, flags).unwrap());
    let raw = Raw::negotiate(&backend);
    // Of two rings that are kicked by the same eventfd one finds nothing to read.
    for ring in [0, 1] {
        let index = words(&[ring, 0]);
        assert_eq!(raw.ask(SET_VRING_KICK, &index, &[kick.as_fd()]), Some(0));
        let enable = words(&[ring, 1]);
        assert_eq!(raw.ask(SET_VRING_ENABLE, &enable, &[]), Some(0));
    }
    let deadline = Instant::now() + HANG;
    for round in 0..20 {
        rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
        let is_readable = || {
            let mut fds = [PollFd::new(&kick, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
        };
        while is_readable() {
            assert!(Instant::now() < deadline, "kick {round} is not read");
            std::thread::yield_now();
        }
    }
}

#[test]
fn test_descriptors_from_a_broken_message_on_are_not_completed() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let ring = vm.frontend.portal_ring();
    for seq in [1, 5, 2] {
        let mut message = Message::new(MessageType::SmmuCmd, DEVICE_NONE, &[0u8; 16]);
        message.seq = U64::new(seq);
        let head = ring.take_free().unwrap();
        ring.write_buffer(head, &message).unwrap();
        ring.offer(head).unwrap();
    }
    ring.kick_fd().write(1).unwrap();
    while vm.frontend.config().is_ok() {}

    let ring = vm.frontend.portal_ring();
    assert!(ring.next_used().unwrap().is_some());
    assert_eq!(ring.next_used().unwrap(), None);
}

#[test]
fn test_state_channel_that_blocks_holds_neither_the_next_client_nor_sigterm() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    vm.frontend.drain(1, LONG).unwrap();
    for ticket in 0..3000 {
        vm.frontend.submit(0, &submission(ticket)).unwrap();
    }
    vm.frontend.wait_completed().unwrap();
    vm.frontend.stop().unwrap();
    let (ours, theirs) = rustix::pipe::pipe().unwrap();
    let copy = theirs.try_clone().unwrap();
    vm.frontend
        .transfer(VhostTransferStateDirection::SAVE, theirs)
        .unwrap();
    make_blocking(&copy);
    // Now there is room for a part of it, and whoever wants to write all of it blocks.
    let mut ours = File::from(ours);
    ours.read_exact(&mut [0; 1 << 14]).unwrap();
    let deadline = Instant::now() + HANG;
    while ioctl_fionread(&ours).unwrap() < 1 << 16 {
        assert!(Instant::now() < deadline, "the transfer has stopped");
        std::thread::yield_now();
    }
    drop(vm);

    assert_eq!(backend.connect().config().unwrap().pending.get(), 3000);
    assert!(backend.terminate().success());
    drop(ours);
}

#[test]
fn test_sigterm_during_check_cancels_the_transfer_and_says_load_failed() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("events");
    let backend = Backend::start_with(&["--event-log", log.to_str().unwrap()]);
    let raw = Raw::negotiate(&backend);
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let load = words(&[1, 0]);
    raw.send(SET_DEVICE_STATE_FD, &load, &[theirs.as_fd()]);
    raw.reply().unwrap();
    raw.send(CHECK_DEVICE_STATE, &[], &[]);
    let deadline = Instant::now() + HANG;
    while raw.unread() > 0 {
        assert!(Instant::now() < deadline, "CHECK is not read");
        std::thread::yield_now();
    }

    assert!(backend.terminate().success());

    for record in event_records(&log) {
        assert_ne!(record["event"], "save_failed", "{record}");
        if record["event"] == "load_failed" {
            let error = record["error"].as_str().unwrap();
            assert!(error.contains("cancelled"), "{error}");
        }
    }
}

#[test]
fn test_load_from_a_descriptor_that_fails_is_logged_as_a_load() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("events");
    let backend = Backend::start_with(&["--event-log", log.to_str().unwrap()]);
    let mut frontend = backend.negotiate();
    // Nothing can be read from this end.
    let (_reader, writer) = rustix::pipe::pipe().unwrap();
    frontend
        .transfer(VhostTransferStateDirection::LOAD, writer)
        .unwrap();
    frontend.check_state().unwrap_err();
    assert!(backend.terminate().success());

    let records = event_records(&log);
    let count = |event| records.iter().filter(|r| r["event"] == event).count();
    assert_eq!((count("load_failed"), count("save_failed")), (1, 0));
}

#[test]
fn test_load_that_announces_more_than_can_fit_is_not_kept() {
    const LENGTH: u64 = 64 << 20;
    let backend = Backend::start();
    let mut frontend = backend.negotiate();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    frontend
        .transfer(VhostTransferStateDirection::LOAD, reader)
        .unwrap();
    let mut header = b"VSVASTAT\x01\0\x01\0\x03\0\0\0".to_vec();
    header.extend(LENGTH.to_le_bytes());
    header.extend([0; 4]);
    header.extend(crc32c::crc32c(&header).to_le_bytes());
    header.extend([0; 8]);
    let mut writer = File::from(writer);
    writer.write_all(&header).unwrap();
    for _ in 0..LENGTH >> 16 {
        writer.write_all(&[0; 1 << 16]).unwrap();
    }
    drop(writer);
    frontend.check_state().unwrap_err();

    let status = std::fs::read_to_string(format!("/proc/{}/status", backend.child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().trim_end_matches(" kB");
    let peak: u64 = peak.parse().unwrap();
    assert!(peak < 48 << 10, "{peak} kB");
}

#[test]
fn test_event_log_fifo_without_reader_does_not_hold_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("events");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    let backend = Backend::start_with(&["--event-log", fifo.to_str().unwrap()]);
    backend.connect();
    assert!(backend.terminate().success());
}

#[test]
fn test_start_on_a_socket_with_a_full_backlog_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsva.sock");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();

    let output = command().arg("--socket-path").arg(&path).output().unwrap();

    assert!(!output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("another process is listening"), "{stderr}");
    assert!(path.exists());
}

#[test]
fn test_client_without_descriptors_to_serve_it_is_hung_up_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsva.sock");
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 20; exec \"$0\" --socket-path \"$1\""])
        .arg(env!("CARGO_BIN_EXE_vhost-user-vsva"))
        .arg(&path)
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stream = connect(&mut child, &path);
    stream.set_read_timeout(Some(HANG)).unwrap();
    assert_eq!((&stream).read(&mut [0]).expect("an end"), 0);

    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stderr).unwrap().lines().count();
    assert!(lines < 20, "{lines} lines");
}

/// vhost-user requests as bytes, each with NEED_REPLY where it has no reply of its own.
struct Raw(UnixStream);

const SET_FEATURES: u32 = 2;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_KICK: u32 = 12;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;
const SET_CONFIG: u32 = 25;
const SET_DEVICE_STATE_FD: u32 = 42;
const CHECK_DEVICE_STATE: u32 = 43;

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

impl Raw {
    fn over(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(HANG)).unwrap();
        Raw(stream)
    }

    /// Everything that the back-end offers has been negotiated.
    fn negotiate(backend: &Backend) -> Self {
        let raw = Raw::over(backend.stream());
        let features = raw.query(1);
        let protocol_features = raw.query(15);
        raw.send(SET_PROTOCOL_FEATURES, &protocol_features.to_le_bytes(), &[]);
        assert_eq!(raw.ask(SET_FEATURES, &features.to_le_bytes(), &[]), Some(0));
        raw
    }

    /// Bytes that the back-end has not read yet.
    fn unread(&self) -> libc::c_int {
        let mut count = 0;
        // SAFETY: TIOCOUTQ writes one int.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::TIOCOUTQ,
                std::ptr::from_mut(&mut count),
            )
        };
        assert_eq!(result, 0);
        count
    }

    fn query(&self, request: u32) -> u64 {
        (&self.0).write_all(&words(&[request, 1, 0])).unwrap();
        self.reply().unwrap()
    }

    fn send(&self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        let length = u32::try_from(body.len()).unwrap();
        let message = [&words(&[request, 1, length]), body].concat();
        let fds: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        self.0.send_with_fds(&[&message[..]], &fds).unwrap();
    }

    /// The answer to a request; `None`: the back-end has hung up.
    fn ask(&self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> Option<u64> {
        let length = u32::try_from(body.len()).unwrap();
        let message = [&words(&[request, 1 | 1 << 3, length]), body].concat();
        let fds: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        self.0.send_with_fds(&[&message[..]], &fds).unwrap();
        self.reply()
    }

    fn reply(&self) -> Option<u64> {
        let mut reply = [0; 20];
        (&self.0).read_exact(&mut reply).ok()?;
        Some(u64::from_le_bytes(reply[12..].try_into().unwrap()))
    }

    /// It is refused, and nothing else is served.
    fn assert_refused(&self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        assert_ne!(self.ask(request, body, fds), Some(0));
        let _ = (&self.0).write_all(&words(&[1, 1, 0]));
        assert_eq!(self.reply(), None, "the connection ends");
    }
}

#[test]
fn test_set_config_is_refused() {
    let backend = Backend::start();
    let body = words(&[0, 4, 0, 7]);
    Raw::negotiate(&backend).assert_refused(SET_CONFIG, &body, &[]);
    backend.connect();
}

#[test]
fn test_ring_size_that_is_no_power_of_two_is_refused() {
    let backend = Backend::start();
    for size in [0, 3, 1000, 2048] {
        Raw::negotiate(&backend).assert_refused(SET_VRING_NUM, &words(&[0, size]), &[]);
    }
    let raw = Raw::negotiate(&backend);
    assert_eq!(raw.ask(SET_VRING_NUM, &words(&[0, 1024]), &[]), Some(0));
}

#[test]
fn test_kick_that_is_no_eventfd_is_refused() {
    let backend = Backend::start();
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let raw = Raw::negotiate(&backend);
    raw.assert_refused(SET_VRING_KICK, &words(&[0, 0]), &[pipe.as_fd()]);
    backend.connect();
}

#[test]
fn test_kick_in_the_place_of_one_that_is_waited_for_is_refused() {
    let backend = Backend::start();
    let kick = File::from(eventfd(0, EventfdFlags::empty()).unwrap());
    let raw = Raw::negotiate(&backend);
    let ring = words(&[0, 0]);
    assert_eq!(raw.ask(SET_VRING_KICK, &ring, &[kick.as_fd()]), Some(0));
    assert_eq!(raw.ask(SET_VRING_ENABLE, &words(&[0, 1]), &[]), Some(0));
    raw.assert_refused(SET_VRING_KICK, &ring, &[kick.as_fd()]);
}

fn mem_table(size: u32) -> Vec<u8> {
    words(&[1, 0, 0, 0, size, 0, 0x1000, 0, 0, 0])
}

fn ring_memory(seals: SealFlags) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = File::from(memfd_create("rings", flags).unwrap());
    memfd.set_len(0x4000).unwrap();
    fcntl_add_seals(&memfd, seals).unwrap();
    memfd
}

#[test]
fn test_ring_memory_beyond_its_file_is_refused() {
    let backend = Backend::start();
    let memfd = ring_memory(SealFlags::SHRINK);
    let raw = Raw::negotiate(&backend);
    let table = mem_table(0x4000);
    assert_eq!(raw.ask(SET_MEM_TABLE, &table, &[memfd.as_fd()]), Some(0));
    raw.assert_refused(SET_MEM_TABLE, &mem_table(0x5000), &[memfd.as_fd()]);
    backend.connect();
}

#[test]
fn test_ring_memory_that_can_shrink_is_refused() {
    let backend = Backend::start();
    let memfd = ring_memory(SealFlags::GROW);
    let raw = Raw::negotiate(&backend);
    raw.assert_refused(SET_MEM_TABLE, &mem_table(0x4000), &[memfd.as_fd()]);
    backend.connect();
}

/// Connects to a back-end that is about to be ready.
fn connect(child: &mut Child, socket: &Path) -> UnixStream {
    loop {
        assert_eq!(child.try_wait().unwrap(), None, "it has ended");
        if let Ok(stream) = UnixStream::connect(socket) {
            return stream;
        }
        std::thread::yield_now();
    }
}

fn terminate(child: &mut Child) {
    kill_process(Pid::from_child(child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
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
    let mut child = command()
        .args(["--log-level", "trace", "--socket-path"])
        .arg(&socket)
        .stderr(stderr)
        .spawn()
        .unwrap();
    let frontend = Frontend::from_stream(connect(&mut child, &socket), &options()).unwrap();
    let mut vm = OneDevice::with_frontend(frontend);
    for page in 0..100 {
        let (_, event) = vm.stall(0x1000 * page);
        vm.resume(&event);
        vm.source.answer();
    }
    drop(vm);
    let stream = UnixStream::connect(&socket).unwrap();
    assert_eq!(Raw::over(stream).query(1) >> 32 & 1, 1);
    terminate(&mut child);
    drop(reader);
}

#[test]
fn test_event_log_that_nobody_reads_holds_neither_faults_nor_deadlines_nor_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("events");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    let backend = Backend::start_with(&["--event-log", fifo.to_str().unwrap()]);
    let mut vm = OneDevice::new(&backend);
    for page in 0..1000 {
        let (_, event) = vm.stall(0x1000 * page);
        vm.resume(&event);
        vm.source.answer();
    }
    assert!(backend.terminate().success());
}

#[test]
fn test_event_log_that_is_as_large_as_it_may_be_does_not_end_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("events");
    std::fs::write(&log, [b'\n'; 8192]).unwrap();
    let socket = dir.path().join("vsva.sock");
    let mut child = Command::new("sh")
        .args([
            "-c",
            "ulimit -f 1; exec \"$0\" --socket-path \"$1\" --event-log \"$2\"",
        ])
        .args([
            env!("CARGO_BIN_EXE_vhost-user-vsva").as_ref(),
            &*socket,
            &*log,
        ])
        .env_remove("RUST_LOG")
        .spawn()
        .unwrap();
    let stream = connect(&mut child, &socket);
    drop(stream);
    terminate(&mut child);
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
    assert_eq!(Raw::over(stream).query(1) >> 32 & 1, 1);
    terminate(&mut child);
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
}
