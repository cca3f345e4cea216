// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The files of the event log and the trace.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::{fcntl_getfl, fcntl_setfl, OFlags};

use crate::{
    backend::{events::EventLog, published::now_ns},
    config::{Config, ConfigError},
    error::Error,
    trace::Tracer,
};

/// Opens both, and changes neither before it is clear that they are two.
pub fn open(config: &Config) -> Result<(EventLog, EventLog), Error> {
    let event_log = config.event_log.as_deref().map(|path| {
        open_file(path).map_err(|source| Error::EventLog {
            path: path.to_owned(),
            source,
        })
    });
    let event_log = event_log.transpose()?;
    let trace = config.trace.as_deref().map(|path| {
        let failed = |source| Error::Trace {
            path: path.to_owned(),
            source,
        };
        let file = open_file(path).map_err(failed)?;
        if let Some(other) = &event_log {
            if are_one(other, &file).map_err(failed)? {
                return Err(Error::from(ConfigError::SameFile(path.to_owned())));
            }
        }
        if file.metadata().map_err(failed)?.is_file() {
            file.set_len(0).map_err(failed)?;
        }
        Ok(file)
    });
    let trace = trace.transpose()?;
    let torn = config.event_log.as_deref().is_some_and(is_torn);
    let tracer = || Tracer::new("vhost-user-vsva", std::process::id(), now_ns());
    Ok((
        event_log.map_or_else(EventLog::default, |file| EventLog::new(file, torn)),
        trace.map_or_else(EventLog::default, |file| EventLog::trace(file, tracer())),
    ))
}

/// Whether what is written to the one comes between what is written to the other.
fn are_one(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    let kept = !one.file_type().is_char_device();
    Ok(kept && (one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// Whether the last line of a log, which another process has written, has no end. If that cannot be
/// seen, it is taken to have one.
fn is_torn(path: &Path) -> bool {
    let is_file = fs::metadata(path).is_ok_and(|it| it.is_file() && it.len() > 0);
    let mut last = [0];
    is_file
        && File::open(path).is_ok_and(|mut file| {
            file.seek(SeekFrom::End(-1)).is_ok() && file.read_exact(&mut last).is_ok()
        })
        && last != *b"\n"
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|it| it.file_type().is_socket())
}

/// Opens a file to append to, or a FIFO, without waiting for its reader.
fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .create(true)
        .append(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = match options.open(path) {
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) && is_socket(path) => {
            return Err(io::Error::other("it is a socket, and has to be a file"));
        }
        // A FIFO that nobody reads yet; its own reader, the process has one.
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => options.read(true).open(path)?,
        result => result?,
    };
    // The thread that writes to it may wait.
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}
