// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Devices come and go, and with them their channels.

use std::{
    fmt::{self, Display},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{atomic::AtomicBool, Arc, Mutex},
};

use rustix::{
    io::Errno,
    net::getpeername,
    process::{waitid, WaitId, WaitIdOptions},
};

use crate::{
    backend::{
        channels::{
            channel::{Channel, Watched},
            fault_file::{ChannelKind, FaultChannel},
            recover,
        },
        shell::Shell,
        wait::poller::Interest,
    },
    core::{AttachError, Attachment, DetachError, HoldError},
    lock::lock,
    wire::LostReason,
};

/// What comes with ATTACH.
#[derive(Debug, Default)]
pub struct AttachFds {
    /// The fault channel, if it is new.
    pub faults: Option<OwnedFd>,
    /// A vEVENTQ.
    pub veventq: Option<OwnedFd>,
    /// A pidfd of the process that owns the devices.
    pub owner: Option<OwnedFd>,
    /// Another back-end may have read faults from the channel.
    pub recover: bool,
}

/// Why a device could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachFailure {
    /// The core refused it.
    #[error("{0}")]
    Refused(#[from] crate::core::AttachError),
    /// A descriptor cannot be used.
    #[error("{}: {}", .0, why(.1))]
    Descriptor(FdRole, #[source] io::Error),
    /// A new channel needs a descriptor.
    #[error("channel {0} is new: no fault fd came")]
    NoDescriptor(u32),
    /// An existing channel has one.
    #[error("channel {0} exists: no fault fd then")]
    ExtraDescriptor(u32),
    /// An existing channel has an owner, and its faults are known.
    #[error("channel {0} exists: no OWNER/RECOVER")]
    NotNew(u32),
    /// It has one.
    #[error("channel {0} has a vEVENTQ")]
    SecondVeventq(u32),
    /// Only the kernel's faults outlive a back-end.
    #[error("channel {0} is a socket: no RECOVER")]
    NotRecoverable(u32),
}

/// Which descriptor of ATTACH it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdRole {
    /// The fault channel.
    Faults,
    /// The vEVENTQ.
    Veventq,
    /// The process that owns the devices.
    Owner,
}

impl Display for FdRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Faults => "fault fd",
            Self::Veventq => "vEVENTQ fd",
            Self::Owner => "owner fd",
        })
    }
}

/// An error of the system by its number, as its text may be longer than a reply has room for.
pub fn why(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(errno) => format!("error {errno}"),
        None => error.to_string(),
    }
}

/// Refuses what is no pidfd; the process may be any.
fn check_pidfd(fd: BorrowedFd<'_>) -> io::Result<()> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::PidFd(fd), options) {
        Err(Errno::BADF) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no pidfd",
        )),
        // A child, or nobody's child of ours.
        _ => Ok(()),
    }
}

impl Shell {
    /// Attaches a device to an existing channel, or to a new one made from `fd`.
    ///
    /// Returns how many faults of a former back-end were aborted.
    pub fn attach(&self, desc: &Attachment, fds: AttachFds) -> Result<u32, AttachFailure> {
        let number = desc.channel;
        self.forget_lost(number);
        let mut channels = lock(&self.channels);
        let existing = channels.get(&number).cloned();
        match (&existing, &fds.faults) {
            (Some(_), Some(_)) => return Err(AttachFailure::ExtraDescriptor(number)),
            (None, None) => return Err(AttachFailure::NoDescriptor(number)),
            (Some(_), None) if fds.owner.is_some() || fds.recover => {
                return Err(AttachFailure::NotNew(number))
            }
            (Some(channel), None) if fds.veventq.is_some() && lock(&channel.events).is_some() => {
                return Err(AttachFailure::SecondVeventq(number))
            }
            _ => {}
        }
        let unusable = |role| move |e| AttachFailure::Descriptor(role, e);
        if let Some(owner) = &fds.owner {
            check_pidfd(owner.as_fd()).map_err(unusable(FdRole::Owner))?;
        }
        let events = fds.veventq.map(|fd| self.new_events(desc.device, fd));
        let events = events.transpose().map_err(unusable(FdRole::Veventq))?;
        let mut recovered = 0;
        let channel = match (existing, fds.faults) {
            (Some(channel), _) => {
                // With nobody in the middle of losing it.
                channel.faults.at_rest(|| {
                    if !channel.is_open() {
                        return Err(AttachFailure::NoDescriptor(number));
                    }
                    Ok(self.step(|core, now| core.attach(desc, now))?)
                })?;
                channel
            }
            (None, None) => return Err(AttachFailure::NoDescriptor(number)),
            (None, Some(fd)) => {
                let channel = self
                    .new_channel(number, fd, fds.owner)
                    .map_err(unusable(FdRole::Faults))?;
                let kernel = channel.faults.kind() == ChannelKind::Kernel;
                if fds.recover && !kernel {
                    return Err(AttachFailure::NotRecoverable(number));
                }
                self.step(|core, now| {
                    core.attach(desc, now)?;
                    if kernel {
                        core.set_kernel_channel(number);
                    }
                    Ok::<(), AttachError>(())
                })?;
                let watched = if fds.recover {
                    recover::abort_left_over(&channel.fd)
                } else {
                    Ok(0)
                };
                recovered = watched
                    .and_then(|recovered| self.watch(&channel).map(|()| recovered))
                    .map_err(unusable(FdRole::Faults))
                    .inspect_err(|_| {
                        // Only just attached, and nobody has read a fault: nothing is lost.
                        let _ = self.step(|core, now| core.detach(desc.device, now));
                    })?;
                Arc::make_mut(&mut channels).insert(number, channel.clone());
                channel
            }
        };
        if let Some(events) = events {
            let queue = &events.queue;
            if let Err(e) = self.poller.add(&queue.fd, queue.token, Interest::Read) {
                log::error!("fault channel {number}: the vEVENTQ is not served: epoll: {e}");
            } else {
                *lock(&channel.events) = Some(Arc::new(events));
            }
        }
        Ok(recovered)
    }

