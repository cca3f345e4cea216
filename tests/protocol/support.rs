// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program as a child process, and a device whose DMA faults.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{waitid, WaitId, WaitIdOptions};
use tempfile::TempDir;
use vhost_user_vsva::{
    frontend::{AttachChannel, Attachment, Event, Frontend, Options},
    wire::{
        ConfigSpace, EventRecord, PageResponse, PgFault, ResponseCode, SmmuCommand, Submission,
        PAGE_RESPONSE_SIZE, PERM_READ, PGFAULT_LAST_PAGE, PGFAULT_PASID_VALID, U32, U64,
    },
};
use zerocopy::{FromBytes, IntoBytes};

/// Nothing in these tests takes this long: it only bounds a hang.
pub const HANG: Duration = Duration::from_secs(20);
/// A deadline that a drain never reaches.
pub const LONG: Duration = Duration::from_secs(3600);

/// A running back-end.
pub struct Backend {
    pub dir: TempDir,
    pub child: Child,
    messages: Option<JoinHandle<String>>,
}

impl Backend {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(options: &[&str]) -> Self {
        Self::start_at(tempfile::tempdir().unwrap(), options)
    }

    /// Starts it with its socket in `dir`.
    pub fn start_at(dir: TempDir, options: &[&str]) -> Self {
        let (child, messages) = spawn(dir.path(), options);
        Self {
            dir,
            child,
            messages: Some(messages),
        }
    }

    /// Kills it and starts another on the same socket.
    pub fn restart(&mut self) {
        self.restart_to_fail(&[], None);
    }

    /// The same, with options; the new one ends by itself at a place.
    pub fn restart_to_fail(&mut self, options: &[&str], fail_at: Option<&str>) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let (child, messages) = spawn_to_fail(self.dir.path(), options, fail_at);
        self.child = child;
        if let Some(before) = self.messages.replace(messages) {
            before.join().unwrap();
        }
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("vsva.sock")
    }

    pub fn stream(&self) -> UnixStream {
        UnixStream::connect(self.socket()).unwrap()
    }

    pub fn connect(&self) -> Frontend {
        Frontend::from_stream(self.stream(), &options()).unwrap()
    }

    /// Connects without starting the rings.
    pub fn negotiate(&self) -> Frontend {
        Frontend::negotiate(self.stream(), &options()).unwrap()
    }

    /// Connects as the front end of a new VM does.
    pub fn connect_anew(&self) -> Frontend {
        let mut frontend = self.negotiate();
        frontend.reset_backend().unwrap();
        frontend.start().unwrap();
        frontend
    }

    /// The names of the open descriptors' files, once all requests of `frontend` have been dealt
    /// with.
    pub fn descriptors(&self, frontend: &mut Frontend) -> Vec<String> {
        frontend.config().unwrap();
        let mut names: Vec<String> = fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .map(|entry| {
                let target = fs::read_link(entry.unwrap().path()).unwrap();
                // The numbers of sockets and the like differ from one to the next.
                let name = target.to_string_lossy().into_owned();
                name.split(":[").next().unwrap_or_default().to_owned()
            })
            .collect();
        names.sort();
        names
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn terminate(mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().unwrap()
    }

    /// Whether it has been stopped by a signal.
    pub fn is_stopped(&self) -> bool {
        let pid = rustix::process::Pid::from_child(&self.child);
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(pid), options), Ok(Some(status)) if status.stopped())
    }

    /// Continues it, waits for its end, and says what it has said.
    pub fn go_on_and_end(mut self) -> (ExitStatus, String) {
        self.signal(rustix::process::Signal::CONT);
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < HANG, "it does not end");
            thread::sleep(Duration::from_millis(1));
        };
        let messages = self.messages.take().expect("its messages");
        (status, messages.join().unwrap())
    }

    pub fn assert_alive(&mut self) {
        assert_eq!(
            self.child.try_wait().unwrap(),
            None,
            "the back-end is running"
        );
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(messages) = self.messages.take() {
            let _ = messages.join();
        }
    }
}

/// Starts the program with its socket in `dir`, and waits until it is ready.
fn spawn(dir: &Path, options: &[&str]) -> (Child, JoinHandle<String>) {
    spawn_to_fail(dir, options, None)
}

