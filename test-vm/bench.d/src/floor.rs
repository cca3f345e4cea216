// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Floors: processes that make the system calls and the wake-ups of a back-end, and nothing else.
//!
//! A floor is this program again, which gets its descriptors by its standard input. It ends when
//! that does.

use std::{
    env,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    process::Command,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc,
    },
    thread,
};

use rustix::event::epoll;
use vhost_user_vsva::wire::{MESSAGE_SIZE, PAGE_RESPONSE_SIZE, PGFAULT_SIZE};
use vmm_sys_util::{eventfd::EventFd, sock_ctrl_msg::ScmSocket};

use crate::{
    process::Process,
    ring::{Ring, Shared},
    session::RING_SIZE,
};

/// A floor that runs.
pub struct Floor {
    /// The process.
    pub process: Process,
    control: UnixStream,
}

impl Floor {
    /// Starts one, and hands descriptors to it.
    pub fn start(kind: &str, fds: &[RawFd]) -> io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        let mut command = Command::new(env::current_exe()?);
        command.args(["floor", kind]).stdin(OwnedFd::from(theirs));
        let process = Process::start(&mut command)?;
        drop(command);
        let floor = Floor { process, control };
        for fd in fds {
            floor.send(*fd)?;
        }
        Ok(floor)
    }

    fn send(&self, fd: RawFd) -> io::Result<()> {
        self.control
            .send_with_fd(&b"f"[..], fd)
            .map_err(io::Error::from)?;
        Ok(())
    }

    /// A state transfer begins, and its answer has come.
    pub fn transfer(&mut self, fd: OwnedFd) -> io::Result<()> {
        self.send(fd.as_raw_fd())?;
        drop(fd);
        self.control.read_exact(&mut [0])
    }

    /// The transfer is over.
    pub fn check(&mut self) -> io::Result<()> {
        self.control.write_all(b"c")?;
        self.control.read_exact(&mut [0])
    }
}

/// What is in the front end's hands of a relay's floor.
pub struct Relay {
    /// The process.
    pub floor: Floor,
    channel: UnixStream,
    kick: EventFd,
    call: EventFd,
}

impl Relay {
    /// Two threads: one waits for faults and calls, the other waits for kicks and answers. `kind`
    /// is "relay" (they block in recv and read) or "relay-epoll" (in epoll_wait before that).
    pub fn start(kind: &str) -> io::Result<Self> {
        let (channel, theirs) = UnixStream::pair()?;
        let (kick, call) = (EventFd::new(0)?, EventFd::new(0)?);
        let fds = [theirs.as_raw_fd(), kick.as_raw_fd(), call.as_raw_fd()];
        Ok(Relay {
            floor: Floor::start(kind, &fds)?,
            channel,
            kick,
            call,
        })
    }

    /// So many faults at once.
    pub fn burst(&mut self, count: usize) -> io::Result<()> {
        let faults = [0; 64 * PGFAULT_SIZE];
        self.channel.write_all(&faults[..count * PGFAULT_SIZE])?;
        self.call.read()?;
        self.kick.write(1)?;
        let mut answers = [0; 64 * PAGE_RESPONSE_SIZE];
        self.channel
            .read_exact(&mut answers[..count * PAGE_RESPONSE_SIZE])
    }
}

/// A thread that is woken by a kick and calls.
pub struct WakeUp {
    _floor: Floor,
    kick: EventFd,
    call: EventFd,
}

impl WakeUp {
    /// Starts it.
    pub fn start() -> io::Result<Self> {
        let (kick, call) = (EventFd::new(0)?, EventFd::new(0)?);
        let floor = Floor::start("wake-up", &[kick.as_raw_fd(), call.as_raw_fd()])?;
        Ok(WakeUp {
            _floor: floor,
            kick,
            call,
        })
    }

    /// To it and back.
    pub fn trip(&self) -> io::Result<()> {
        self.kick.write(1)?;
        self.call.read().map(|_| ())
    }
}

/// The other side of a ring. `kind` is "sink", which takes what is offered and gives it back, or
/// "source", which fills what is offered with so many messages after each kick.
pub struct Peer {
    _floor: Floor,
    /// The driver's side.
    pub ring: Ring,
    free: Vec<u16>,
    go: EventFd,
    _shared: Shared,
}

