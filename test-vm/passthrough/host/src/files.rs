// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Files of the machine, those of sysfs and debugfs among them.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// So much is read at once.
const CHUNK: u64 = 256 * 1024;

/// What is in it from that offset on, at most CHUNK bytes, and the offset of what follows. Bytes
/// that are no UTF-8 are replaced.
pub fn read(path: &Path, offset: u64) -> io::Result<(String, u64)> {
    let mut file = named(File::open(path), path)?;
    // Files of sysfs are read from their beginning.
    if offset > 0 {
        file.seek(SeekFrom::Start(offset))?;
    }
    let mut bytes = Vec::new();
    let count = named(file.take(CHUNK).read_to_end(&mut bytes), path)?;
    let end = offset + u64::try_from(count).map_err(io::Error::other)?;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), end))
}

pub fn write(path: &Path, text: &str) -> io::Result<()> {
    named(fs::write(path, text), path)
}

pub fn list(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in named(fs::read_dir(path), path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Empty if there is no such link.
pub fn link(path: &Path) -> io::Result<String> {
    match fs::read_link(path) {
        Ok(target) => Ok(target
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => named(Err(error), path),
    }
}

pub fn load_module(path: &Path, options: &str) -> io::Result<()> {
    let file = named(File::open(path), path)?;
    let options = CString::new(options)?;
    named(
        rustix::system::finit_module(&file, &options, 0).map_err(io::Error::from),
        path,
    )
}

fn named<T>(result: io::Result<T>, path: &Path) -> io::Result<T> {
    result.map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}
