// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The attach channel is served: each request has its effect, then its reply.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
};

use rustix::io::Errno;

use super::{
    devices::{AttachFailure, AttachFds},
    socket::{AttachSocket, Received},
};
use crate::{
    backend::{
        published::shared_memory::SharedMemory, recovery, shell::Shell, wait::poller::Interest,
    },
    core::{AttachError, Attachment, HoldError},
    lock::lock,
    recovery::point,
    wire::{
        AttachPacket, AttachReply, AttachRequest, AttachType, UnholdRequest, ATTACH_FLAG_OWNER,
        ATTACH_FLAG_PRI, ATTACH_FLAG_RECOVER, ATTACH_FLAG_VEVENTQ,
    },
};

/// Added to the type of a request, it is the type of the reply.
const REPLY: u32 = 0x100;

/// The attach channel, if there is one.
pub struct AttachService {
    shell: Arc<Shell>,
    /// By which the engine's poller names it.
    token: u64,
    /// Held while a request is being served.
    socket: Mutex<Option<AttachSocket>>,
}

impl AttachService {
    /// A service without a channel.
    pub fn new(shell: Arc<Shell>, token: u64) -> Self {
        AttachService {
            shell,
            token,
            socket: Mutex::default(),
        }
    }

    /// Opens a new channel in place of the one there was; the result is the front end's end.
    pub fn open(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = AttachSocket::pair()?;
        let mut socket = lock(&self.socket);
        self.forget(&mut socket);
        self.shell.poller.add(&ours, self.token, Interest::Read)?;
        *socket = Some(ours);
        Ok(theirs)
    }

    /// Closes the channel. When this returns, no request of it has an effect any more.
    pub fn close(&self) {
        self.forget(&mut lock(&self.socket));
    }

    /// Serves the next request, if there is one.
    pub fn serve(&self) {
        let mut slot = lock(&self.socket);
        let Some(socket) = &*slot else { return };
        let reply = match socket.receive() {
            Ok(Received::Request(request, fds)) => {
                point("request");
                let reply = self.answer(&request, fds);
                point("replying");
                reply
            }
            Ok(Received::Malformed(request, text)) => {
                reply(&request, Errno::INVAL.raw_os_error(), text)
            }
            Ok(Received::Nothing) => return,
            Ok(Received::Closed) => return self.forget(&mut slot),
            Err(e) => {
                log::error!("attach channel: {e}");
                return self.forget(&mut slot);
            }
        };
        if let Err(e) = socket.send(&reply) {
            log::error!("attach channel: cannot reply, the front end does not read: {e}");
            self.forget(&mut slot);
        }
    }

    fn forget(&self, socket: &mut Option<AttachSocket>) {
        if let Some(old) = socket.take() {
            if let Err(e) = self.shell.poller.remove(&old) {
                log::error!("attach channel: epoll: {e}");
            }
        }
    }

    fn answer(&self, request: &AttachPacket, fds: Vec<OwnedFd>) -> AttachPacket {
        let device = request.device.get();
        let result = match request.attach_type() {
            Some(AttachType::Attach) => match self.attach(request, fds) {
                Ok(0) => Ok(()),
                Ok(recovered) => {
                    let text = format!("{recovered} left-over faults aborted");
                    log::warn!("device {device}: {text}");
                    return reply(request, 0, &text);
                }
                Err(e) => Err(e),
            },
            Some(AttachType::SharedMemory) => self.share_memory(request, fds),
            Some(AttachType::Detach | AttachType::Hold | AttachType::Unhold) if !fds.is_empty() => {
                Err((Errno::INVAL, "it takes no file descriptor".to_owned()))
            }
            Some(AttachType::Detach) => self
                .shell
                .detach(device)
                .map_err(|e| (Errno::NODEV, e.to_string())),
            Some(AttachType::Hold) => self.shell.hold(device).map_err(hold_failed),
            Some(AttachType::Unhold) => {
                let payload: UnholdRequest = request.payload();
                let aborted = payload.aborted.get() != 0;
                self.shell.unhold(device, aborted).map_err(hold_failed)
            }
            _ => Err((
                Errno::INVAL,
                format!("unknown request {}", request.kind.get()),
            )),
        };
        match result {
            Ok(()) => reply(request, 0, ""),
            Err((errno, text)) => {
                log::error!("request {} for device {device}: {text}", request.kind.get());
                reply(request, errno.raw_os_error(), &text)
            }
        }
    }

