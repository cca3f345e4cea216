// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The attach channel's packets and the descriptors that come with them.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    recvmsg, sendmsg, socketpair, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage,
    RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::wire::{AttachPacket, ATTACH_PACKET_SIZE};

/// More than any request has, so that a wrong number is seen as such.
const MAX_FDS: usize = 8;

/// The back-end's end of the attach channel.
pub struct AttachSocket(OwnedFd);

/// What has come in.
#[derive(Debug)]
pub enum Received {
    /// A request. Its descriptors are closed when they are dropped.
    Request(AttachPacket, Vec<OwnedFd>),
    /// Something that is not a request; what there is of it, and what is wrong with it.
    Malformed(AttachPacket, &'static str),
    /// Nothing for now.
    Nothing,
    /// The front end has closed its end.
    Closed,
}

impl AttachSocket {
    /// A new channel: our end, and the front end's.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((AttachSocket(ours), theirs))
    }

    /// Takes the next packet without waiting.
    pub fn receive(&self) -> io::Result<Received> {
        let mut packet = AttachPacket::new_zeroed();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = match recvmsg(
            &self.0,
            &mut [IoSliceMut::new(packet.as_mut_bytes())],
            &mut control,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(message) => message,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                return Ok(Received::Nothing)
            }
            Err(rustix::io::Errno::CONNRESET) => return Ok(Received::Closed),
            Err(e) => return Err(e.into()),
        };
        let fds: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        Ok(if message.bytes == 0 {
            Received::Closed
        } else if message.flags.contains(ReturnFlags::CTRUNC) {
            Received::Malformed(packet, "too many file descriptors")
        } else if message.bytes != ATTACH_PACKET_SIZE || message.flags.contains(ReturnFlags::TRUNC)
        {
            Received::Malformed(packet, "a request is a packet of 64 bytes")
        } else {
            Received::Request(packet, fds)
        })
    }

    /// Sends a reply without waiting.
    pub fn send(&self, packet: &AttachPacket) -> io::Result<()> {
        sendmsg(
            &self.0,
            &[IoSlice::new(packet.as_bytes())],
            &mut SendAncillaryBuffer::default(),
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }
}

impl AsFd for AttachSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
