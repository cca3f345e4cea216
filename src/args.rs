// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The command line.

use std::{fmt::Display, path::PathBuf, str::FromStr};

use clap::{
    builder::{PossibleValuesParser, TypedValueParser},
    ArgAction, Parser, Subcommand, ValueEnum,
};
use log::LevelFilter;
use vhost_user_vsva::{
    core::Limits,
    sandbox::{SandboxMode, SeccompAction},
};

/// A vhost-user back-end that carries a passed-through device's DMA page faults between the host
/// and the guest's SMMUv3, and drains them before a migration stops the vCPUs.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "vhost-user-vsva",
    version,
    about,
    long_about = None,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Listen on this UNIX socket. Without this and --fd, a socket from systemd is used.
    #[arg(long, value_name = "PATH", conflicts_with = "fd")]
    pub socket_path: Option<PathBuf>,

    /// Use this file descriptor, a listening UNIX socket, instead of --socket-path.
    #[arg(long, value_name = "FDNUM", value_parser = number(0, i32::MAX))]
    pub fd: Option<i32>,

    /// Serve one connection, and end with it. For whoever starts this program for one front end.
    #[arg(long)]
    pub one_off: bool,

    /// Make another UNIX socket here, which tells the status and changes nothing. Its mode is 0660.
    /// Without this, a socket named "status" from systemd is used, if there is one.
    #[arg(long, value_name = "PATH")]
    pub status_socket: Option<PathBuf>,

    /// Print what this program can do as JSON and exit; every other option is ignored.
    #[arg(long)]
    pub print_capabilities: bool,

    /// What to log to stderr; RUST_LOG, if set, wins.
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        ignore_case = true,
        value_parser = levels()
    )]
    pub log_level: LevelFilter,

    /// Append every step of every fault, submission and drain to FILE, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub event_log: Option<PathBuf>,

    /// Write the same to FILE as a trace for the Perfetto UI (ui.perfetto.dev). A file that is
    /// there is replaced.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// The most devices that may be attached.
    #[arg(
        long,
        value_name = "N",
        default_value_t = Limits::default().max_devices,
        value_parser = limit(1, Limits::DEVICES_MAX)
    )]
    pub max_devices: u32,

    /// The most faults that may be outstanding, over all devices. The guest's STAGs are 16 bits
    /// wide.
    #[arg(
        long,
        value_name = "N",
        default_value_t = Limits::default().max_faults,
        value_parser = limit(1, Limits::FAULTS_MAX)
    )]
    pub max_faults: u32,

    /// The most faults that a device may have outstanding whose front end sets no limit; 0: a fair
    /// share of --max-faults.
    #[arg(
        long,
        value_name = "N",
        default_value_t = Limits::default().max_device_faults,
        value_parser = limit(0, Limits::FAULTS_MAX)
    )]
    pub max_device_faults: u32,

    /// The most submissions that may be pending, over all devices.
    #[arg(
        long,
        value_name = "N",
        default_value_t = Limits::default().max_pending,
        value_parser = limit(1, Limits::PENDING_MAX)
    )]
    pub max_pending: u32,

    /// Look for the next fault and for answers for so many microseconds before waiting to be woken,
    /// 0 to 1000. It costs a core meanwhile.
    #[arg(long, value_name = "US", default_value_t = 0, value_parser = number(0_u16, 1000))]
    pub busy_poll_us: u16,

    /// What to do about a system call that this program does not need.
    #[arg(long, value_name = "ACTION", value_enum, default_value_t = Seccomp::Kill)]
    pub seccomp: Seccomp,

    /// How to confine the process besides seccomp.
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Sandbox::Landlock)]
    pub sandbox: Sandbox,

    /// Do not offer the feature bit VSVA_F_MIGRATION_BLOCKING: a front end then refuses to migrate.
    /// For testing that refusal.
    #[arg(long, alias = "x-no-migration-blocking", action = ArgAction::SetTrue)]
    pub without_migration_blocking: bool,

    /// The version of the state stream: written, with no older reader allowed, and the newest one
    /// read. For testing the refusal.
    #[arg(long, value_name = "N", hide = true, value_parser = number(1, u16::MAX))]
    pub x_state_version: Option<u16>,
}