    /// A channel that another thread has given up, and is about to forget, is no channel to join.
    fn forget_lost(&self, number: u32) {
        let known = lock(&self.channels).get(&number).cloned();
        let lost = known.filter(|channel| channel.faults.at_rest(|| !channel.is_open()));
        if let Some(channel) = lost {
            self.remove(&channel);
        }
    }

    fn watch(&self, channel: &Channel) -> io::Result<()> {
        self.poller
            .add(&channel.fd, channel.token, Interest::Read)?;
        let Some(owner) = &channel.owner else {
            return Ok(());
        };
        self.poller
            .add(&owner.fd, owner.token, Interest::Read)
            .inspect_err(|_| {
                // Added a moment ago.
                let _ = self.poller.remove(&channel.fd);
            })
    }

    /// Detaches a device. When this returns, all its faults have been answered, as far as the channel
    /// takes answers.
    pub fn detach(&self, device: u32) -> Result<(), DetachError> {
        self.step(|core, now| core.detach(device, now))?;
        self.settle();
        self.close_unused();
        Ok(())
    }

    /// Detaches all devices and forgets everything else. When this returns, no channel is left: what it did not take of
    /// its last answers is dropped with it. The event ring is disabled and the attach channel closed; the shared
    /// memory is given up.
    pub fn reset(&self) {
        self.share(None);
        self.step(|core, now| core.reset(now));
        self.settle();
        self.close_unused();
        for channel in self.channels().values() {
            let text = "it does not take the answers that a reset has left to it";
            self.lose(channel, LostReason::Io, &text);
        }
    }

    /// The front end is about to change the page table of a device. When this returns, its channel is neither read
    /// nor written until [`Self::unhold`].
    pub fn hold(&self, device: u32) -> Result<(), HoldError> {
        let channel = self.channel_of(device)?;
        channel
            .faults
            .at_rest(|| self.step(|core, now| core.hold(device, now)))
    }

    /// The page table has been changed; `aborted`: the kernel has aborted all faults of the device.
    pub fn unhold(&self, device: u32, aborted: bool) -> Result<(), HoldError> {
        let channel = self.channel_of(device)?;
        let unhold = || self.step(|core, now| core.unhold(device, aborted, now));
        let result = match self.step(|core, _| core.channel_of(device)) {
            Some((_, dev_id)) if aborted => channel.faults.discard(dev_id, unhold),
            _ => channel.faults.at_rest(unhold),
        };
        self.settle();
        result
    }

    fn channel_of(&self, device: u32) -> Result<Arc<Channel>, HoldError> {
        self.step(|core, _| core.channel_of(device))
            .and_then(|(number, _)| lock(&self.channels).get(&number).cloned())
            .ok_or(HoldError::NotAttached { device })
    }

    /// Refuses the other end of a connection to this process: held here, it would not end when the front end does.
    fn check_not_own(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let peer = getpeername(fd).ok().flatten();
        if peer.is_some() && peer.as_ref() == self.address.get() {
            let text = "it is the vhost-user socket";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(())
    }

    fn new_channel(
        &self,
        number: u32,
        fd: OwnedFd,
        owner: Option<OwnedFd>,
    ) -> io::Result<Arc<Channel>> {
        self.check_not_own(fd.as_fd())?;
        let fd = Arc::new(fd);
        Ok(Arc::new(Channel {
            number,
            token: self.new_token(),
            faults: FaultChannel::new(fd.clone())?,
            fd,
            open: AtomicBool::new(true),
            read_blocked: AtomicBool::new(false),
            write_blocked: AtomicBool::new(false),
            interest: Mutex::new(Interest::Read),
            owner: owner.map(|fd| Watched {
                token: self.new_token(),
                fd,
            }),
            events: Mutex::default(),
        }))
    }
}

#[cfg(test)]
mod tests;
