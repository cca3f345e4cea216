// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What kind of anonymous inode a descriptor of the front end is.
//!
//! fstat() shows nothing for any of them; their names are in procfs only.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd},
};

/// The name that the kernel has for what is open, such as `anon_inode:[eventfd]`.
pub fn name_of(fd: impl AsFd) -> io::Result<String> {
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    Ok(fs::read_link(link)?.to_string_lossy().into_owned())
}

/// Refuses what is not an eventfd: a write to it could block for other reasons than a full counter.
pub fn require_eventfd(fd: impl AsFd) -> io::Result<()> {
    // Without procfs nobody can tell, and what blocks is interrupted all the same.
    let Ok(name) = name_of(fd) else {
        return Ok(());
    };
    if name == "anon_inode:[eventfd]" {
        return Ok(());
    }
    let text = format!("the descriptor is not an eventfd but {name}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}
