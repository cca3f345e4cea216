// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The program: options, log, and then the library.

#![forbid(unsafe_code)]

mod args;

use std::{io::Write, process::ExitCode, time::Duration};

use args::{Args, Command, ReportArgs, StatusArgs, TraceArgs};
use clap::Parser;
use vhost_user_vsva::{
    backend,
    config::{Config, ConfigError, Listen},
    core::Limits,
    error::Error,
    messages,
    report::{self, Report, ReportError},
    state::StateVersion,
    status::{
        client::ClientError,
        command::{self, show, Format, Status},
    },
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
            (Some(path), _) => Some(Listen::Path(path)),
            (None, Some(fd)) => Some(Listen::Fd(fd)),
            (None, None) => None,
        };
        Ok(Config {
            listen,
            one_off: args.one_off,
            status_socket: args.status_socket,
            event_log: args.event_log,
            trace: args.trace,
            limits,
            busy_poll: Duration::from_micros(args.busy_poll_us.into()),
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

/// Runs a subcommand.
fn tool(command: Command) -> ExitCode {
    let code = |well| match well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    };
    let done = match command {
        Command::Status(args) => show_status(args).map(code).map_err(|e| e.to_string()),
        Command::Trace(args) => write_trace(args).map_err(|e| e.to_string()),
        Command::Report(args) => show_report(args).map_err(|e| e.to_string()),
    };
    match done {
        Ok(code) => code,
        Err(e) => {
            complain(&e);
            ExitCode::FAILURE
        }
    }
}

/// Nobody may be there to read it.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "vhost-user-vsva: {text}");
}

/// Whoever reads it may have enough of it; that a disk is full is an error.
fn print(text: &str) -> ExitCode {
    let mut stdout = std::io::stdout();
    let printed = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match printed {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to stdout: {e}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn write_trace(args: TraceArgs) -> Result<ExitCode, ClientError> {
    Ok(print(&command::trace(args.path, &args.output)?))
}

fn show_report(args: ReportArgs) -> Result<ExitCode, ReportError> {
    let text = report::report(&Report {
        logs: args.logs,
        output: args.output,
        generation: args.generation,
    })?;
    Ok(print(&text))
}

fn show_status(args: StatusArgs) -> Result<bool, ClientError> {
    let status = Status {
        format: match (args.json, args.metrics) {
            (true, _) => Format::Json,
            (_, true) => Format::Metrics,
            _ => Format::Table,
        },
        watch: args.watch,
        paths: args.paths,
    };
    show(&status, &mut std::io::stdout().lock())
}

fn main() -> ExitCode {
    // The specification has every other option ignored, even one that does not exist.
    if std::env::args_os().any(|arg| arg == "--print-capabilities") {
        return print(&format!("{}\n", backend::capabilities()));
    }
    let args = Args::parse();
    if let Some(command) = args.command {
        return tool(command);
    }
    messages::init(args.log_level);
    let result = run(args);
    if let Err(e) = &result {
        messages::say(&e.to_string());
    }
    messages::finish();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // As for an option that does not exist: to start it again is of no use.
        Err(Error::Config(_)) => ExitCode::from(2),
        Err(_) => ExitCode::FAILURE,
    }
}
