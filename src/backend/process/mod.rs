// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The life of the process: set-up, one connection after the other, the end.

pub mod listener;
mod logs;
mod systemd;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    net::getsockname,
    process::{getrlimit, setrlimit, Resource, Rlimit},
};

use super::{
    connection::Connection,
    engine::Engine,
    events::{Events, Step},
    instance::Backend,
    process::{
        listener::{Socket, StatusSocket},
        systemd::Notifier,
    },
    published::now_ns,
    shell::Shell,
    wait::{guard, wake::Wake},
};
use crate::{
    config::Config,
    core::Limits,
    error::Error,
    messages, recovery, sandbox,
    state::state_limit,
    status::{self, board::Board},
    sys::{self, SignalFd},
};

/// What `--print-capabilities` prints. By the layout of the recovery area whoever wants to replace
/// a process sees beforehand whether another program can go on where it is.
pub fn capabilities() -> String {
    let features = r#"["migration-blocking", "device-state"]"#;
    let layout = recovery::layout::VERSION;
    format!(r#"{{"type": "vsva", "features": {features}, "recovery-layout": {layout}}}"#)
}

/// How long a connection may take to end, when the process is to end.
const END_LIMIT: Duration = Duration::from_secs(3);
/// How long the event log may take to be complete then.
const LOG_LIMIT: Duration = Duration::from_secs(1);
/// Before another attempt to get a descriptor.
const REST: Duration = Duration::from_millis(100);

/// What a terminal sends to all that was started in it.
const OF_TERMINALS: [libc::c_int; 2] = [libc::SIGINT, libc::SIGHUP];

/// Serves until SIGTERM or a signal of the terminal; for one connection, until SIGTERM or its end.
pub fn run(config: &Config) -> Result<(), Error> {
    // In all threads, as none has been started yet. SIGXFSZ: a file that has become too large is
    // an error of the write. The others end the process in order as soon as its socket is there.
    sys::block_signals(&[libc::SIGXFSZ, libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
        .map_err(Error::system("Cannot set up signals"))?;
    // Before any descriptor is made, as what the process was started with has fixed numbers.
    let mut socket = Socket::open(config.listen.as_ref())?;
    let status = StatusSocket::open(config.status_socket.as_deref(), socket.path())?;
    let mut heeded = vec![libc::SIGTERM];
    // With one connection it ends as the front end does, which gets them too.
    if !config.one_off {
        heeded.extend(
            OF_TERMINALS
                .iter()
                .filter(|signal| !sys::is_ignored(**signal)),
        );
    }
    let signals = SignalFd::new(&heeded).map_err(Error::system("Cannot set up signals"))?;
    let wake = Wake::new().map_err(Error::system("Cannot create an eventfd"))?;
    let guard = guard::start().map_err(Error::system("Cannot set up signals"))?;
    let board = Arc::new(Board::new(config.limits, now_ns()));
    let (event_log, trace) = logs::open(config)?;
    let events = Events::new(event_log, trace, board.clone());
    let address = getsockname(&socket);
    let notifier = Notifier::connect();
    raise_descriptor_limit(config.limits);
    let files = [socket.path(), status.as_ref().and_then(StatusSocket::path)];
    sandbox::enter(config.sandbox, config.seccomp, files.into_iter().flatten())?;
    messages::start().map_err(Error::system("Cannot start a thread"))?;
    // After everything else has said its last to it.
    let _finish = FinishLog(events.clone());
    events
        .start()
        .map_err(Error::system("Cannot start a thread"))?;

    let shell = Arc::new(Shell::new(config.limits, events.clone(), wake)?);
    // Its file is removed when this function returns.
    let _status_file = match status {
        Some(status) => {
            let (listener, file) = status.into_parts();
            status::server::start(listener, board, now_ns)
                .map_err(Error::system("Cannot start a thread"))?;
            file
        }
        None => None,
    };
    if let Ok(address) = address {
        shell.channels.listens_at(address);
    }
    let backend = Arc::new(Backend {
        shell: shell.clone(),
        engine: Engine::start(shell, notifier.watchdog(), config.busy_poll)?,
        migration_blocking: config.migration_blocking,
        state_version: config.state_version,
        state_limit: state_limit(config.limits.max_devices, config.limits.max_pending),
    });
    let waiter = Waiter {
        guard,
        signals: &signals,
        engine_ended: backend.engine.ended(),
    };
    events.step(|| Step::Listening);
    notifier.ready();
    while waiter.wait(Some(socket.as_fd()))? == Woken::Ready {
        let connection = match Connection::start(&backend, &mut socket) {
            Ok(connection) => connection,
            Err(e) if config.one_off => return Err(e),
            Err(e) => {
                log::error!("{e}; is the limit of open files too low?");
                if !socket.refuse() && waiter.wait_until(None, Some(REST), true)? != Woken::Late {
                    break;
                }
                continue;
            }
        };
        events.step(|| Step::Connected);
        if config.one_off {
            socket.close()?;
        }
        let done = connection.done.as_fd();
        let woken = waiter.wait(Some(done));
        if !matches!(woken, Ok(Woken::Ready)) {
            connection.end();
            if waiter.wait_until(Some(done), Some(END_LIMIT), false)? == Woken::Late {
                log::error!("the connection does not end, the process ends without it");
                break;
            }
        }
        connection.join();
        events.step(|| Step::Disconnected);
        if woken? == Woken::Signal || config.one_off {
            break;
        }
    }
    log::info!("terminating");
    Ok(())
}

/// Sees to it that the event log is complete when the process ends, if its file takes it.
struct FinishLog(Events);

impl Drop for FinishLog {
    fn drop(&mut self) {
        let deadline = Instant::now() + LOG_LIMIT;
        if !self.0.wait_written(deadline) {
            log::warn!("the event log does not take its last records");
        }
        if !self.0.wait_traced(deadline) {
            log::warn!("the trace does not take its last records");
        }
    }
}

/// Sees to it that as many devices as are allowed can be attached.
fn raise_descriptor_limit(limits: Limits) {
    // Fault channel, vEVENTQ and owner of each device; the rest of the program needs less than the
    // second number.
    let needed = u64::from(limits.max_devices) * 3 + 192;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return;
    }
    let current = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
    let raised = Rlimit {
        current: Some(current),
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_err() || current < needed {
        log::warn!(
            "the limit of open files is too low for --max-devices={}: {needed} are needed",
            limits.max_devices
        );
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Woken {
    Ready,
    Signal,
    Late,
}

/// How the main thread waits: it ticks for the guard meanwhile.
struct Waiter<'a> {
    guard: &'a Wake,
    signals: &'a SignalFd,
    engine_ended: &'a Wake,
}

impl Waiter<'_> {
    /// Waits for a descriptor to be readable or a signal to come.
    fn wait(&self, what: Option<BorrowedFd<'_>>) -> Result<Woken, Error> {
        self.wait_until(what, None, true)
    }

    /// What is not waited for leaves its place to the guard.
    fn place<'a>(&'a self, wanted: bool, fd: BorrowedFd<'a>) -> PollFd<'a> {
        let fd = if wanted { fd } else { self.guard.as_fd() };
        PollFd::from_borrowed_fd(fd, PollFlags::IN)
    }

    /// Waits for a time at most; `heed`: a signal or the end of the engine ends it as well.
    fn wait_until(
        &self,
        what: Option<BorrowedFd<'_>>,
        limit: Option<Duration>,
        heed: bool,
    ) -> Result<Woken, Error> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut ticking = true;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Woken::Late);
            }
            let timeout = match (ticking, left) {
                (true, left) => Some(left.unwrap_or(guard::PERIOD).min(guard::PERIOD)),
                (false, left) => left,
            };
            let timeout = timeout.map(|timeout| Timespec {
                tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(timeout.subsec_nanos()),
            });
            let mut fds = [
                self.place(heed, self.signals.as_fd()),
                self.place(heed, self.engine_ended.as_fd()),
                self.place(what.is_some(), what.unwrap_or(self.guard.as_fd())),
                self.place(false, self.guard.as_fd()),
            ];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) => ticking = guard::tick(),
                Ok(_) if heed && !fds[0].revents().is_empty() => return Ok(Woken::Signal),
                Ok(_) if heed && !fds[1].revents().is_empty() => return Err(Error::EngineEnded),
                Ok(_) if what.is_some() && !fds[2].revents().is_empty() => return Ok(Woken::Ready),
                Ok(_) => {
                    self.guard.clear();
                    ticking = true;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Error::system("Cannot wait")(io::Error::from(e))),
            }
        }
    }
}
