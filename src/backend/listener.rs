// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The listening socket: made here, inherited, or from systemd.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use rustix::net::{
    connect, socket_with, sockopt, AddressFamily, SocketAddrUnix, SocketFlags, SocketType,
};

use super::systemd;
use crate::{config::Listen, error::Error, sys};

/// Descriptors that serving a connection takes, with those that it brings.
const CONNECTION_FDS: usize = 24;

/// A listening socket, and its file if we have made it.
pub struct Socket {
    listener: UnixListener,
    file: Option<SocketFile>,
    /// Given up for a moment to hang up on a connection when there is no other descriptor left.
    spare: Option<OwnedFd>,
}

impl Socket {
    /// Opens or takes over the socket. Must be called before any other descriptor is opened.
    pub fn open(listen: Option<&Listen>) -> Result<Self, Error> {
        match listen {
            Some(Listen::Path(path)) => {
                let (listener, file) = bind(path)?;
                Self::new(listener, Some(file))
            }
            Some(Listen::Fd(fd)) => Self::new(adopt(*fd)?, None),
            None => Self::new(adopt(systemd::socket_fd()?)?, None),
        }
    }

    fn new(listener: UnixListener, file: Option<SocketFile>) -> Result<Self, Error> {
        let failed = Error::system("Cannot set up the vhost-user socket");
        // A client may be gone by the time it is accepted.
        listener.set_nonblocking(true).map_err(failed)?;
        let spare = listener.as_fd().try_clone_to_owned().ok();
        Ok(Socket {
            listener,
            file,
            spare,
        })
    }

    /// Accepts the connection that is waiting, if there are descriptors to serve it.
    pub fn accept(&self) -> Result<UnixStream, Error> {
        let failed = Error::system("Cannot serve a connection");
        let room = (0..CONNECTION_FDS).try_fold(Vec::new(), |mut room, _| {
            room.push(self.listener.as_fd().try_clone_to_owned()?);
            Ok(room)
        });
        drop(room.map_err(failed)?);
        // It does not inherit O_NONBLOCK.
        self.listener
            .accept()
            .map(|(stream, _)| stream)
            .map_err(Error::system("Cannot accept a connection"))
    }

    /// Hangs up on the connection that is waiting. Returns whether there is none any more.
    pub fn refuse(&mut self) -> bool {
        self.spare = None;
        let gone = match self.listener.accept() {
            Ok(_) => true,
            Err(e) => e.kind() == io::ErrorKind::WouldBlock,
        };
        self.spare = self.listener.as_fd().try_clone_to_owned().ok();
        gone
    }

    /// The path of the socket file that is removed when this is dropped.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// A socket file of ours.
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have put its own socket there meanwhile.
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == self.identity);
        if !ours {
            return;
        }
        if let Err(e) = fs::remove_file(&self.path) {
            log::warn!("cannot remove {:?}: {e}", self.path);
        }
    }
}

fn bind(path: &Path) -> Result<(UnixListener, SocketFile), Error> {
    let failed = |source| Error::Bind {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(Error::NotASocket(path.to_owned()));
        }
        // Left behind by a process that was killed, unless somebody listens.
        Ok(_) => match try_connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(failed)?;
            }
            // EAGAIN: as many as it takes are waiting to be accepted.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::InUse(path.to_owned()))
            }
            Ok(()) => return Err(Error::InUse(path.to_owned())),
            Err(e) => return Err(failed(e)),
        },
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let identify = |path: &Path| fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()));
    let mut file = SocketFile {
        path: path.to_owned(),
        identity: identify(path).map_err(failed)?,
    };
    file.path = fs::canonicalize(path).map_err(failed)?;
    Ok((listener, file))
}

fn try_connect(path: &Path) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(connect(&socket, &SocketAddrUnix::new(path)?)?)
}

fn adopt(number: RawFd) -> Result<UnixListener, Error> {
    let refused = |reason: String| Error::ListenFd { fd: number, reason };
    let fd = sys::adopt_fd(number)
        .map_err(|e| refused(format!("{e}; was the program started with it?")))?;
    let unix_stream = sockopt::socket_domain(&fd) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(&fd) == Ok(SocketType::STREAM);
    if !unix_stream {
        return Err(refused("it is not a UNIX stream socket".to_owned()));
    }
    match sockopt::socket_acceptconn(&fd) {
        Ok(true) => Ok(UnixListener::from(fd)),
        Ok(false) => Err(refused(
            "it is a connected socket, and only a listening one can be served; pass the listening socket, or use --socket-path".to_owned(),
        )),
        Err(e) => Err(refused(e.to_string())),
    }
}
