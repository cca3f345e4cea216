// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the process has been told to do, checked.

use std::{path::PathBuf, time::Duration};

use thiserror::Error;

use crate::{
    core::{Limits, LimitsError},
    sandbox::{SandboxMode, SeccompAction},
    state::StateVersion,
};

/// Where the listening socket comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Make it at this path.
    Path(PathBuf),
    /// The process has been started with it.
    Fd(i32),
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The vhost-user socket; `None`: from systemd.
    pub listen: Option<Listen>,
    /// Serve one connection only.
    pub one_off: bool,
    /// Where the status socket is made; `None`: only if systemd passes one.
    pub status_socket: Option<PathBuf>,
    /// The event log.
    pub event_log: Option<PathBuf>,
    /// The trace.
    pub trace: Option<PathBuf>,
    /// Limits.
    pub limits: Limits,
    /// How long the engine looks for more before it sleeps.
    pub busy_poll: Duration,
    /// Whether the feature bit `VSVA_F_MIGRATION_BLOCKING` is offered.
    pub migration_blocking: bool,
    /// Version of the state stream.
    pub state_version: StateVersion,
    /// What to do about a forbidden system call.
    pub seccomp: SeccompAction,
    /// How to confine the process.
    pub sandbox: SandboxMode,
}

/// An option that cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// A number is out of range.
    #[error(
        "--{}: {} is out of range, it must be {} to {}",
        .0.name.replace('_', "-"),
        .0.value,
        .0.min,
        .0.max
    )]
    Limits(#[from] LimitsError),
    /// Each would have a half of what the other one is to have.
    #[error("--event-log and --trace are both {0:?}: each needs a file of its own")]
    SameFile(PathBuf),
    /// A socket serves one purpose.
    #[error("--socket-path and --status-socket are both {0:?}: each needs a path of its own")]
    SameSocket(PathBuf),
    /// There is no socket.
    #[error(
        "No socket: give --socket-path or --fd, or start the program by systemd socket activation"
    )]
    NoSocket,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_limits_error_names_the_option() {
        let limits = Limits {
            max_faults: 0,
            ..Limits::default()
        };
        let error = ConfigError::from(limits.check().unwrap_err());
        assert_eq!(
            error.to_string(),
            "--max-faults: 0 is out of range, it must be 1 to 65536"
        );
    }
}
