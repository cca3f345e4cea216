// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The one place where an ioctl is made.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// A structure of the kernel's ABI that begins with its own size, so that the kernel never touches
/// memory beyond it.
///
/// # Safety
///
/// The type is `repr(C)`, has no padding that must be kept, and its first field is a `u32` which
/// the kernel takes as the size of the whole. Pointers in it must be to memory that is valid for
/// the call and of the length beside them.
pub unsafe trait Sized32 {
    /// Sets the first field.
    fn set_size(&mut self, size: u32);
}

macro_rules! sized {
    ($field:ident: $($name:path),+ $(,)?) => {
        $(
            // SAFETY: the structure's first field is the size of the whole, see its definition.
            unsafe impl Sized32 for $name {
                fn set_size(&mut self, size: u32) {
                    self.$field = size;
                }
            }
        )+
    };
}

use crate::uapi::{iommufd as i, selftest as s, vfio as v};

sized!(size: i::IoasAlloc, i::IoasMap, i::HwptAlloc, i::HwptInvalidate, i::FaultAlloc,
    i::ViommuAlloc, i::VdeviceAlloc, i::VeventqAlloc, s::TestCmd);
sized!(argsz: v::RegionInfo, v::BindIommufd, v::AttachIommufdPt, v::DetachIommufdPt);

/// Makes the request with `arg` and names it in the error.
pub fn call<T: Sized32>(fd: impl AsFd, name: &str, request: u32, arg: &mut T) -> io::Result<()> {
    arg.set_size(u32::try_from(size_of::<T>()).expect("ABI structures are small"));
    let pointer: *mut T = arg;
    // SAFETY: the kernel reads and writes at most the size in the first field, which is that of T.
    let status = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request.into(), pointer) };
    if status < 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(
            error.kind(),
            Failed {
                name: name.into(),
                error,
            },
        ));
    }
    Ok(())
}

/// An ioctl that failed.
#[derive(Debug)]
struct Failed {
    name: String,
    error: io::Error,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.error)
    }
}

impl std::error::Error for Failed {}
