// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What systemd wants of a service: its socket taken over, word when it is ready, and word again
//! and again that it goes on.

use std::{
    env, io,
    os::{
        fd::RawFd,
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use crate::{backend::watchdog::Watchdog, config::ConfigError, error::Error};

/// How long the message may wait for its reader, without which the service is as ready.
const READY_LIMIT: Duration = Duration::from_secs(1);
/// The first descriptor that systemd passes.
const LISTEN_FDS_START: RawFd = 3;

/// Name of the status socket (FileDescriptorName=).
const STATUS_NAME: &str = "status";

/// A number in the environment.
fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// The sockets that systemd passes, with their names.
fn passed() -> Vec<(RawFd, String)> {
    if number("LISTEN_PID") != Some(std::process::id().into()) {
        return Vec::new();
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').map(str::to_owned);
    // Whatever the number is, nobody passes more.
    let count = number("LISTEN_FDS").unwrap_or(0).min(1024);
    let count = usize::try_from(count).unwrap_or(0);
    (LISTEN_FDS_START..)
        .zip(names.chain(std::iter::repeat(String::new())))
        .take(count)
        .collect()
}

/// The vhost-user socket: the one that is not named as the status socket.
pub fn socket_fd() -> Result<RawFd, Error> {
    let mut others = passed();
    others.retain(|(_, name)| name != STATUS_NAME);
    match others[..] {
        [(fd, _)] => Ok(fd),
        [] => Err(ConfigError::NoSocket.into()),
        _ => Err(Error::ListenFd {
            fd: LISTEN_FDS_START,
            reason: format!(
                "systemd passes {} sockets, there must be exactly one besides the status socket",
                others.len()
            ),
        }),
    }
}

/// The status socket, if systemd passes one.
pub fn status_fd() -> Option<RawFd> {
    let passed = passed();
    let found = passed.iter().find(|(_, name)| name == STATUS_NAME);
    found.map(|(fd, _)| *fd)
}

/// Where to say that the service is ready. Opened early, as the sandbox allows no new sockets.
pub struct Notifier(Option<UnixDatagram>);

impl Notifier {
    /// Connects to the socket that the environment names, if it names one.
    pub fn connect() -> Self {
        let Some(address) = env::var_os("NOTIFY_SOCKET") else {
            return Notifier(None);
        };
        let connected = (|| {
            let address = match address.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
                _ => SocketAddr::from_pathname(&address)?,
            };
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(READY_LIMIT))?;
            socket.connect_addr(&address)?;
            Ok(socket)
        })();
        Notifier(connected.map_err(|e| warn(&e)).ok())
    }

    /// Says that connections are accepted.
    pub fn ready(&self) {
        if let Some(Err(e)) = self.0.as_ref().map(|socket| socket.send(b"READY=1\n")) {
            warn(&e);
        }
    }

    /// The watchdog, if systemd wants to hear of this process (`WatchdogSec=`).
    pub fn watchdog(&self) -> Option<Watchdog> {
        let limit = Duration::from_micros(number("WATCHDOG_USEC").filter(|limit| *limit > 0)?);
        // Without it, whoever has the variable is meant.
        let pid = number("WATCHDOG_PID").unwrap_or(std::process::id().into());
        if pid != u64::from(std::process::id()) {
            return None;
        }
        let socket = self.0.as_ref()?.try_clone();
        let watchdog = socket.and_then(|socket| Watchdog::new(socket, limit));
        watchdog
            .map_err(|e| log::warn!("cannot serve systemd's watchdog: {e}"))
            .ok()
    }
}

fn warn(e: &io::Error) {
    log::warn!("cannot tell systemd that the service is ready: {e}");
}
