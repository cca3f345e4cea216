// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The front end's ring memory (SET_MEM_TABLE).
//!
//! An access to a page behind the end of its file is SIGBUS, so no file may be shorter than what is
//! mapped of it, nor become so.

use std::{fs::File, io};

use rustix::fs::{fcntl_add_seals, fcntl_get_seals, fstat, FileType, SealFlags};
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// Where a region is for the front end, and for the rings.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    user: u64,
    guest: u64,
    size: u64,
}

/// The addresses of the ring memory.
#[derive(Clone, Debug, Default)]
pub struct Addresses(Vec<Mapping>);

impl Addresses {
    /// Where the front end's address is in the rings' memory.
    pub fn translate(&self, user: u64) -> Option<u64> {
        self.0.iter().find_map(|mapping| {
            let offset = user.checked_sub(mapping.user)?;
            (offset < mapping.size).then(|| mapping.guest.checked_add(offset))?
        })
    }
}

/// Maps what the front end has handed over.
pub fn map(
    regions: &[VhostUserMemoryRegion],
    files: Vec<File>,
) -> io::Result<(GuestMemoryMmap, Addresses)> {
    let mut mapped = Vec::with_capacity(regions.len());
    let mut addresses = Addresses::default();
    for (number, (region, file)) in regions.iter().zip(files).enumerate() {
        let (offset, size) = (region.mmap_offset, region.memory_size);
        check_file(&file, offset, size)
            .map_err(|e| io::Error::new(e.kind(), format!("memory region {number}: {e}")))?;
        let length = usize::try_from(size).map_err(io::Error::other)?;
        let mapping = MmapRegion::from_file(FileOffset::new(file, offset), length)
            .map_err(io::Error::other)?;
        let guest = GuestAddress(region.guest_phys_addr);
        mapped.push(GuestRegionMmap::new(mapping, guest).ok_or(io::ErrorKind::InvalidInput)?);
        addresses.0.push(Mapping {
            user: region.user_addr,
            guest: region.guest_phys_addr,
            size,
        });
    }
    let memory = GuestMemoryMmap::from_regions(mapped).map_err(io::Error::other)?;
    Ok((memory, addresses))
}

fn check_file(file: &File, offset: u64, size: u64) -> io::Result<()> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    if FileType::from_raw_mode(fstat(file)?.st_mode) != FileType::RegularFile {
        return Err(invalid("the descriptor is no file that has a size".into()));
    }
    // Before its size is looked at, or it could shrink in between.
    let sealed = fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK))
        || fcntl_add_seals(file, SealFlags::SHRINK).is_ok();
    if !sealed {
        log::warn!(
            "the ring memory is not sealed and cannot be sealed: \
             a front end that shrinks it ends this process"
        );
    }
    let length = u64::try_from(fstat(file)?.st_size).unwrap_or(0);
    if offset.checked_add(size).is_none_or(|end| end > length) {
        return Err(invalid(format!(
            "{size} bytes from {offset} on, of a file of {length} bytes"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::fs::{memfd_create, MemfdFlags};

    use super::*;

    fn memfd(flags: MemfdFlags) -> File {
        let file = File::from(memfd_create("rings", MemfdFlags::CLOEXEC | flags).unwrap());
        file.set_len(8192).unwrap();
        file
    }

    fn map_one(file: &File, size: u64, offset: u64) -> io::Result<(GuestMemoryMmap, Addresses)> {
        let region = VhostUserMemoryRegion::new(0x1000, size, 0x7000_0000, offset);
        map(&[region], vec![file.try_clone().unwrap()])
    }

    #[test]
    fn test_map_beyond_the_file_is_refused() {
        let file = memfd(MemfdFlags::ALLOW_SEALING);
        for (size, offset) in [(8193, 0), (8192, 4096), (4096, u64::MAX - 4095)] {
            let error = map_one(&file, size, offset).unwrap_err().to_string();
            assert!(error.contains("8192 bytes"), "{error}");
        }
    }

    #[test]
    fn test_map_of_something_without_size_is_refused() {
        let file = File::from(rustix::pipe::pipe().unwrap().0);
        map_one(&file, 4096, 0).unwrap_err();
    }

    #[test]
    fn test_map_seals_memory_against_shrinking() {
        let file = memfd(MemfdFlags::ALLOW_SEALING);
        let (_memory, addresses) = map_one(&file, 8192, 0).unwrap();
        file.set_len(0).unwrap_err();
        assert_eq!(addresses.translate(0x7000_0010), Some(0x1010));
        assert_eq!(addresses.translate(0x7000_2000), None);
    }

    #[test]
    fn test_map_of_memory_that_cannot_be_sealed_is_accepted() {
        map_one(&memfd(MemfdFlags::empty()), 8192, 0).unwrap();
    }
}
