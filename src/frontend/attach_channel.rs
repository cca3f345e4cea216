// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The front end's end of the attach channel.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
    net::{recv, sendmsg, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
};
use zerocopy::{FromBytes, IntoBytes};

use super::{FrontendError, SharedMemory};
pub use crate::core::Attachment;
use crate::wire::{
    AttachPacket, AttachReply, AttachRequest, AttachType, UnholdRequest, ATTACH_FLAG_OWNER,
    ATTACH_FLAG_PRI, ATTACH_FLAG_RECOVER, ATTACH_FLAG_VEVENTQ, ATTACH_PACKET_SIZE, DEVICE_NONE,
    U32,
};

const MAX_FDS: usize = 16;

/// What can come with a device, besides its fault channel. The default is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Companions<'a> {
    /// The fault channel, if it is new.
    pub fault_fd: Option<BorrowedFd<'a>>,
    /// A vEVENTQ of the device's vIOMMU, one for each fault channel.
    pub veventq: Option<BorrowedFd<'a>>,
    /// A pidfd of the process that owns the devices of a new channel. When that process ends, the
    /// kernel aborts their faults, which shows nowhere else: the back-end then gives up the channel
    /// by itself.
    pub owner: Option<BorrowedFd<'a>>,
    /// Whether another back-end may have read faults from the new channel: they are aborted first.
    pub recover: bool,
}

/// The channel over which fault descriptors are handed to the back-end.
pub struct AttachChannel {
    socket: OwnedFd,
    seq: u32,
    timeout: Duration,
}

impl AttachChannel {
    pub(super) fn new(socket: OwnedFd, timeout: Duration) -> Self {
        Self {
            socket,
            seq: 0,
            timeout,
        }
    }

    /// Attaches a device, with the descriptor of its fault channel if the channel is new.
    ///
    /// A reply means that the back-end serves the device's faults.
    pub fn attach(
        &mut self,
        attachment: &Attachment,
        fault_fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), FrontendError> {
        let companions = Companions {
            fault_fd,
            ..Companions::default()
        };
        self.attach_with(attachment, &companions).map(|_| ())
    }

    /// The same with whatever else belongs to the device. The result is what the back-end has to
    /// say about it.
    pub fn attach_with(
        &mut self,
        attachment: &Attachment,
        companions: &Companions<'_>,
    ) -> Result<String, FrontendError> {
        let request = AttachRequest {
            vsid: U32::new(attachment.vsid),
            iommufd_dev_id: U32::new(attachment.dev_id),
            channel: U32::new(attachment.channel),
            max_outstanding: U32::new(attachment.max_outstanding),
        };
        let mut packet = AttachPacket::new(AttachType::Attach, attachment.device, &request);
        let flags = [
            (attachment.pri, ATTACH_FLAG_PRI),
            (companions.veventq.is_some(), ATTACH_FLAG_VEVENTQ),
            (companions.owner.is_some(), ATTACH_FLAG_OWNER),
            (companions.recover, ATTACH_FLAG_RECOVER),
        ];
        let flags = flags
            .into_iter()
            .filter_map(|(set, flag)| set.then_some(flag));
        packet.flags = U32::new(flags.fold(0, |all, flag| all | flag));
        let fds = [companions.fault_fd, companions.veventq, companions.owner];
        let fds: Vec<BorrowedFd<'_>> = fds.into_iter().flatten().collect();
        self.request(packet, &fds)
    }

    /// Detaches a device. A reply means that nothing more will be written for it to its fault
    /// channel.
    pub fn detach(&mut self, device: u32) -> Result<(), FrontendError> {
        let packet = AttachPacket::new::<[u8; 0]>(AttachType::Detach, device, &[]);
        self.request(packet, &[]).map(|_| ())
    }

    /// Tells that the page table of a device is about to change. A reply means that the back-end
    /// answers none of the faults of the device's channel until [`Self::unhold`].
    pub fn hold(&mut self, device: u32) -> Result<(), FrontendError> {
        let packet = AttachPacket::new::<[u8; 0]>(AttachType::Hold, device, &[]);
        self.request(packet, &[]).map(|_| ())
    }

    /// Tells that the page table has been changed, by which the kernel has aborted all faults of
    /// the device, or not.
    pub fn unhold(&mut self, device: u32, aborted: bool) -> Result<(), FrontendError> {
        let payload = UnholdRequest {
            aborted: U32::new(aborted.into()),
        };
        let packet = AttachPacket::new(AttachType::Unhold, device, &payload);
        self.request(packet, &[]).map(|_| ())
    }

    /// Hands over memory that both sides share. A reply means that it tells the back-end's status
    /// from now on.
    pub fn share_memory(&mut self, memory: &SharedMemory) -> Result<(), FrontendError> {
        let packet = AttachPacket::new(AttachType::SharedMemory, DEVICE_NONE, &memory.request());
        self.request(packet, &[memory.as_fd()]).map(|_| ())
    }

    /// Sends a request and waits for its reply, the text of which is the result.
    pub fn request(
        &mut self,
        mut packet: AttachPacket,
        fds: &[BorrowedFd<'_>],
    ) -> Result<String, FrontendError> {
        self.seq = self.seq.wrapping_add(1);
        packet.seq = U32::new(self.seq);
        self.send(packet.as_bytes(), fds)?;
        let reply = self.receive()?;
        if reply.seq != packet.seq || reply.kind.get() != packet.kind.get().wrapping_add(0x100) {
            return Err(FrontendError::Protocol(format!(
                "attach channel: {reply:?} is no reply to {packet:?}"
            )));
        }
        let reply: AttachReply = reply.payload();
        match i32::try_from(reply.status.get()) {
            Ok(0) => Ok(reply.text()),
            status => Err(FrontendError::Refused {
                errno: Errno::from_raw_os_error(status.unwrap_or(libc::EPROTO)),
                text: reply.text(),
            }),
        }
    }

    /// Sends a packet of any length.
    pub fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), FrontendError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(FrontendError::Protocol("too many descriptors".to_owned()));
        }
        sendmsg(
            &self.socket,
            &[IoSlice::new(packet)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
        .map_err(FrontendError::system("attach channel"))?;
        Ok(())
    }

    /// Waits for a packet of the back-end.
    pub fn receive(&self) -> Result<AttachPacket, FrontendError> {
        let timeout = Timespec {
            tv_sec: i64::try_from(self.timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(self.timeout.subsec_nanos()),
        };
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        loop {
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Err(FrontendError::Timeout("answer on the attach channel")),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(e) => return Err(FrontendError::system("attach channel")(e)),
            }
        }
        let mut bytes = [0; ATTACH_PACKET_SIZE];
        let (len, _) = recv(&self.socket, &mut bytes[..], RecvFlags::empty())
            .map_err(FrontendError::system("attach channel"))?;
        if len == 0 {
            let closed = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(FrontendError::system("attach channel")(closed));
        }
        AttachPacket::read_from_bytes(&bytes[..len]).map_err(|_| {
            FrontendError::Protocol(format!("attach channel: a packet of {len} bytes"))
        })
    }
}

impl AsFd for AttachChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