impl Peer {
    /// Starts it.
    pub fn start(kind: &str) -> io::Result<Self> {
        let shared = Shared::new(1)?;
        let mut ring = Ring::new(&shared, 0, RING_SIZE, MESSAGE_SIZE)?;
        let source = kind == "source";
        let length = u32::try_from(MESSAGE_SIZE).map_err(io::Error::other)?;
        for head in 0..RING_SIZE {
            ring.describe(head, length, source, None);
            if source {
                ring.offer(head);
            }
        }
        ring.want_calls(source);
        let go = EventFd::new(0)?;
        let fds = [
            shared.file.as_raw_fd(),
            ring.kick.as_raw_fd(),
            ring.call.as_raw_fd(),
            go.as_raw_fd(),
        ];
        Ok(Peer {
            _floor: Floor::start(kind, &fds)?,
            ring,
            free: if source {
                Vec::new()
            } else {
                (0..RING_SIZE).rev().collect()
            },
            go,
            _shared: shared,
        })
    }

    /// A sink: so many messages, each with a kick.
    pub fn push(&mut self, count: usize) -> io::Result<()> {
        for _ in 0..count {
            let head = loop {
                while let Some(head) = self.ring.reap() {
                    self.free.push(head);
                }
                if let Some(head) = self.free.pop() {
                    break head;
                }
                self.ring.want_calls(true);
                let head = self.ring.wait()?;
                self.free.push(head);
                self.ring.want_calls(false);
            };
            self.ring.write(head, &[1; MESSAGE_SIZE]);
            self.ring.offer(head);
            self.ring.kick()?;
        }
        self.ring.want_calls(true);
        while self.free.len() < usize::from(RING_SIZE) {
            let head = self.ring.wait()?;
            self.free.push(head);
        }
        self.ring.want_calls(false);
        Ok(())
    }

    /// A source: so many messages.
    pub fn pull(&mut self, count: usize) -> io::Result<()> {
        self.go.write(count as u64)?;
        let mut message = [0; MESSAGE_SIZE];
        for _ in 0..count {
            let head = self.ring.wait()?;
            self.ring.read(head, &mut message);
            self.ring.offer(head);
        }
        Ok(())
    }
}

// What the floor's process does.

struct Given(UnixStream);

impl Given {
    fn file(&self) -> io::Result<File> {
        let (_, file) = self.0.recv_with_fd(&mut [0]).map_err(io::Error::from)?;
        file.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// An eventfd, by its file: only read and written.
    fn event(&self) -> io::Result<Eventfd> {
        self.file().map(Eventfd)
    }
}

struct Eventfd(File);

impl Eventfd {
    fn wait(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        (&self.0).read_exact(&mut count)?;
        Ok(u64::from_ne_bytes(count))
    }

    fn tell(&self) -> io::Result<()> {
        (&self.0).write_all(&1u64.to_ne_bytes())
    }
}

/// Runs a floor.
pub fn run(kind: &str) -> io::Result<()> {
    let given = Given(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?));
    match kind {
        "relay" => relay(&given, false),
        "relay-epoll" => relay(&given, true),
        "wake-up" => wake_up(&given),
        "sink" => sink(&given),
        "source" => source(&given),
        "state" => state(&given),
        other => Err(io::Error::other(format!("there is no floor {other}"))),
    }
}

/// Waits for a descriptor, or does nothing.
struct Epoll(Option<OwnedFd>);

impl Epoll {
    fn new(wanted: bool, fd: impl AsFd) -> io::Result<Self> {
        if !wanted {
            return Ok(Epoll(None));
        }
        let instance = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(0);
        epoll::add(&instance, fd, data, epoll::EventFlags::IN)?;
        Ok(Epoll(Some(instance)))
    }

    fn wait(&self) -> io::Result<()> {
        if let Some(instance) = &self.0 {
            let mut events = Vec::with_capacity(1);
            epoll::wait(instance, rustix::buffer::spare_capacity(&mut events), None)?;
        }
        Ok(())
    }
}

