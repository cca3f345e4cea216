// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory of the front end that can be mapped: its file is, and stays, as long as the mapping.
//!
//! An access to a page behind the end of its file is SIGBUS, so no file may be shorter than what is
//! mapped of it, nor become so.

use std::{io, os::fd::AsFd};

use rustix::fs::{fcntl_get_seals, fstat, SealFlags};

/// Why a file cannot be mapped.
#[derive(Debug)]
pub enum Unfit {
    /// It is no memfd, or could become shorter.
    NotSealed,
    /// It is shorter.
    Short {
        /// Its length.
        found: u64,
    },
    /// It cannot be examined.
    File(io::Error),
}

/// Refuses a file that can be, or become, shorter than `length`.
pub fn require(file: impl AsFd, length: u64) -> Result<(), Unfit> {
    // Before its length is looked at, or it could shrink in between.
    if !fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK)) {
        return Err(Unfit::NotSealed);
    }
    let found = fstat(&file).map_err(|e| Unfit::File(e.into()))?.st_size;
    let found = u64::try_from(found).unwrap_or(0);
    if found < length {
        return Err(Unfit::Short { found });
    }
    Ok(())
}
