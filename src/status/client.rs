// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Asks a back-end at its status socket.

use std::{
    fs, io,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::net::{
    connect, socket_with, sockopt, AddressFamily, SocketAddrUnix, SocketFlags, SocketType,
};
use thiserror::Error;

use super::document::Document;
use crate::printable;

/// Where the units of the package make the sockets.
pub const FOLDER: &str = "/run/vhost-user-vsva";
/// What their names end with.
pub const SUFFIX: &str = ".status.sock";
/// For one back-end.
const LIMIT: Duration = Duration::from_secs(2);
/// What a trace is refused with that comes too soon after another one, and what is done then.
const TOO_OFTEN: &str = "status 429";
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(1100);
/// Characters of what is wrong with an answer.
const REASON_MAX: usize = 200;
/// Longest answer that is read.
const ANSWER_MAX: u64 = 16 << 20;

/// Why a back-end could not be asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The folder with the sockets cannot be read.
    #[error("Cannot look for status sockets in {path:?}: {source}")]
    Folder {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No connection.
    #[error(
        "{path:?} does not answer: {source}; does the back-end run, and may you use the socket?"
    )]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer is another one.
    #[error("{path:?} gives no status: {reason}; is it the status socket, and of this release?")]
    Answer {
        /// The socket's path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no trace.
    #[error("{path:?} gives no trace: {reason}; is it the status socket, and of this release?")]
    Trace {
        /// The socket's path.
        path: PathBuf,
        /// What is wrong with the answer.
        reason: String,
    },
    /// There is nobody to ask.
    #[error("no back-end runs: there is no status socket in {FOLDER}; name one that is elsewhere")]
    Nobody,
    /// It is not clear whose trace is wanted.
    #[error("{0} back-ends run; name the status socket of one")]
    WhichOne(usize),
    /// A file could not be written.
    #[error("Cannot write {path:?}: {source}")]
    Output {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The status sockets of all back-ends of this host, in the order of their names.
pub fn all() -> Result<Vec<PathBuf>, ClientError> {
    let failed = |source| ClientError::Folder {
        path: FOLDER.into(),
        source,
    };
    let entries = match fs::read_dir(FOLDER) {
        // There has been no back-end since the host was started.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.to_string_lossy().ends_with(SUFFIX) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// What the VM is called whose back-end has this socket.
pub fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    let name = name.to_string_lossy();
    let name = name.strip_suffix(SUFFIX).unwrap_or(&name);
    printable::text(name)
}

/// Asks one.
pub fn document(path: &Path) -> Result<Document, ClientError> {
    let failed = |source| ClientError::Socket {
        path: path.to_owned(),
        source,
    };
    let answer = open(path, "/status").and_then(read_all).map_err(failed)?;
    let wrong = |reason: String| ClientError::Answer {
        path: path.to_owned(),
        reason,
    };
    let body = body(&answer).map_err(wrong)?;
    parse(body).map_err(wrong)
}

/// What is wrong with it goes to a terminal, and may quote it.
fn parse(body: &[u8]) -> Result<Document, String> {
    let error = |e: serde_json::Error| printable::beginning(&e.to_string(), REASON_MAX);
    serde_json::from_slice(body).map_err(error)
}

/// Asks one for the trace of its last events. Another one may have just done so.
pub fn trace(path: &Path) -> Result<Vec<u8>, ClientError> {
    let mut attempts = 0;
    loop {
        let answer = open(path, "/trace").and_then(read_all);
        let answer = answer.map_err(|source| ClientError::Socket {
            path: path.to_owned(),
            source,
        })?;
        attempts += 1;
        match body(&answer) {
            Ok(body) => return Ok(body.to_vec()),
            Err(reason) if reason != TOO_OFTEN || attempts == ATTEMPTS => {
                return Err(ClientError::Trace {
                    path: path.to_owned(),
                    reason,
                })
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Sends a request.
pub fn open(path: &Path, target: &str) -> io::Result<UnixStream> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // Also for the connection, if too many wait already.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(LIMIT))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let mut stream = UnixStream::from(socket);
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())?;
    Ok(stream)
}

fn read_all(mut stream: UnixStream) -> io::Result<Vec<u8>> {
    let end = Instant::now() + LIMIT;
    let mut answer = Vec::new();
    let mut bytes = [0; 16384];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || answer.len() as u64 > ANSWER_MAX {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(&bytes[..count]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into())
            }
            Err(e) => return Err(e),
        }
    }
}

/// The body of an answer that is one.
pub fn body(answer: &[u8]) -> Result<&[u8], String> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(answer) {
        Ok(httparse::Status::Complete(length)) if response.code == Some(200) => {
            let body = &answer[length..];
            let wanted = response.headers.iter().find_map(|header| {
                let of_it = header.name.eq_ignore_ascii_case("content-length");
                of_it.then(|| std::str::from_utf8(header.value).ok()?.parse().ok())?
            });
            match wanted {
                Some(wanted) if body.len() < wanted => Err("the answer ends too early".to_owned()),
                _ => Ok(body),
            }
        }
        Ok(httparse::Status::Complete(_)) => {
            Err(format!("status {}", response.code.unwrap_or_default()))
        }
        Ok(httparse::Status::Partial) => Err("the answer ends too early".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_answer_that_is_wrong_brings_nothing_to_the_terminal_but_a_line() {
        let phase = format!(r"\u001b[31m\n{}", "x".repeat(1000));
        let body = format!(
            r#"{{"version":1,"program":"x","pid":1,"uptime_s":0,"connected":true,"connections":0,
            "resets":0,"phase":"{phase}"}}"#
        );
        let reason = parse(body.as_bytes()).unwrap_err();
        assert!(reason.starts_with("unknown variant `[31mxxx"), "{reason}");
        assert_eq!(reason.chars().count(), REASON_MAX);
        assert!(!reason.contains(char::is_control), "{reason}");
    }
}
