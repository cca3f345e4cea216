// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The life of the process: set-up, one connection after the other, the end.

use std::{
    fs::OpenOptions,
    io,
    os::fd::AsFd,
    sync::Arc,
    thread::{self, JoinHandle},
};

use rustix::{
    event::{poll, PollFd, PollFlags},
    net::getsockname,
    process::{getrlimit, setrlimit, Resource, Rlimit},
};
use vhost::vhost_user::Error as VhostUserError;
use vhost_user_backend::{ShutdownHandle, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use super::{
    adapter::Adapter,
    device::Device,
    engine::Engine,
    event_log::{EventLog, Step},
    listener::Socket,
    systemd::Notifier,
    wake::Wake,
    Backend,
};
use crate::{config::Config, core::Limits, error::Error, sandbox, sys::SignalFd};

/// What `--print-capabilities` prints.
pub const CAPABILITIES: &str =
    r#"{"type": "vsva", "features": ["migration-blocking", "device-state"]}"#;

/// Serves until SIGTERM or SIGINT.
pub fn run(config: &Config) -> Result<(), Error> {
    let mut socket = Socket::open(config.listen.as_ref())?;
    // Blocked in all threads, as none has been started yet.
    let signals = SignalFd::new(&[libc::SIGTERM, libc::SIGINT])
        .map_err(Error::system("Cannot set up signals"))?;
    let wake = Wake::new().map_err(Error::system("Cannot create an eventfd"))?;
    let log = open_event_log(config, &wake)?;
    let address = getsockname(&socket);
    let notifier = Notifier::connect();
    raise_descriptor_limit(config.limits);
    sandbox::enter(config.sandbox, config.seccomp, socket.path())?;

    let device = Arc::new(Device::new(config.limits, log.clone(), wake)?);
    if let Ok(address) = address {
        device.listens_at(address);
    }
    let backend = Arc::new(Backend {
        device: device.clone(),
        engine: Engine::start(device)?,
        migration_blocking: config.migration_blocking,
        state_version: config.state_version,
    });
    log.step(|| Step::Listening);
    notifier.ready();
    while wait_for(&socket, &signals)? == Woken::Ready {
        let connection = match Connection::start(&backend, &mut socket) {
            Ok(connection) => connection,
            Err(e) => {
                log::error!("{e}");
                socket.refuse();
                continue;
            }
        };
        log.step(|| Step::Connected);
        let woken = wait_for(&connection.done, &signals)?;
        if woken == Woken::Signal {
            connection.shutdown.shutdown();
        }
        connection.join();
        log.step(|| Step::Disconnected);
        if woken == Woken::Signal {
            break;
        }
    }
    log::info!("terminating");
    Ok(())
}

fn open_event_log(config: &Config, wake: &Wake) -> Result<EventLog, Error> {
    let Some(path) = &config.event_log else {
        return Ok(EventLog::default());
    };
    let failed = |source| Error::EventLog {
        path: path.clone(),
        source,
    };
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(failed)?;
    Ok(EventLog::new(file, wake.try_clone().map_err(failed)?))
}

/// Sees to it that as many devices as are allowed can be attached.
fn raise_descriptor_limit(limits: Limits) {
    // Fault channel, vEVENTQ and owner of each device; the rest of the program needs less than the second number.
    let needed = u64::from(limits.max_devices) * 3 + 128;
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
}

fn wait_for(what: &impl AsFd, signals: &SignalFd) -> Result<Woken, Error> {
    let mut fds = [
        PollFd::new(what, PollFlags::IN),
        PollFd::new(signals, PollFlags::IN),
    ];
    loop {
        match poll(&mut fds, None) {
            Ok(_) if !fds[1].revents().is_empty() => return Ok(Woken::Signal),
            Ok(_) => return Ok(Woken::Ready),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                return Err(Error::system("Cannot wait for a connection")(
                    io::Error::from(e),
                ))
            }
        }
    }
}

/// A connection being served.
struct Connection {
    shutdown: ShutdownHandle,
    /// Readable when the connection has ended.
    done: Wake,
    thread: JoinHandle<()>,
}

impl Connection {
    /// Accepts the connection that is waiting.
    fn start(backend: &Arc<Backend>, socket: &mut Socket) -> Result<Self, Error> {
        let failed = Error::system;
        let done = Wake::new().map_err(failed("Cannot create an eventfd"))?;
        let finished = done
            .try_clone()
            .map_err(failed("Cannot create an eventfd"))?;
        // Both ends count the messages of a new connection's rings from 1.
        backend.device.step(|core, _| core.rings_reset());
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let adapter = Arc::new(Adapter::new(backend.clone(), memory.clone()));
        let mut daemon = VhostUserDaemon::new("vsva".to_owned(), adapter.clone(), memory)?;
        daemon.start(&mut socket.listener)?;
        let shutdown = daemon.shutdown_handle().ok_or_else(|| {
            Error::system("Cannot serve the connection")(io::ErrorKind::NotConnected.into())
        })?;
        adapter.set_shutdown(shutdown.clone());
        let device = backend.device.clone();
        let thread = thread::Builder::new()
            .name("vsva-wait".to_owned())
            .spawn(move || {
                report(daemon.wait());
                // Events are kept for the next connection from now on.
                device.forget_rings();
                // Ends the worker, so nothing of this connection runs when the next one starts.
                drop(daemon);
                // The worker may have started the rings in its last moments.
                device.forget_rings();
                // What is in it is the front end's, which may have gone.
                device.share(None);
                adapter.end();
                finished.set();
            })
            .map_err(failed("Cannot start a thread"))?;
        Ok(Connection {
            shutdown,
            done,
            thread,
        })
    }

    fn join(self) {
        if self.thread.join().is_err() {
            log::error!("a connection's thread has panicked");
        }
    }
}

fn report(result: Result<(), vhost_user_backend::Error>) {
    use vhost_user_backend::Error::HandleRequest;
    match result {
        Ok(()) | Err(HandleRequest(VhostUserError::Disconnected)) => {
            log::info!("the front end has disconnected");
        }
        Err(e) => log::error!("the connection has ended: {e}"),
    }
}
