// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What can go wrong while the process starts and runs.

use std::{io, path::PathBuf};

use thiserror::Error;

/// An error that ends the process; its text says what to do about it.
#[derive(Debug, Error)]
pub enum Error {
    /// An option has a value that cannot be used.
    #[error("{0}")]
    Config(#[from] crate::config::ConfigError),
    /// The listening socket could not be made.
    #[error("Cannot listen on {path:?}: {source}")]
    Bind {
        /// The path of the socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something that is not a socket is in the way.
    #[error(
        "Cannot listen on {0:?}: the path exists and is not a socket; remove it or choose another \
         path"
    )]
    NotASocket(PathBuf),
    /// Another process listens there.
    #[error(
        "Cannot listen on {0:?}: another process is listening there; stop it or choose another \
         path"
    )]
    InUse(PathBuf),
    /// The descriptor given is unusable.
    #[error("Cannot use file descriptor {fd} as the vhost-user socket: {reason}")]
    ListenFd {
        /// Its number.
        fd: i32,
        /// Why not.
        reason: String,
    },
    /// The event log could not be opened.
    #[error("Cannot open the event log {path:?}: {source}")]
    EventLog {
        /// The path of the log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The trace could not be opened.
    #[error("Cannot open the trace {path:?}: {source}")]
    Trace {
        /// The path of the trace.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process could not be confined.
    #[error("{0}")]
    Sandbox(#[from] crate::sandbox::SandboxError),
    /// A resource of the system could not be had.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A thread that everything depends on has ended.
    #[error("The engine thread has ended: faults are not served any more")]
    EngineEnded,
    /// The vhost-user library failed.
    #[error("Cannot serve the vhost-user connection: {0}")]
    Daemon(vhost_user_backend::Error),
}

impl From<vhost_user_backend::Error> for Error {
    fn from(error: vhost_user_backend::Error) -> Self {
        // Not a std::error::Error, so it cannot be the source.
        Error::Daemon(error)
    }
}

/// An error of the system by its number, where there is no room for its text.
pub(crate) fn short(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(errno) => format!("error {errno}"),
        None => error.to_string(),
    }
}

impl Error {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Error::System { what, source }
    }
}
