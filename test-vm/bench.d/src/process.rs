// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A process that is measured.

use std::{
    fs, io,
    path::PathBuf,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

/// Nothing here takes this long.
const HANG: Duration = Duration::from_secs(60);

/// A process, which ends with this.
pub struct Process(pub Child);

impl Process {
    /// Starts it.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        Ok(Process(command.spawn()?))
    }

    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0.id()))
    }

    /// Processor time of all its threads, in nanoseconds.
    pub fn cpu_ns(&self) -> io::Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(self.file("task"))? {
            // A thread may end meanwhile.
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            let first = text.split_whitespace().next().unwrap_or("0");
            sum += first.parse::<u64>().map_err(io::Error::other)?;
        }
        Ok(sum)
    }

    /// A field of /proc/PID/FILE that is in kB, in bytes.
    pub fn kb(&self, file: &str, field: &str) -> io::Result<u64> {
        let text = fs::read_to_string(self.file(file))?;
        let line = text.lines().find(|line| line.starts_with(field));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        let number = number.ok_or_else(|| io::Error::other(format!("no {field} in {file}")))?;
        Ok(number.parse::<u64>().map_err(io::Error::other)? * 1024)
    }

    /// The most memory it has had so far is forgotten.
    pub fn reset_peak(&self) -> io::Result<()> {
        fs::write(self.file("clear_refs"), "5")
    }

    /// Waits until `ready` says so, as long as the process lives.
    pub fn wait_until(&mut self, mut ready: impl FnMut() -> bool) -> io::Result<()> {
        let deadline = Instant::now() + HANG;
        while !ready() {
            if let Some(status) = self.0.try_wait()? {
                return Err(io::Error::other(format!("it has ended: {status}")));
            }
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
