// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A back-end process, the release binary with its default confinement.

use std::{
    env,
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::process::{
    kill_process, pidfd_open, pidfd_send_signal, waitpid, Pid, PidfdFlags, Signal, WaitOptions,
};

/// A running back-end. Dropping it ends it.
pub struct Backend {
    child: Child,
    socket: PathBuf,
    killed: bool,
}

impl Backend {
    /// Starts one.
    pub fn start() -> Self {
        let socket = socket_path();
        let listener = UnixListener::bind(&socket).expect("socket");
        // Not closed on exec, unlike the original.
        let inherited = rustix::io::dup(&listener).expect("dup");
        let program = env::var_os("VSVA_BACKEND").unwrap_or_else(|| "/vhost-user-vsva".into());
        let child = Command::new(program)
            .args(["--log-level=warn", "--fd"])
            .arg(inherited.as_raw_fd().to_string())
            .stdin(Stdio::null())
            .spawn()
            .expect("the back-end starts");
        Backend {
            child,
            socket,
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

    /// Stops it until [`Self::resume`].
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let status = waitpid(Some(self.pid()), WaitOptions::UNTRACED).expect("wait");
        assert!(status.is_some_and(|(_, status)| status.stopped()));
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("kill");
    }

    fn pid(&self) -> Pid {
        let pid = i32::try_from(self.child.id()).expect("process id");
        Pid::from_raw(pid).expect("not 0")
    }

    /// What kills it, at any time, whatever has become of it.
    pub fn killer(&self) -> impl FnOnce() + Send + 'static {
        let process = pidfd_open(self.pid(), PidfdFlags::empty()).expect("pidfd");
        move || {
            // Unless it has ended.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_some()
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

fn socket_path() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    env::temp_dir().join(format!("vsva-{}-{count}.socket", std::process::id()))
}
