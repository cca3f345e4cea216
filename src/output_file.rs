// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Files that a tool makes as a whole: what was there stays until all of the new one is written.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{fchown, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::sys;

/// Makes an output that is as large as it may be an error, instead of the end of the process.
pub fn limit_is_an_error() -> io::Result<()> {
    sys::block_signals(&[libc::SIGXFSZ])
}

/// Writes the file, or replaces the one that is there.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    limit_is_an_error()?;
    let there = match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        there => Some(there?),
    };
    let Some(there) = there else {
        if fs::symlink_metadata(path).is_ok() {
            return Err(other("it is a symbolic link that leads nowhere"));
        }
        return beside(path, bytes, None);
    };
    let kind = there.file_type();
    if !kind.is_file() && !kind.is_char_device() {
        return Err(other(if kind.is_fifo() {
            "it is a FIFO, which has to be a file"
        } else if kind.is_dir() {
            "it is a directory"
        } else {
            "it is not a file"
        }));
    }
    // Without waiting; and only who may write to it may replace it.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file = OpenOptions::new()
        .write(true)
        .custom_flags(flags)
        .open(path)?;
    if !kind.is_file() {
        return file.write_all(bytes);
    }
    match beside(&fs::canonicalize(path)?, bytes, Some(&file)) {
        // Whose folder may not be written.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            file.write_all(bytes)?;
            file.set_len(bytes.len() as u64)
        }
        done => done,
    }
}

fn other(text: &str) -> io::Error {
    io::Error::other(text.to_owned())
}

/// Writes another file in the same folder, which then takes the place of the one at `path`.
fn beside(path: &Path, bytes: &[u8], before: Option<&File>) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let new = New(folder.join(format!(".vhost-user-vsva.{}", std::process::id())));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&new.0)?;
    if let Some(before) = before {
        let before = before.metadata()?;
        // Only root can give it to its owner.
        let _ = fchown(&file, Some(before.uid()), Some(before.gid()));
        file.set_permissions(before.permissions())?;
    }
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new.0, path)
}

/// A file that is removed unless it has another name meanwhile.
struct New(PathBuf);

impl Drop for New {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{symlink, PermissionsExt};

    use rustix::fs::{mknodat, FileType, Mode, CWD};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().flatten();
        let mut names: Vec<_> = names
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn test_file_that_is_there_is_replaced_with_its_mode_through_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let [file, link] = ["file", "link"].map(|name| dir.path().join(name));
        fs::write(&file, "before").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
        symlink("file", &link).unwrap();
        let mut reader = File::open(&file).unwrap();

        write(&link, b"after").unwrap();

        assert_eq!(fs::read(&file).unwrap(), b"after");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o604);
        assert_eq!(names(dir.path()), ["file", "link"]);
        // Whoever reads it has all of the one or of the other.
        assert_eq!(io::read_to_string(&mut reader).unwrap(), "before");
    }

    #[test]
    fn test_what_is_no_file_is_refused_at_once_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let [fifo, folder, nowhere] =
            ["fifo", "folder", "nowhere"].map(|name| dir.path().join(name));
        mknodat(CWD, &fifo, FileType::Fifo, Mode::from(0o600), 0).unwrap();
        fs::create_dir(&folder).unwrap();
        symlink("missing", &nowhere).unwrap();
        for (path, reason) in [
            (&fifo, "a FIFO"),
            (&folder, "a directory"),
            (&nowhere, "leads nowhere"),
        ] {
            let error = write(path, b"x").unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        write(Path::new("/dev/null"), b"x").unwrap();
        write(Path::new("/dev/full"), b"x").unwrap_err();
        assert_eq!(names(dir.path()), ["fifo", "folder", "nowhere"]);
    }
}
