// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A test's model of the kernel's fault file, for a process that is to end at any place.
//!
//! It is a SOCK_SEQPACKET socket, which is readable while there are faults. The process asks for
//! them, and hands over answers, over a socket that it sends at first, so that no process finds the
//! results of another one: a packet of one byte asks, another one has answers; the reply is the
//! number of bytes, or an errno. What was asked for is the next packet of the first socket.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    net::{
        recv, send, sendmsg, socketpair, sockopt, AddressFamily, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    },
};
use vm_memory::VolatileSlice;

use super::fault_file::FaultIo;
use crate::{lock::lock, recovery::fail::CALLS, sys};

/// The model's file.
pub struct ModelFile {
    fd: Arc<OwnedFd>,
    requests: OwnedFd,
}

impl ModelFile {
    /// Whether it is one.
    pub fn is_one(fd: BorrowedFd<'_>) -> bool {
        matches!(sockopt::socket_type(fd), Ok(SocketType::SEQPACKET))
    }

    /// Begins to use it.
    pub fn new(fd: Arc<OwnedFd>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (requests, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [theirs.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(
            &fd,
            &[IoSlice::new(&[0])],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(Self { fd, requests })
    }
}

impl ModelFile {
    fn ask(&self, packet: &[u8]) -> io::Result<usize> {
        send(&self.requests, packet, SendFlags::NOSIGNAL)?;
        let mut result = [0; size_of::<i64>()];
        recv(&self.requests, &mut result, RecvFlags::empty())?;
        let result = i64::from_le_bytes(result);
        usize::try_from(result).map_err(|_| {
            let errno = i32::try_from(-result).unwrap_or(libc::EIO);
            io::Error::from_raw_os_error(errno)
        })
    }
}

impl FaultIo for ModelFile {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let _call = lock(&CALLS);
        if self.ask(&[0])? == 0 {
            return Ok(0);
        }
        Ok(recv(&self.fd, buf, RecvFlags::DONTWAIT)?.0)
    }

    fn read_shared(&self, memory: &VolatileSlice<'_>) -> io::Result<usize> {
        let _call = lock(&CALLS);
        if self.ask(&[0])? == 0 {
            return Ok(0);
        }
        sys::recv_shared(&self.fd, memory)
    }

    fn write(&self, buf: &[u8]) -> io::Result<usize> {
        let _call = lock(&CALLS);
        self.ask(buf)
    }

    fn readable(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default()))?;
        Ok(fds[0].revents().contains(PollFlags::IN))
    }
}
