// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The listening socket: made here, inherited, or from systemd.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    net::{
        accept_with, connect, shutdown, socket_with, sockopt, AddressFamily, Shutdown,
        SocketAddrUnix, SocketFlags, SocketType,
    },
};

use super::systemd;
use crate::{
    config::{ConfigError, Listen},
    error::Error,
    sys,
};

/// Descriptors that serving a connection takes, with those that it brings.
const CONNECTION_FDS: usize = 24;
/// Whoever may use the status socket: its owner, and the group that the folder gives it.
const STATUS_MODE: u32 = 0o660;

/// A listening socket, and its file if we have made it.
pub struct Socket {
    /// For the vhost-user library.
    pub listener: vhost::vhost_user::Listener,
    fd: OwnedFd,
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
        let prepared = listener
            .set_nonblocking(false)
            .and_then(|()| listener.as_fd().try_clone_to_owned());
        let fd = prepared.map_err(failed)?;
        let spare = fd.try_clone().ok();
        Ok(Socket {
            listener: listener.into(),
            fd,
            file,
            spare,
        })
    }

    /// Whether there are descriptors to serve a connection.
    pub fn room_for_a_connection(&self) -> Result<(), Error> {
        let room: io::Result<Vec<_>> = (0..CONNECTION_FDS).map(|_| self.fd.try_clone()).collect();
        room.map(drop)
            .map_err(Error::system("Cannot serve a connection"))
    }

    /// Hangs up on the connection that is waiting. Returns whether there is none any more.
    pub fn refuse(&mut self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec::default())) != Ok(1) {
            return true;
        }
        self.spare = None;
        let gone = accept_with(&self.fd, SocketFlags::CLOEXEC).is_ok();
        self.spare = self.fd.try_clone().ok();
        gone
    }

    /// Takes no connection any more. Whoever wants one is refused, and does not wait.
    pub fn close(&self) -> Result<(), Error> {
        shutdown(&self.fd, Shutdown::Both)
            .map_err(|e| Error::system("Cannot stop listening")(e.into()))
    }

    /// The path of the socket file that is removed when this is dropped.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }
}

/// The status socket.
pub struct StatusSocket {
    listener: UnixListener,
    file: Option<SocketFile>,
}

impl StatusSocket {
    /// Makes it at `path`, else takes over what systemd has passed as such, if it has; `other`: the
    /// file of the vhost-user socket.
    pub fn open(path: Option<&Path>, other: Option<&Path>) -> Result<Option<Self>, Error> {
        let (listener, file) = match path {
            Some(path) => {
                if other.is_some() && fs::canonicalize(path).ok().as_deref() == other {
                    return Err(ConfigError::SameSocket(path.to_owned()).into());
                }
                let (listener, file) = bind(path)?;
                fs::set_permissions(path, fs::Permissions::from_mode(STATUS_MODE)).map_err(
                    |source| Error::Bind {
                        path: path.to_owned(),
                        source,
                    },
                )?;
                (listener, Some(file))
            }
            None => match systemd::status_fd() {
                Some(fd) => (adopt(fd)?, None),
                None => return Ok(None),
            },
        };
        Ok(Some(StatusSocket { listener, file }))
    }

    /// The path of the socket file that is removed at the end.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }

    /// The socket, and the file that is removed when it is dropped.
    pub fn into_parts(self) -> (UnixListener, Option<SocketFile>) {
        (self.listener, self.file)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A socket file of ours.
pub struct SocketFile {
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
    // From here on a failure removes it.
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
            "it is a connected socket, and only a listening one can be served; pass the listening \
             socket, or use --socket-path"
                .to_owned(),
        )),
        Err(e) => Err(refused(e.to_string())),
    }
}