fn relay(given: &Given, with_epoll: bool) -> io::Result<()> {
    let channel = UnixStream::from(OwnedFd::from(given.file()?));
    let (kick, call) = (given.event()?, given.event()?);
    let count = Arc::new(AtomicUsize::new(0));
    let (answers, answered) = (channel.try_clone()?, count.clone());
    let answering = move || -> io::Result<()> {
        let epoll = Epoll::new(with_epoll, &kick.0)?;
        let bytes = [0; 64 * PAGE_RESPONSE_SIZE];
        loop {
            epoll.wait()?;
            kick.wait()?;
            let count = answered.load(Ordering::Relaxed);
            (&answers).write_all(&bytes[..count * PAGE_RESPONSE_SIZE])?;
        }
    };
    thread::spawn(answering);
    let epoll = Epoll::new(with_epoll, &channel)?;
    let mut bytes = [0; 64 * PGFAULT_SIZE];
    loop {
        epoll.wait()?;
        let read = (&channel).read(&mut bytes)?;
        if read == 0 {
            return Ok(());
        }
        count.store(read / PGFAULT_SIZE, Ordering::Relaxed);
        call.tell()?;
    }
}

fn wake_up(given: &Given) -> io::Result<()> {
    let (kick, call) = (given.event()?, given.event()?);
    loop {
        kick.wait()?;
        call.tell()?;
    }
}

struct Device {
    ring: Ring,
    kick: Eventfd,
    call: Eventfd,
    go: Eventfd,
}

fn device(given: &Given) -> io::Result<Device> {
    let shared = Shared::map(given.file()?)?;
    Ok(Device {
        ring: Ring::new(&shared, 0, RING_SIZE, MESSAGE_SIZE)?,
        kick: given.event()?,
        call: given.event()?,
        go: given.event()?,
    })
}

fn sink(given: &Given) -> io::Result<()> {
    let mut device = device(given)?;
    loop {
        device.kick.wait()?;
        device.ring.want_kicks(false);
        loop {
            let mut used = false;
            let mut message = [0; MESSAGE_SIZE];
            while let Some(head) = device.ring.take() {
                device.ring.read(head, &mut message);
                device.ring.use_up(head, 0);
                used = true;
            }
            if used && device.ring.publish() {
                device.call.tell()?;
            }
            if used {
                continue;
            }
            device.ring.want_kicks(true);
            match device.ring.take() {
                Some(head) => {
                    device.ring.use_up(head, 0);
                    device.ring.want_kicks(false);
                    if device.ring.publish() {
                        device.call.tell()?;
                    }
                }
                None => break,
            }
        }
    }
}

fn source(given: &Given) -> io::Result<()> {
    let mut device = device(given)?;
    let messages = vec![[1; MESSAGE_SIZE]; 1 << 16];
    let length = u32::try_from(MESSAGE_SIZE).map_err(io::Error::other)?;
    loop {
        let count = device.go.wait()?;
        let mut left = messages
            .iter()
            .cycle()
            .take(usize::try_from(count).unwrap_or(0));
        let mut next = left.next();
        device.ring.want_kicks(false);
        while next.is_some() {
            let mut used = false;
            while let Some(message) = next {
                let Some(head) = device.ring.take() else {
                    break;
                };
                device.ring.write(head, message);
                device.ring.use_up(head, length);
                next = left.next();
                used = true;
            }
            if used && device.ring.publish() {
                device.call.tell()?;
            }
            if next.is_some() && !used {
                device.ring.want_kicks(true);
                if let (Some(head), Some(message)) = (device.ring.take(), next) {
                    device.ring.write(head, message);
                    device.ring.use_up(head, length);
                    next = left.next();
                    if device.ring.publish() {
                        device.call.tell()?;
                    }
                } else {
                    device.kick.wait()?;
                }
                device.ring.want_kicks(false);
            }
        }
    }
}

/// A state goes through a pipe: after a descriptor a thread moves the bytes, and the answer is sent
/// when it has been started; after a byte, the answer is sent when it has ended. The first file
/// says which way (it can be read or written), and its length is the state's.
fn state(given: &Given) -> io::Result<()> {
    let length = given.file()?.metadata()?.len();
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let bytes = Arc::new(vec![1; length]);
    loop {
        let Ok(mut pipe) = given.file() else {
            return Ok(());
        };
        let bytes = bytes.clone();
        let moving = thread::spawn(move || -> io::Result<usize> {
            let writable = rustix::fs::fcntl_getfl(&pipe)?.contains(rustix::fs::OFlags::WRONLY);
            if writable {
                return pipe.write_all(&bytes).map(|()| bytes.len());
            }
            let mut all = Vec::with_capacity(bytes.len());
            pipe.read_to_end(&mut all)
        });
        (&given.0).write_all(b"r")?;
        (&given.0).read_exact(&mut [0])?;
        moving
            .join()
            .map_err(|_| io::Error::other("it has panicked"))??;
        (&given.0).write_all(b"r")?;
    }
}