fn spawn_to_fail(
    dir: &Path,
    options: &[&str],
    fail_at: Option<&str>,
) -> (Child, JoinHandle<String>) {
    let path = dir.join("notify");
    let _ = fs::remove_file(&path);
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(HANG)).unwrap();
    let mut child = command()
        .arg("--socket-path")
        .arg(dir.join("vsva.sock"))
        .args(options)
        .env("NOTIFY_SOCKET", path)
        .envs(fail_at.map(|place| ("VSVA_FAIL_AT", place)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let messages = show_messages(&mut child);
    let mut message = [0; 64];
    let len = retry_on_intr(|| notify.recv(&mut message)).expect("the back-end gets ready");
    assert_eq!(message[..len].trim_ascii_end(), b"READY=1");
    (child, messages)
}

/// Makes the messages of a child a part of what the test prints, so that they are seen when it
/// fails, and do not come between a test's name and its outcome.
pub fn show_messages(child: &mut Child) -> JoinHandle<String> {
    let stderr = child.stderr.take().expect("stderr is piped");
    thread::spawn(move || {
        let mut all = String::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            eprintln!("{line}");
            all.push_str(&line);
            all.push('\n');
        }
        all
    })
}

/// A call with a timeout is not begun again by the system when a signal comes.
pub fn retry_on_intr<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// What an event log has in its lines.
pub fn event_records(log: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(log).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The program; its messages go to the test's unless they are piped.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-vsva"));
    command
        .env_remove("RUST_LOG")
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_PID")
        .env_remove("WATCHDOG_USEC")
        .stdin(Stdio::null());
    command
}

pub fn options() -> Options {
    Options {
        timeout: HANG,
        ..Options::default()
    }
}

/// Connects to a program that is about to be ready.
pub fn connect(child: &mut Child, socket: &Path) -> UnixStream {
    loop {
        assert_eq!(child.try_wait().unwrap(), None, "it has ended");
        if let Ok(stream) = UnixStream::connect(socket) {
            return stream;
        }
        thread::yield_now();
    }
}

pub fn terminate(child: &mut Child) {
    rustix::process::kill_process(
        rustix::process::Pid::from_child(child),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert!(child.wait().unwrap().success());
}

/// The device's end of a fault channel, as an emulated device has it.
pub struct FaultSource {
    stream: UnixStream,
    dev_id: u32,
    next_cookie: u32,
}

impl FaultSource {
    /// A source, and the descriptor for the back-end.
    pub fn new(dev_id: u32) -> (Self, OwnedFd) {
        let (stream, theirs) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        let source = Self {
            stream,
            dev_id,
            next_cookie: 1,
        };
        (source, theirs.into())
    }

    /// Another device on the same channel.
    pub fn share(&self, dev_id: u32) -> Self {
        Self {
            stream: self.stream.try_clone().unwrap(),
            dev_id,
            next_cookie: 1_000_000 * dev_id,
        }
    }

    /// A fault that ends its group.
    pub fn fault(&mut self, ssid: u32, addr: u64, perm: u32) -> PgFault {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        PgFault {
            flags: U32::new(PGFAULT_PASID_VALID | PGFAULT_LAST_PAGE),
            dev_id: U32::new(self.dev_id),
            pasid: U32::new(ssid),
            grpid: U32::new(cookie),
            perm: U32::new(perm),
            reserved: U32::ZERO,
            addr: U64::new(addr),
            length: U32::ZERO,
            cookie: U32::new(cookie),
        }
    }

    /// Raises faults in one write.
    pub fn raise(&mut self, faults: &[PgFault]) {
        self.stream.write_all(faults.as_bytes()).unwrap();
    }

    /// Raises a read fault and returns its cookie.
    pub fn raise_read(&mut self, ssid: u32, addr: u64) -> u32 {
        let fault = self.fault(ssid, addr, PERM_READ);
        self.raise(&[fault]);
        fault.cookie.get()
    }

    /// Sends bytes that are no fault.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Waits for the next answer.
    pub fn answer(&mut self) -> (u32, ResponseCode) {
        let mut bytes = [0; PAGE_RESPONSE_SIZE];
        self.stream.read_exact(&mut bytes).expect("an answer");
        let answer = PageResponse::read_from_bytes(&bytes).unwrap();
        let code = match answer.code.get() {
            0 => ResponseCode::Success,
            1 => ResponseCode::Invalid,
            other => panic!("response code {other}"),
        };
        (answer.cookie.get(), code)
    }

    /// How many answers come before the back-end closes the channel.
    pub fn answers_until_end(&mut self) -> usize {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).expect("an end");
        bytes.len() / PAGE_RESPONSE_SIZE
    }

    /// Whether there is an answer that nobody has taken.
    pub fn has_answer(&mut self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let result = rustix::net::recv(&self.stream, &mut [0u8; 1], rustix::net::RecvFlags::PEEK);
        self.stream.set_nonblocking(false).unwrap();
        !matches!(result, Err(rustix::io::Errno::AGAIN))
    }
}