    fn attach(&self, packet: &AttachPacket, fds: Vec<OwnedFd>) -> Result<u32, (Errno, String)> {
        let flags = packet.flags.get();
        let fds = sort_fds(flags, fds)?;
        let request: AttachRequest = packet.payload();
        let desc = Attachment {
            device: packet.device.get(),
            vsid: request.vsid.get(),
            dev_id: request.iommufd_dev_id.get(),
            channel: request.channel.get(),
            max_outstanding: request.max_outstanding.get(),
            pri: flags & ATTACH_FLAG_PRI != 0,
        };
        let recovered = self
            .shell
            .attach(&desc, fds)
            .map_err(|e| (errno(&e), e.to_string()))?;
        Ok(recovered)
    }

    fn share_memory(
        &self,
        packet: &AttachPacket,
        fds: Vec<OwnedFd>,
    ) -> Result<(), (Errno, String)> {
        let [fd] = <[OwnedFd; 1]>::try_from(fds).map_err(|fds| {
            let text = format!("{} descriptors, not 1", fds.len());
            (Errno::INVAL, text)
        })?;
        let memory =
            SharedMemory::map(fd, &packet.payload()).map_err(|e| (e.errno(), e.to_string()))?;
        self.shell
            .share_memory(memory)
            .map_err(|e| (recovery::errno(&e), e.to_string()))
    }
}

/// Tells the descriptors of ATTACH apart by its flags; only the fault channel's may be missing.
fn sort_fds(flags: u32, fds: Vec<OwnedFd>) -> Result<AttachFds, (Errno, String)> {
    let flagged = |flag| usize::from(flags & flag != 0);
    let named = flagged(ATTACH_FLAG_VEVENTQ) + flagged(ATTACH_FLAG_OWNER);
    let found = fds.len();
    if !(named..=named + 1).contains(&found) {
        let text = format!("{found} descriptors, not {named} or {}", named + 1);
        return Err((Errno::INVAL, text));
    }
    let mut fds = fds.into_iter();
    let mut next = |wanted: bool| if wanted { fds.next() } else { None };
    Ok(AttachFds {
        faults: next(found > named),
        veventq: next(flags & ATTACH_FLAG_VEVENTQ != 0),
        owner: next(flags & ATTACH_FLAG_OWNER != 0),
        recover: flags & ATTACH_FLAG_RECOVER != 0,
    })
}

fn errno(failure: &AttachFailure) -> Errno {
    match failure {
        AttachFailure::Refused(AttachError::DeviceNumber { .. }) => Errno::INVAL,
        AttachFailure::Refused(_) => Errno::EXIST,
        AttachFailure::NoDescriptor(_)
        | AttachFailure::ExtraDescriptor(_)
        | AttachFailure::NotNew(_) => Errno::INVAL,
        AttachFailure::SecondVeventq(_) => Errno::EXIST,
        AttachFailure::NotRecoverable(_) => Errno::OPNOTSUPP,
        AttachFailure::Descriptor(_, e) => Errno::from_io_error(e).unwrap_or(Errno::INVAL),
    }
}

fn hold_failed(error: HoldError) -> (Errno, String) {
    let errno = match error {
        HoldError::NotAttached { .. } => Errno::NODEV,
        HoldError::NotKernel { .. } => Errno::OPNOTSUPP,
        HoldError::AlreadyHeld { .. } => Errno::ALREADY,
        HoldError::NotHeld { .. } => Errno::INVAL,
    };
    (errno, error.to_string())
}

fn reply(request: &AttachPacket, status: i32, text: &str) -> AttachPacket {
    let status = u32::try_from(status).unwrap_or(u32::MAX);
    let mut reply = AttachPacket::new(
        AttachType::AttachReply,
        request.device.get(),
        &AttachReply::new(status, text),
    );
    reply.kind.set(request.kind.get().wrapping_add(REPLY));
    reply.seq = request.seq;
    reply
}
