// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Process 1: mounts what is needed, runs the checks one after the other, switches the machine off.

use std::{
    fs::{self, OpenOptions},
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    mount::{mount, MountFlags},
    process::{kill_process_group, pidfd_open, waitpid, Pid, PidfdFlags, Signal, WaitOptions},
    system::{reboot, RebootCommand},
    time::{clock_settime, ClockId, Timespec},
};

use crate::{
    checks::{Check, Platform, ALL, ON_REQUEST},
    testdev, vfio, wait,
};

/// A check that takes longer hangs.
const CHECK_LIMIT: Duration = Duration::from_secs(120);
/// A byte of PCI configuration space that nothing interprets: Interrupt Line of the host bridge.
/// The emulator logs writes to it, which cuts its log into the parts that belong to each check.
const MARKER: (&str, u64) = ("/sys/bus/pci/devices/0000:00:00.0/config", 0x3c);

/// Runs everything and powers off.
pub fn run() -> ! {
    let result = prepare().and_then(|()| match suites()? {
        none if none.is_empty() => run_checks(),
        suites => run_suites(&suites),
    });
    if let Err(error) = result {
        println!("vsva-rig: error {error}");
    }
    println!("vsva-rig: end");
    rustix::fs::sync();
    let error = reboot(RebootCommand::PowerOff);
    panic!("power off: {error:?}");
}

fn prepare() -> io::Result<()> {
    for (source, target, kind) in [
        ("proc", "/proc", "proc"),
        ("sysfs", "/sys", "sysfs"),
        ("devtmpfs", "/dev", "devtmpfs"),
        ("tmpfs", "/tmp", "tmpfs"),
    ] {
        fs::create_dir_all(target)?;
        match mount(source, target, kind, MountFlags::empty(), None) {
            // The kernel may have mounted it.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => return Err(io::Error::other(format!("mount {target}: {error}"))),
        }
    }
    for function in vfio::find_functions(testdev::VENDOR, testdev::DEVICE)? {
        vfio::bind(&function)?;
    }
    set_clock()
}

/// The machine has no driver for a clock; the emulator's command line says what time it is.
fn set_clock() -> io::Result<()> {
    for seconds in option("vsva.clock=")? {
        let time = Timespec {
            tv_sec: seconds.parse().map_err(io::Error::other)?,
            tv_nsec: 0,
        };
        clock_settime(ClockId::Realtime, time)?;
    }
    Ok(())
}

/// Test programs of the crate that came in the initramfs. With them nothing else is run.
fn suites() -> io::Result<Vec<PathBuf>> {
    match fs::read_dir("/suites") {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Runs each; what they print goes to the console.
fn run_suites(suites: &[PathBuf]) -> io::Result<()> {
    let skipped = option("vsva.skip=")?;
    println!(
        "vsva-rig: kernel {} suites",
        rustix::system::uname().release().to_string_lossy()
    );
    for suite in suites {
        let mut command = Command::new(suite);
        for name in &skipped {
            command.args(["--skip", name]);
        }
        let status = command.stdin(Stdio::null()).status()?;
        println!("vsva-rig: suite {} {status}", suite.display());
    }
    Ok(())
}

fn run_checks() -> io::Result<()> {
    let kernel = rustix::system::uname();
    let platform = Platform::of_this_machine();
    let (wanted, unwanted) = (option("vsva.checks=")?, option("vsva.skip=")?);
    println!(
        "vsva-rig: kernel {} {platform:?}",
        kernel.release().to_string_lossy()
    );
    for (index, check) in ALL.iter().chain([&ON_REQUEST]).enumerate() {
        let is_wanted = if wanted.is_empty() {
            index < ALL.len()
        } else {
            wanted.iter().any(|name| name == check.name)
        };
        if (check.nested_only && platform != Platform::Nested)
            || !is_wanted
            || unwanted.iter().any(|prefix| check.name.starts_with(prefix))
        {
            continue;
        }
        // 0 stands for "between two checks".
        mark(u8::try_from(index + 1).map_err(io::Error::other)?)?;
        println!("vsva-rig: begin {} {}", index + 1, check.name);
        let started = Instant::now();
        let result = run_check(check);
        let took = started.elapsed().as_millis();
        mark(0)?;
        match result {
            Ok(status) if status.success() => println!("vsva-rig: passed {} {took}", check.name),
            Ok(status) => println!("vsva-rig: failed {} {took} {status}", check.name),
            Err(error) => println!("vsva-rig: failed {} {took} {error}", check.name),
        }
    }
    Ok(())
}

/// The words, separated by commas, of an option on the kernel's command line.
fn option(name: &str) -> io::Result<Vec<String>> {
    let line = fs::read_to_string("/proc/cmdline")?;
    Ok(line
        .split_whitespace()
        .filter_map(|word| word.strip_prefix(name))
        .flat_map(|words| words.split(','))
        .map(String::from)
        .collect())
}

fn mark(value: u8) -> io::Result<()> {
    let (path, offset) = MARKER;
    match OpenOptions::new().write(true).open(path) {
        Ok(config) => config.write_all_at(&[value], offset),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Runs the check in a process group of its own, and ends all of it.
fn run_check(check: &Check) -> io::Result<ExitStatus> {
    use std::os::unix::process::CommandExt;
    let mut child = Command::new("/proc/self/exe")
        .args(["check", check.name])
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()?;
    let group = pid_of(&child)?;
    let ended = wait::readable(pidfd(group)?, CHECK_LIMIT);
    // The back-ends of a check that failed are still there.
    match kill_process_group(group, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    let status = child.wait()?;
    // Also of the processes that the check left to us.
    while let Ok(Some(_)) = waitpid(None, WaitOptions::empty()) {}
    if ended {
        Ok(status)
    } else {
        Err(io::Error::other(format!(
            "still running after {CHECK_LIMIT:?}"
        )))
    }
}

fn pid_of(child: &Child) -> io::Result<Pid> {
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("no process id"))
}

fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
