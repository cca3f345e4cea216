// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory that the front end shares with the back-end: whether it can be used, and the status block
//! in it.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{fcntl_get_seals, fstatfs, SealFlags},
    io::Errno,
};
use thiserror::Error;
use vm_memory::{mmap::MmapRegionError, Bytes, FileOffset, MmapRegion, VolatileMemory};
use zerocopy::{FromZeros, IntoBytes};

use crate::{
    backend::sealed::{self, Unfit},
    error::short,
    seqlock::{StatusCell, StatusWriter},
    wire::{
        MemoryHeader, SharedMemoryRequest, StatusBlock, MEMORY_HEADER_SIZE, MEMORY_HEADER_SIZE_MIN,
        MEMORY_MAGIC, MEMORY_SIZE_MAX, MEMORY_SIZE_MIN, MEMORY_VERSION, STATUS_ALIGN,
        STATUS_ROOM_MIN,
    },
};

/// `f_type` of a memfd of ordinary pages (`include/uapi/linux/magic.h`).
const TMPFS_MAGIC: u32 = 0x0102_1994;

/// Why memory cannot be shared. A reply has room for 44 bytes.
#[derive(Debug, Error)]
pub enum SharedMemoryError {
    /// It could not be examined or mapped.
    #[error("cannot map the memory: {}", short(.0))]
    Map(#[from] io::Error),
    /// Something else, or large pages, of which there may be none when one is touched.
    #[error("no memfd of ordinary pages")]
    NotMemfd,
    /// It could become smaller than what is mapped.
    #[error("F_SEAL_SHRINK is missing")]
    NotSealed,
    /// Its seals do not let anybody write.
    #[error("its seals forbid to write")]
    ReadOnly,
    /// The size is out of range.
    #[error("{0} B, not 4096 to 1 GiB")]
    Size(u64),
    /// The memory is smaller than it is said to be.
    #[error("{found} bytes, not {claimed}")]
    Short {
        /// Size in the request.
        claimed: u64,
        /// Size of the memory.
        found: u64,
    },
    /// Request and header disagree.
    #[error("header {header}, not {request}")]
    SizeDiffers {
        /// Size in the header.
        header: u64,
        /// Size in the request.
        request: u64,
    },
    /// It does not begin with a header.
    #[error("header: magic {0:#x}")]
    Magic(u64),
    /// It is laid out in another way.
    #[error("header: layout version {0}, not 1")]
    Version(u32),
    /// Request and header disagree.
    #[error("header: another generation")]
    Generation,
    /// The header is too small.
    #[error("header: {0} bytes long, less than 64")]
    HeaderSize(u32),
    /// The status block is not within the memory, or not aligned, or has too little room.
    #[error("no status block at {offset:#x}+{room:#x}")]
    StatusPlace {
        /// Where it should be.
        offset: u32,
        /// Room for it.
        room: u32,
    },
}

impl SharedMemoryError {
    /// What the reply says.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Map(e) => Errno::from_io_error(e).unwrap_or(Errno::IO),
            Self::NotMemfd => Errno::BADF,
            Self::NotSealed | Self::ReadOnly => Errno::PERM,
            Self::Size(_) | Self::Short { .. } | Self::SizeDiffers { .. } => Errno::MSGSIZE,
            Self::Version(_) => Errno::OPNOTSUPP,
            Self::Magic(_) | Self::Generation | Self::HeaderSize(_) | Self::StatusPlace { .. } => {
                Errno::PROTO
            }
        }
    }
}

/// Memory that both sides share.
pub struct SharedMemory {
    status: StatusWriter,
    memory: Arc<MmapRegion>,
    header: MemoryHeader,
}

impl SharedMemory {
    /// Maps the memory, after it is certain that no access can fail.
    pub fn map(fd: OwnedFd, request: &SharedMemoryRequest) -> Result<Self, SharedMemoryError> {
        let size = request.size.get();
        check_size(&fd, size)?;
        let mapped = usize::try_from(size).map_err(|_| SharedMemoryError::Size(size))?;
        let file = FileOffset::new(File::from(fd), 0);
        let memory = MmapRegion::from_file(file, mapped).map_err(|e| match e {
            MmapRegionError::Mmap(e) => e,
            _ => io::Error::other("no such range"),
        })?;
        // A copy: what the front end does to the header later has no effect.
        let mut header = MemoryHeader::new_zeroed();
        memory
            .get_slice(0, MEMORY_HEADER_SIZE)
            .and_then(|slice| slice.read_slice(header.as_mut_bytes(), 0))
            .map_err(|_| io::Error::other("no header"))?;
        check_header(&header, request)?;
        let memory = Arc::new(memory);
        let (offset, room) = (header.status_offset.get(), header.status_room.get());
        let cell = usize::try_from(offset).ok();
        let cell = cell.and_then(|offset| StatusCell::new(memory.clone(), offset));
        let cell = cell.ok_or(SharedMemoryError::StatusPlace { offset, room })?;
        Ok(SharedMemory {
            status: StatusWriter::new(cell),
            memory,
            header,
        })
    }

