// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The program: options, log, and then the library.

#![forbid(unsafe_code)]

mod args;

use std::process::ExitCode;

use args::Args;
use clap::Parser;
use vhost_user_vsva::{
    backend,
    config::{Config, ConfigError, Listen},
    core::Limits,
    error::Error,
    messages,
    state::StateVersion,
};

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        let limits = Limits {
            max_devices: args.max_devices,
            max_faults: args.max_faults,
            max_pending: args.max_pending,
            max_device_faults: args.max_device_faults,
        };
        limits.check()?;
        let listen = match (args.socket_path, args.fd) {
            (Some(path), _) if path.as_os_str().is_empty() => return Err(ConfigError::EmptyPath),
            (Some(path), _) => Some(Listen::Path(path)),
            (None, Some(fd)) => Some(Listen::Fd(fd)),
            (None, None) => None,
        };
        Ok(Config {
            listen,
            one_off: args.one_off,
            event_log: args.event_log,
            limits,
            migration_blocking: !args.without_migration_blocking,
            state_version: args
                .x_state_version
                .map_or_else(StateVersion::default, |version| StateVersion {
                    version,
                    compat: version,
                }),
            seccomp: args.seccomp.into(),
            sandbox: args.sandbox.into(),
        })
    }
}

fn run(args: Args) -> Result<(), Error> {
    backend::run(&Config::try_from(args)?)
}

fn main() -> ExitCode {
    // The specification has every other option ignored, even one that does not exist.
    if std::env::args_os().any(|arg| arg == "--print-capabilities") {
        println!("{}", backend::CAPABILITIES);
        return ExitCode::SUCCESS;
    }
    let args = Args::parse();
    messages::init(args.log_level);
    let result = run(args);
    if let Err(e) = &result {
        messages::say(&e.to_string());
    }
    messages::finish();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
