// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The front end's ring memory (SET_MEM_TABLE).

use std::{fs::File, io};

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::backend::sealed::{self, Unfit};

/// Refuses memory that can be, or become, shorter than it is mapped.
pub fn check(memory: &GuestMemoryMmap) -> io::Result<()> {
    for (number, region) in memory.iter().enumerate() {
        let offset = region.file_offset().ok_or(io::ErrorKind::InvalidInput)?;
        check_file(offset.file(), offset.start(), region.len())
            .map_err(|e| io::Error::new(e.kind(), format!("memory region {number}: {e}")))?;
    }
    Ok(())
}

fn check_file(file: &File, offset: u64, size: u64) -> io::Result<()> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    sealed::require(file, offset.saturating_add(size)).map_err(|e| match e {
        Unfit::NotSealed => invalid("the file is no memfd with F_SEAL_SHRINK".into()),
        Unfit::Short { found } => invalid(format!(
            "{size} bytes from {offset} on, of a file of {found} bytes"
        )),
        Unfit::File(e) => e,
    })
}

#[cfg(test)]
mod tests {
    use rustix::fs::{fcntl_add_seals, memfd_create, MemfdFlags, SealFlags};
    use vm_memory::{FileOffset, GuestAddress};

    use super::*;

    fn memfd(seals: SealFlags) -> File {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("rings", flags).unwrap());
        file.set_len(8192).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file
    }

    fn check_one(file: File, size: usize, offset: u64) -> io::Result<()> {
        let range = (
            GuestAddress(0x1000),
            size,
            Some(FileOffset::new(file, offset)),
        );
        check(&GuestMemoryMmap::from_ranges_with_files([range]).unwrap())
    }

    #[test]
    fn test_memory_beyond_its_file_is_refused() {
        for (size, offset) in [(8193, 0), (8192, 4096), (4096, 1 << 40)] {
            let error = check_one(memfd(SealFlags::SHRINK), size, offset);
            let text = error.unwrap_err().to_string();
            assert!(text.contains("of a file of 8192 bytes"), "{text}");
        }
    }

    #[test]
    fn test_memory_that_can_shrink_is_refused() {
        let error = check_one(memfd(SealFlags::GROW), 8192, 0).unwrap_err();
        assert!(error.to_string().contains("F_SEAL_SHRINK"), "{error}");
    }

    #[test]
    fn test_file_that_is_no_memfd_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        check_one(file, 8192, 0).unwrap_err();
    }

    #[test]
    fn test_memory_within_its_sealed_file_is_accepted() {
        check_one(memfd(SealFlags::SHRINK), 4096, 4096).unwrap();
    }
}