    /// The header, and the memory, if there is a recovery area in it.
    pub fn recovery(&self) -> Option<(MemoryHeader, Arc<MmapRegion>)> {
        let has = self.header.header_size.get() as usize >= MEMORY_HEADER_SIZE
            && self.header.recovery_offset.get() != 0;
        has.then(|| (self.header, self.memory.clone()))
    }

    /// Writes the status block. No system call, no allocation.
    pub fn publish(&mut self, status: &StatusBlock) {
        self.status.store(status);
    }
}

fn check_size(fd: impl AsFd, size: u64) -> Result<(), SharedMemoryError> {
    let is_tmpfs = |fs: &rustix::fs::StatFs| u32::try_from(fs.f_type) == Ok(TMPFS_MAGIC);
    let seals = match fcntl_get_seals(&fd) {
        Ok(seals) if fstatfs(&fd).is_ok_and(|fs| is_tmpfs(&fs)) => seals,
        _ => return Err(SharedMemoryError::NotMemfd),
    };
    if seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
        return Err(SharedMemoryError::ReadOnly);
    }
    if !(MEMORY_SIZE_MIN..=MEMORY_SIZE_MAX).contains(&size) {
        return Err(SharedMemoryError::Size(size));
    }
    sealed::require(&fd, size).map_err(|e| match e {
        Unfit::NotSealed => SharedMemoryError::NotSealed,
        Unfit::Short { found } => SharedMemoryError::Short {
            claimed: size,
            found,
        },
        Unfit::File(e) => SharedMemoryError::Map(e),
    })
}

