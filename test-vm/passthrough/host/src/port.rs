// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The virtio-serial ports: the one for requests, and the names of the others.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::symlink,
    path::Path,
    sync::{Mutex, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

const PORTS: &str = "/sys/class/virtio-ports";
/// Where each port is, by its name.
const BY_NAME: &str = "/run/ports";
/// The names come by messages from the device, after the boot.
const LIMIT: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(5);

/// What is written from several threads, line by line.
pub struct Output(Mutex<File>);

impl Output {
    pub fn send(&self, message: &Value) -> io::Result<()> {
        let line = format!("{message}\n");
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes())
    }
}

/// Waits until all ports have their names, and opens the one with this name, both ways.
pub fn open(name: &str) -> io::Result<(File, Output)> {
    let end = Instant::now() + LIMIT;
    fs::create_dir_all(BY_NAME)?;
    while !link_all(name)? {
        if Instant::now() > end {
            return Err(io::Error::other(format!("there is no port {name}")));
        }
        sleep(STEP);
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(Path::new(BY_NAME).join(name))?;
    Ok((file.try_clone()?, Output(Mutex::new(file))))
}

/// False as long as a port is without a name, or none has the one that is asked for.
fn link_all(name: &str) -> io::Result<bool> {
    let Ok(ports) = fs::read_dir(PORTS) else {
        return Ok(false);
    };
    let (mut named, mut found) = (true, false);
    for port in ports {
        let port = port?;
        let Ok(text) = fs::read_to_string(port.path().join("name")) else {
            named = false;
            continue;
        };
        let text = text.trim();
        if text == "(null)" {
            named = false;
            continue;
        }
        found |= text == name;
        match symlink(
            Path::new("/dev").join(port.file_name()),
            Path::new(BY_NAME).join(text),
        ) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(named && found)
}
