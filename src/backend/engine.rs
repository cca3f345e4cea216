// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The engine thread: fault channels, the attach channel and the drain's deadline.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Mutex,
    },
    thread::{self, JoinHandle},
};

use epoll::Events;
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
};

use super::{
    attach::{
        service::{AttachFailure, AttachFds},
        socket::{AttachSocket, Received},
    },
    published::shared_memory::SharedMemory,
    shell::Shell,
    wait::{
        poller::{Interest, Ready, BATCH},
        wake::Wake,
    },
};
use crate::{
    core::{AttachError, Attachment, HoldError},
    error::Error,
    lock::lock,
    wire::{
        AttachPacket, AttachReply, AttachRequest, AttachType, UnholdRequest, ATTACH_FLAG_OWNER,
        ATTACH_FLAG_PRI, ATTACH_FLAG_RECOVER, ATTACH_FLAG_VEVENTQ,
    },
};

const TOKEN_WAKE: u64 = u64::MAX;
const TOKEN_TIMER: u64 = u64::MAX - 1;
const TOKEN_ATTACH: u64 = u64::MAX - 2;
/// Added to the type of a request, it is the type of the reply.
const REPLY: u32 = 0x100;
/// How long the thread may take to end.
const END_LIMIT_S: i64 = 3;

/// The engine as the other threads see it.
pub struct Engine {
    shell: Arc<Shell>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    ended: Wake,
}

/// Says that the engine has ended, for whatever reason.
struct SaysEnded(Wake);

impl Drop for SaysEnded {
    fn drop(&mut self) {
        self.0.set();
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// The attach channel. Held while a request is being served.
    attach: Mutex<Option<AttachSocket>>,
}

impl Engine {
    /// Starts the thread.
    pub fn start(shell: Arc<Shell>) -> Result<Self, Error> {
        let failed = Error::system;
        let poller = shell.poller();
        poller
            .add(shell.timer(), TOKEN_TIMER, Interest::Read)
            .and_then(|()| poller.add(shell.wake(), TOKEN_WAKE, Interest::Read))
            .map_err(failed("Cannot set up epoll"))?;
        let shared = Arc::new(Shared::default());
        let ended = Wake::new().map_err(failed("Cannot create an eventfd"))?;
        let says_ended = ended
            .try_clone()
            .map(SaysEnded)
            .map_err(failed("Cannot create an eventfd"))?;
        let thread = {
            let worker = Worker {
                shell: shell.clone(),
                shared: shared.clone(),
            };
            thread::Builder::new()
                .name("vsva-engine".to_owned())
                .spawn(move || {
                    let _says_ended = says_ended;
                    worker.run();
                })
                .map_err(failed("Cannot start the engine thread"))?
        };
        Ok(Engine {
            shell,
            shared,
            thread: Some(thread),
            ended,
        })
    }

    /// Set when the thread has ended.
    pub fn ended(&self) -> &Wake {
        &self.ended
    }

    /// Opens a new attach channel in place of the one there was; the result is the front end's end.
    pub fn open_attach_channel(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = AttachSocket::pair()?;
        let mut attach = lock(&self.shared.attach);
        close_attach(&self.shell, &mut attach);
        self.shell
            .poller()
            .add(&ours, TOKEN_ATTACH, Interest::Read)?;
        *attach = Some(ours);
        Ok(theirs)
    }

    /// Closes the attach channel. When this returns, no request of it has an effect any more.
    pub fn close_attach_channel(&self) {
        close_attach(&self.shell, &mut lock(&self.shared.attach));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shell.wake().set();
        // Whatever holds it, the process ends.
        let mut fds = [PollFd::new(&self.ended, PollFlags::IN)];
        let limit = Timespec {
            tv_sec: END_LIMIT_S,
            tv_nsec: 0,
        };
        if poll(&mut fds, Some(&limit)) != Ok(1) {
            log::error!("the engine thread does not end");
            return;
        }
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            log::error!("the engine thread has panicked");
        }
    }
}

fn close_attach(shell: &Shell, attach: &mut Option<AttachSocket>) {
    if let Some(old) = attach.take() {
        if let Err(e) = shell.poller().remove(&old) {
            log::error!("attach channel: epoll: {e}");
        }
    }
}

struct Worker {
    shell: Arc<Shell>,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(&self) {
        let mut ready = Vec::with_capacity(BATCH);
        while !self.shared.stop.load(Ordering::Acquire) {
            if let Err(e) = self.shell.poller().wait(&mut ready) {
                log::error!("the engine cannot wait for events, faults are not served: {e}");
                break;
            }
            for ready in &ready {
                self.serve(*ready);
            }
        }
    }

    fn serve(&self, ready: Ready) {
        match ready.token {
            TOKEN_WAKE => {
                self.shell.wake().clear();
                self.shell.settle();
            }
            TOKEN_TIMER => {
                let mut expirations = [0; 8];
                // Nothing to read: the timer has been set anew in the meantime.
                if rustix::io::read(self.shell.timer(), &mut expirations) != Err(Errno::AGAIN) {
                    self.shell.tick();
                }
            }
            TOKEN_ATTACH => self.serve_attach(),
            token => {
                let failed = ready.events.intersects(Events::EPOLLERR | Events::EPOLLHUP);
                let readable = failed || ready.events.contains(Events::EPOLLIN);
                let writable = failed || ready.events.contains(Events::EPOLLOUT);
                self.shell.channel_ready(token, readable, writable);
            }
        }
    }

    fn serve_attach(&self) {
        let mut attach = lock(&self.shared.attach);
        let Some(socket) = &*attach else { return };
        let reply = match socket.receive() {
            Ok(Received::Request(request, fds)) => self.answer(&request, fds),
            Ok(Received::Malformed(request, text)) => {
                reply(&request, Errno::INVAL.raw_os_error(), text)
            }
            Ok(Received::Nothing) => return,
            Ok(Received::Closed) => return close_attach(&self.shell, &mut attach),
            Err(e) => {
                log::error!("attach channel: {e}");
                return close_attach(&self.shell, &mut attach);
            }
        };
        if let Err(e) = socket.send(&reply) {
            log::error!("attach channel: cannot reply, the front end does not read: {e}");
            close_attach(&self.shell, &mut attach);
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
        self.shell.settle();
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
        self.shell.share(Some(memory));
        Ok(())
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
