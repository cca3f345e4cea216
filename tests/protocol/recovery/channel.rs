// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A fault channel: the device's end, and the descriptor that the front end keeps.

use std::{
    io::{Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use vhost_user_vsva::wire::{PageResponse, PgFault, ResponseCode, PAGE_RESPONSE_SIZE};
use zerocopy::{FromBytes, IntoBytes};

use super::kernel_file::KernelFile;

pub enum Channel {
    Socket { device: UnixStream, fd: OwnedFd },
    Kernel(KernelFile),
}

impl Channel {
    /// Two of emulated devices, and one of the kernel.
    pub fn all() -> [Self; 3] {
        [
            Self::socket(),
            Self::socket(),
            Self::Kernel(KernelFile::new()),
        ]
    }

    fn socket() -> Self {
        let (device, fd) = UnixStream::pair().unwrap();
        device.set_nonblocking(true).unwrap();
        Self::Socket {
            device,
            fd: fd.into(),
        }
    }

    pub fn is_kernel(&self) -> bool {
        matches!(self, Self::Kernel(_))
    }

    /// A group of faults, which the test calls `name`.
    pub fn raise(&mut self, name: u32, records: &[PgFault]) {
        match self {
            Self::Socket { device, .. } => device.write_all(records.as_bytes()).unwrap(),
            Self::Kernel(file) => file.raise(name, records),
        }
    }

    /// The page table of a device is replaced.
    pub fn abort(&self, dev_id: u32) {
        match self {
            Self::Socket { .. } => panic!("an emulated device does not abort"),
            Self::Kernel(file) => file.abort(dev_id),
        }
    }

    /// What has been answered since the last time, by name.
    pub fn take_answers(&mut self) -> Vec<(u32, ResponseCode)> {
        let device = match self {
            Self::Socket { device, .. } => device,
            Self::Kernel(file) => return file.take_answers(),
        };
        let mut answers = Vec::new();
        let mut bytes = [0; PAGE_RESPONSE_SIZE];
        while let Ok(PAGE_RESPONSE_SIZE) = device.read(&mut bytes) {
            let answer = PageResponse::read_from_bytes(&bytes).unwrap();
            let code = match answer.code.get() {
                0 => ResponseCode::Success,
                _ => ResponseCode::Invalid,
            };
            answers.push((answer.cookie.get(), code));
        }
        answers
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket { fd, .. } => fd.as_fd(),
            Self::Kernel(file) => file.as_fd(),
        }
    }
}
