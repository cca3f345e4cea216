// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a host has before its first program runs.

use std::{fs, io, os::unix::fs::symlink, path::Path};

use rustix::{
    io::Errno,
    mount::{mount, MountFlags},
    time::{clock_settime, ClockId, Timespec},
};

pub fn run() -> io::Result<()> {
    for (kind, target) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/dev/shm"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("debugfs", "/sys/kernel/debug"),
    ] {
        fs::create_dir_all(target)?;
        match mount(kind, target, kind, MountFlags::empty(), None) {
            // The kernel may have mounted it.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(io::Error::other(format!("mount {target}: {error}"))),
        }
    }
    if !Path::new("/dev/fd").exists() {
        symlink("/proc/self/fd", "/dev/fd")?;
    }
    set_clock()
}

/// The machine has no driver for a clock; the emulator's command line says what time it is.
fn set_clock() -> io::Result<()> {
    let line = fs::read_to_string("/proc/cmdline")?;
    for seconds in line
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("vsva.clock="))
    {
        let time = Timespec {
            tv_sec: seconds.parse().map_err(io::Error::other)?,
            tv_nsec: 0,
        };
        clock_settime(ClockId::Realtime, time)?;
    }
    Ok(())
}