/// Device `device` with SID `0x10 + device`, `dev_id` `100 + device`, on the channel of its own
/// number.
pub fn attachment(device: u32) -> Attachment {
    Attachment {
        device,
        vsid: 0x10 + device,
        dev_id: 100 + device,
        channel: device,
        max_outstanding: 0,
        pri: false,
    }
}

/// A front end with one attached device, number 0.
pub struct OneDevice {
    pub frontend: Frontend,
    pub attach: AttachChannel,
    pub source: FaultSource,
}

pub const SID: u32 = 0x10;

impl OneDevice {
    pub fn new(backend: &Backend) -> Self {
        Self::with_frontend(backend.connect())
    }

    pub fn with_frontend(mut frontend: Frontend) -> Self {
        let mut attach = frontend.attach_channel().unwrap();
        let (source, fd) = FaultSource::new(100);
        attach.attach(&attachment(0), Some(fd.as_fd())).unwrap();
        Self {
            frontend,
            attach,
            source,
        }
    }

    /// Raises a fault and waits until the guest would see it.
    pub fn stall(&mut self, addr: u64) -> (u32, EventRecord) {
        let cookie = self.source.raise_read(1, addr);
        (cookie, smmu_event(&mut self.frontend))
    }

    /// Answers a fault like a guest that has mapped the page.
    pub fn resume(&mut self, event: &EventRecord) {
        resume(&mut self.frontend, event);
    }
}

/// Waits until the config space is as wanted.
pub fn wait_config(frontend: &mut Frontend, wanted: impl Fn(&ConfigSpace) -> bool) {
    let start = Instant::now();
    while !wanted(&frontend.config().unwrap()) {
        assert!(start.elapsed() < HANG, "the config space does not change");
        thread::sleep(Duration::from_millis(1));
    }
}

pub fn resume(frontend: &mut Frontend, event: &EventRecord) {
    let command = SmmuCommand::Resume {
        sid: event.sid,
        stag: event.stag,
        code: ResponseCode::Success,
    };
    frontend.command(&command.encode()).unwrap();
}

/// Waits for an event, which must be an SMMU event record.
pub fn smmu_event(frontend: &mut Frontend) -> EventRecord {
    match frontend.wait_event().unwrap() {
        Event::Smmu { record, .. } => EventRecord::decode(&record).expect("a stall record"),
        other => panic!("expected an SMMU event, not {other:?}"),
    }
}

pub fn submission(ticket: u64) -> Submission {
    Submission {
        region: U32::new(2),
        size: U32::new(8),
        offset: U64::new(64 * ticket),
        ticket: U64::new(ticket),
        data: u128::from(ticket).to_le_bytes(),
        reserved: [0; 8],
    }
}

pub fn wait_readable(event: &vmm_sys_util::eventfd::EventFd) {
    use std::os::fd::AsRawFd;
    let mut poll = vmm_sys_util::epoll::EpollEvent::default();
    let epoll = vmm_sys_util::epoll::Epoll::new().unwrap();
    epoll
        .ctl(
            vmm_sys_util::epoll::ControlOperation::Add,
            event.as_raw_fd(),
            vmm_sys_util::epoll::EpollEvent::new(vmm_sys_util::epoll::EventSet::IN, 0),
        )
        .unwrap();
    let timeout = i32::try_from(HANG.as_millis()).unwrap();
    let ready = retry_on_intr(|| epoll.wait(timeout, std::slice::from_mut(&mut poll))).unwrap();
    assert_eq!(ready, 1, "the back-end gives buffers back");
}