/// The values of `--log-level`, so that a wrong one is answered with them.
fn levels() -> impl TypedValueParser<Value = LevelFilter> {
    PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"])
        .map(|level| level.parse().unwrap_or(LevelFilter::Info))
}

/// A number; what is none is answered with those that there are.
fn number<T>(min: T, max: T) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: Copy + Display + FromStr + PartialOrd,
{
    move |text| {
        let number = text.parse().ok();
        let allowed = number.filter(|number| (min..=max).contains(number));
        allowed.ok_or_else(|| format!("it must be a number from {min} to {max}"))
    }
}

/// A limit, which is compared with its range when all of them are known.
fn limit(min: u32, max: u32) -> impl Fn(&str) -> Result<u32, String> + Clone {
    move |text| {
        let number = text.parse().ok();
        number.ok_or_else(|| format!("it must be a number from {min} to {max}"))
    }
}

/// The values of `--seccomp`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Seccomp {
    /// No filter.
    None,
    /// End the process.
    Kill,
    /// Allow it, and let the kernel log it.
    Log,
    /// Send SIGSYS.
    Trap,
}

/// The values of `--sandbox`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Sandbox {
    /// Give up all capabilities, and access to the file system and the network as far as the kernel
    /// supports Landlock.
    Landlock,
    /// Only forbid to gain new privileges.
    None,
}

impl From<Seccomp> for SeccompAction {
    fn from(value: Seccomp) -> Self {
        match value {
            Seccomp::None => Self::None,
            Seccomp::Kill => Self::Kill,
            Seccomp::Log => Self::Log,
            Seccomp::Trap => Self::Trap,
        }
    }
}

impl From<Sandbox> for SandboxMode {
    fn from(value: Sandbox) -> Self {
        match value {
            Sandbox::Landlock => Self::Landlock,
            Sandbox::None => Self::None,
        }
    }
}

/// What else the program does.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show the status of back-ends that run.
    Status(StatusArgs),
    /// Write a trace of what a back-end that runs has just done.
    Trace(TraceArgs),
    /// Say what event logs tell, and draw it.
    Report(ReportArgs),
}

/// Shows what back-ends of this host are doing.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// Print a JSON object: for each VM its status document.
    #[arg(long)]
    pub json: bool,

    /// Print it as Prometheus text, for the textfile collector of node_exporter.
    #[arg(long, conflicts_with = "json")]
    pub metrics: bool,

    /// Do it again each second until it is ended.
    #[arg(long)]
    pub watch: bool,

    /// Status sockets; without any, those of all back-ends of this host:
    /// /run/vhost-user-vsva/*.status.sock.
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// Says what the event logs of one or two hosts tell, and draws it.
#[derive(Clone, Debug, clap::Args)]
pub struct ReportArgs {
    /// Draw the picture here, as SVG; a file that is there is replaced.
    #[arg(short, long, value_name = "FILE", default_value = "timeline.svg")]
    pub output: PathBuf,

    /// Only drains of this generation, instead of the last ones.
    #[arg(long, value_name = "N", value_parser = number(0, u64::MAX))]
    pub generation: Option<u64>,

    /// Event logs of back-ends (--event-log); of a migration that of the source and that of the
    /// destination.
    #[arg(value_name = "EVENTS", required = true, num_args = 1..=2)]
    pub logs: Vec<PathBuf>,
}

/// Writes a trace of the last events of a back-end that runs, for the Perfetto UI
/// (ui.perfetto.dev).
#[derive(Clone, Debug, clap::Args)]
pub struct TraceArgs {
    /// Write it here; a file that is there is replaced.
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "vsva.perfetto-trace"
    )]
    pub output: PathBuf,

    /// Its status socket; without it, that of the only back-end of this host.
    #[arg(value_name = "PATH")]
    pub path: Option<PathBuf>,
}
