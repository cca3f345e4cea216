// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Programs that run in the machine.

use std::{
    fs::OpenOptions,
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use rustix::process::{kill_process, Pid, Signal};
use serde_json::json;

use crate::port::Output;

/// Starts it; a thread waits for its end, and tells.
pub fn start(argv: &[String], log: &Path, output: &Arc<Output>) -> io::Result<u32> {
    let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .map_err(|error| io::Error::other(format!("{program}: {error}")))?;
    let (pid, output) = (child.id(), Arc::clone(output));
    thread::spawn(move || {
        let status = match child.wait() {
            Ok(status) => status.code().map_or_else(
                || json!({"event": "exit", "pid": pid, "signal": status.signal()}),
                |code| json!({"event": "exit", "pid": pid, "code": code}),
            ),
            Err(error) => json!({"event": "exit", "pid": pid, "error": error.to_string()}),
        };
        // Without its peer the machine ends.
        let _ = output.send(&status);
    });
    Ok(pid)
}

/// An error if it has ended.
pub fn signal(pid: u32, number: i32) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let signal = Signal::from_named_raw(number);
    match (pid, signal) {
        (Some(pid), Some(signal)) => Ok(kill_process(pid, signal)?),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}