fn check_header(
    header: &MemoryHeader,
    request: &SharedMemoryRequest,
) -> Result<(), SharedMemoryError> {
    if header.magic.get() != MEMORY_MAGIC {
        return Err(SharedMemoryError::Magic(header.magic.get()));
    }
    // First of all that follows, as another version may mean another header.
    if header.version.get() != MEMORY_VERSION {
        return Err(SharedMemoryError::Version(header.version.get()));
    }
    if header.total_size != request.size {
        return Err(SharedMemoryError::SizeDiffers {
            header: header.total_size.get(),
            request: request.size.get(),
        });
    }
    if header.generation != request.generation {
        return Err(SharedMemoryError::Generation);
    }
    let header_size = header.header_size.get();
    if u64::from(header_size) < MEMORY_HEADER_SIZE_MIN as u64 {
        return Err(SharedMemoryError::HeaderSize(header_size));
    }
    let (offset, room) = (header.status_offset.get(), header.status_room.get());
    let end = u64::from(offset) + u64::from(room);
    let aligned = offset % STATUS_ALIGN == 0 && room % STATUS_ALIGN == 0;
    if !aligned || room < STATUS_ROOM_MIN || offset < header_size || end > request.size.get() {
        return Err(SharedMemoryError::StatusPlace { offset, room });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::{
        fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags},
        io::write,
    };

    use super::*;
    use crate::wire::{AttachReply, ATTACH_TEXT_SIZE, U32, U64};

    const SIZE: u64 = 8192;

    #[test]
    fn test_text_of_every_refusal_fits_into_a_reply() {
        type E = SharedMemoryError;
        let mut errors = vec![
            E::Map(io::Error::other("no such range")),
            E::Map(io::Error::other("no header")),
            E::NotMemfd,
            E::NotSealed,
            E::ReadOnly,
            E::Size(u64::MAX),
            // Only a size that is in range is compared.
            E::Short {
                claimed: MEMORY_SIZE_MAX,
                found: MEMORY_SIZE_MAX - 1,
            },
            E::SizeDiffers {
                header: u64::MAX,
                request: MEMORY_SIZE_MAX,
            },
            E::Magic(u64::MAX),
            E::Version(u32::MAX),
            E::Generation,
            E::HeaderSize(63),
            E::StatusPlace {
                offset: u32::MAX,
                room: u32::MAX,
            },
        ];
        errors.extend((1..=200).map(|errno| E::Map(io::Error::from_raw_os_error(errno))));

        for error in errors {
            // A new variant belongs into the list above.
            match error {
                E::Map(_)
                | E::NotMemfd
                | E::NotSealed
                | E::ReadOnly
                | E::Size(_)
                | E::Short { .. }
                | E::SizeDiffers { .. }
                | E::Magic(_)
                | E::Version(_)
                | E::Generation
                | E::HeaderSize(_)
                | E::StatusPlace { .. } => {}
            }
            let text = error.to_string();
            assert!(text.len() <= ATTACH_TEXT_SIZE, "{text}");
            assert_eq!(AttachReply::new(1, &text).text(), text);
        }
    }

    fn request() -> SharedMemoryRequest {
        SharedMemoryRequest {
            size: U64::new(SIZE),
            generation: U64::new(3),
        }
    }

    fn header() -> MemoryHeader {
        MemoryHeader {
            magic: U64::new(MEMORY_MAGIC),
            version: U32::new(1),
            header_size: U32::new(64),
            total_size: U64::new(SIZE),
            generation: U64::new(3),
            status_offset: U32::new(64),
            status_room: U32::new(256),
            ..MemoryHeader::new_zeroed()
        }
    }

    fn memfd(header: &MemoryHeader, size: u64, seals: SealFlags) -> OwnedFd {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        write(&fd, header.as_bytes()).unwrap();
        ftruncate(&fd, size).unwrap();
        fcntl_add_seals(&fd, seals).unwrap();
        fd
    }

    fn refused(fd: OwnedFd) -> (Errno, String) {
        let error = SharedMemory::map(fd, &request()).err().unwrap();
        (error.errno(), error.to_string())
    }

    #[test]
    fn test_map_with_wrong_seals_is_refused() {
        let mut found = Vec::new();
        for seals in [
            SealFlags::empty(),
            SealFlags::GROW,
            SealFlags::SHRINK | SealFlags::WRITE,
            SealFlags::SHRINK | SealFlags::FUTURE_WRITE,
        ] {
            found.push(refused(memfd(&header(), SIZE, seals)));
        }

        let missing = (Errno::PERM, "F_SEAL_SHRINK is missing".to_owned());
        let read_only = (Errno::PERM, "its seals forbid to write".to_owned());
        let expected = [&missing, &missing, &read_only, &read_only];
        assert_eq!(found.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn test_map_of_short_memory_is_refused() {
        let error = refused(memfd(&header(), SIZE - 1, SealFlags::SHRINK));

        assert_eq!(error, (Errno::MSGSIZE, "8191 bytes, not 8192".to_owned()));
    }

    #[test]
    fn test_map_of_size_out_of_range_is_refused() {
        for size in [0, 4095, MEMORY_SIZE_MAX + 1, u64::MAX] {
            let mut request = request();
            request.size.set(size);
            let fd = memfd(&header(), SIZE, SealFlags::SHRINK);

            let error = SharedMemory::map(fd, &request).err().unwrap();

            assert!(matches!(error, SharedMemoryError::Size(_)), "{error}");
        }
    }

    #[test]
    fn test_map_of_what_is_no_memfd_is_refused() {
        let (pipe, _writer) = rustix::pipe::pipe().unwrap();
        let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        // Wherever the tests run, one of these is there, and no ordinary file of tmpfs.
        let files = ["/proc/self/status", "/dev/null"].map(File::open);
        let files = files.into_iter().flatten().map(OwnedFd::from);

        for fd in [pipe, eventfd].into_iter().chain(files) {
            let error = refused(fd);
            assert_eq!(
                error,
                (Errno::BADF, "no memfd of ordinary pages".to_owned())
            );
        }
    }

    #[test]
    fn test_map_of_large_pages_is_refused() {
        // The mapping needs pages that are set aside, the file does not.
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
        let Ok(fd) = memfd_create("test", flags) else {
            eprintln!("skipped: the kernel has no large pages");
            return;
        };
        fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();

        assert_eq!(refused(fd).0, Errno::BADF);
    }

    #[test]
    fn test_map_with_unknown_layout_version_is_refused_with_the_version() {
        let mut header = header();
        header.version.set(7);
        // Nothing else of another version is judged.
        header.status_offset.set(1);

        let error = refused(memfd(&header, SIZE, SealFlags::SHRINK));

        let text = "header: layout version 7, not 1".to_owned();
        assert_eq!(error, (Errno::OPNOTSUPP, text));
    }

    #[test]
    fn test_map_with_broken_header_is_refused() {
        type Break = fn(&mut MemoryHeader);
        let breaks: [(Errno, &str, Break); 9] = [
            (Errno::PROTO, "header: magic 0x1", |h| h.magic.set(1)),
            (Errno::PROTO, "header: another generation", |h| {
                h.generation.set(4);
            }),
            (Errno::PROTO, "header: 63 bytes long, less than 64", |h| {
                h.header_size.set(63);
            }),
            (Errno::MSGSIZE, "header 4096, not 8192", |h| {
                h.total_size.set(4096);
            }),
            (Errno::PROTO, "no status block at 0x0+0x100", |h| {
                h.status_offset.set(0);
            }),
            (Errno::PROTO, "no status block at 0x60+0x100", |h| {
                h.status_offset.set(0x60);
            }),
            (Errno::PROTO, "no status block at 0x40+0xc0", |h| {
                h.status_room.set(0xc0);
            }),
            (Errno::PROTO, "no status block at 0x40+0x2000", |h| {
                h.status_room.set(0x2000);
            }),
            (
                Errno::PROTO,
                "no status block at 0xffffffc0+0xffffffc0",
                |h| {
                    h.status_offset.set(0xffff_ffc0);
                    h.status_room.set(0xffff_ffc0);
                },
            ),
        ];
        for (errno, text, break_it) in breaks {
            let mut header = header();
            break_it(&mut header);

            let error = refused(memfd(&header, SIZE, SealFlags::SHRINK));

            assert_eq!(error, (errno, text.to_owned()));
        }
    }
}
