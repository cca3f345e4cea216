// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A back-end process, the release binary with its default confinement.

use std::{
    env,
    fs::File,
    io::{BufRead, BufReader},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::fs::{mkfifoat, open, Mode, OFlags, CWD};

use crate::wait::{readable, LIMIT};

/// A running back-end. Dropping it ends it.
pub struct Backend {
    child: Child,
    socket: PathBuf,
    events: Option<BufReader<File>>,
    killed: bool,
}

impl Backend {
    /// Starts one.
    pub fn start() -> Self {
        Self::spawn(None)
    }

    /// Starts one whose event log can be waited for.
    pub fn start_logged() -> Self {
        let path = unique("events");
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).expect("fifo");
        // Opened first, so that the back-end can open the other end.
        let fifo = open(
            &path,
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .expect("fifo");
        Self::spawn(Some((path, File::from(fifo))))
    }

    fn spawn(log: Option<(PathBuf, File)>) -> Self {
        let socket = unique("socket");
        let listener = UnixListener::bind(&socket).expect("socket");
        // Not closed on exec, unlike the original.
        let inherited = rustix::io::dup(&listener).expect("dup");
        let program = env::var_os("VSVA_BACKEND").unwrap_or_else(|| "/vhost-user-vsva".into());
        let mut command = Command::new(program);
        command
            .arg("--fd")
            .arg(inherited.as_raw_fd().to_string())
            .arg("--log-level=warn")
            .stdin(Stdio::null());
        if let Some((path, _)) = &log {
            command.arg("--event-log").arg(path);
        }
        let child = command.spawn().expect("the back-end starts");
        Backend {
            child,
            socket,
            events: log.map(|(_, fifo)| BufReader::new(fifo)),
            killed: false,
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A connection to its socket.
    pub fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).expect("connection")
    }

    /// Waits for a line of the event log that contains all of `words`.
    pub fn wait_for_event(&mut self, words: &[&str]) -> String {
        let events = self.events.as_mut().expect("started with start_logged()");
        let mut line = String::new();
        loop {
            match events.read_line(&mut line) {
                Ok(length) if length > 0 && line.ends_with('\n') => {
                    if words.iter().all(|word| line.contains(word)) {
                        return line;
                    }
                    line.clear();
                }
                // No writer yet, or nothing written.
                Ok(_) => assert!(
                    readable(events.get_ref().as_fd(), LIMIT),
                    "the event log ended before {words:?}"
                ),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    assert!(
                        readable(events.get_ref().as_fd(), LIMIT),
                        "{words:?} did not come in the event log"
                    );
                }
                Err(error) => panic!("event log: {error}"),
            }
        }
    }

    /// Kills it.
    pub fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
        self.killed = true;
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        if !self.killed && !std::thread::panicking() {
            assert!(
                matches!(ended, Ok(None)),
                "the back-end ended by itself: {ended:?}"
            );
        }
        // Errors: it has ended in the meantime, or has been killed by the check.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn unique(kind: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    env::temp_dir().join(format!("vsva-{}-{count}.{kind}", std::process::id()))
}
