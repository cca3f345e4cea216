// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Devices come and go, and with them their channels.

use std::{
    fmt::{self, Display},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    io::Errno,
    process::{waitid, WaitId, WaitIdOptions},
};

use crate::{
    backend::{
        channels::{fault_file::ChannelKind, open_channel::OpenChannel},
        shell::Shell,
    },
    core::{AttachError, Attachment, DetachError, HoldError},
    error::short,
    lock::lock,
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
    #[error("{}: {}", .0, short(.1))]
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
    /// Attaches a device to an existing channel, or to a new one made from the fault fd.
    ///
    /// Returns how many faults of a former back-end were aborted.
    pub fn attach(&self, desc: &Attachment, fds: AttachFds) -> Result<u32, AttachFailure> {
        let number = desc.channel;
        // One that is about to be closed is no channel to join.
        self.channels.close_if_unused(number);
        let existing = self.channels.find(number);
        check_fds(number, existing.as_deref(), &fds)?;
        let unusable = |role| move |e| AttachFailure::Descriptor(role, e);
        if let Some(owner) = &fds.owner {
            check_pidfd(owner.as_fd()).map_err(unusable(FdRole::Owner))?;
        }
        let records = fds.veventq;
        let records = records.map(|fd| self.channels.new_records(fd));
        let records = records.transpose().map_err(unusable(FdRole::Veventq))?;
        let (channel, recovered) = match (existing, fds.faults) {
            (Some(channel), _) => {
                self.join(desc, &channel)?;
                (channel, 0)
            }
            (None, None) => return Err(AttachFailure::NoDescriptor(number)),
            (None, Some(fd)) => {
                let channel = self.channels.new_channel(number, fd, fds.owner);
                let channel = channel.map_err(unusable(FdRole::Faults))?;
                let recovered = self.attach_first(desc, &channel, fds.recover)?;
                (channel, recovered)
            }
        };
        // Now that whoever is told to write its answers finds the channel.
        self.core.step(|core, _| core.claim(desc.device));
        channel.recovered();
        if let Some(records) = records {
            if let Err(e) = self.channels.add_records(&channel, records) {
                log::error!("fault channel {number}: the vEVENTQ is not served: epoll: {e}");
            }
        }
        self.settle();
        Ok(recovered)
    }

    /// Attaches a device to a channel that there is.
    fn join(&self, desc: &Attachment, channel: &OpenChannel) -> Result<(), AttachFailure> {
        // With nobody in the middle of losing it.
        channel.faults.at_rest(|| {
            if !channel.is_open() {
                return Err(AttachFailure::NoDescriptor(desc.channel));
            }
            Ok(self.core.step(|core, now| core.attach(desc, now))?)
        })
    }

    /// Attaches the first device of a new channel, and says how many faults were aborted.
    pub(in crate::backend) fn attach_first(
        &self,
        desc: &Attachment,
        channel: &Arc<OpenChannel>,
        recover: bool,
    ) -> Result<u32, AttachFailure> {
        let kernel = channel.faults.kind() == ChannelKind::Kernel;
        if recover && !kernel {
            return Err(AttachFailure::NotRecoverable(desc.channel));
        }
        self.channels.give_inbox(channel, kernel)?;
        let attached = self.core.step(|core, now| {
            core.attach(desc, now)?;
            if kernel {
                core.set_kernel_channel(desc.channel);
            }
            Ok::<(), AttachError>(())
        });
        attached.inspect_err(|_| self.channels.return_inbox(channel))?;
        let recovered = if recover {
            channel.abort_left_over()
        } else {
            Ok(0)
        };
        recovered
            .and_then(|recovered| self.channels.add(channel).map(|()| recovered))
            .inspect_err(|_| {
                // Only just attached, and nobody has read a fault: nothing is lost.
                let _ = self.core.step(|core, now| core.detach(desc.device, now));
                self.channels.return_inbox(channel);
            })
            .map_err(|e| AttachFailure::Descriptor(FdRole::Faults, e))
    }

    /// Detaches a device. When this returns, all its faults have been answered, as far as the
    /// channel takes answers.
    pub fn detach(&self, device: u32) -> Result<(), DetachError> {
        self.act(|core, now| core.detach(device, now))
    }

    /// The front end is about to change the page table of a device. When this returns, its channel
    /// is neither read nor written until [`Self::unhold`].
    pub fn hold(&self, device: u32) -> Result<(), HoldError> {
        let (channel, _) = self.channel_of(device)?;
        channel
            .faults
            .at_rest(|| self.core.step(|core, now| core.hold(device, now)))
    }

    /// The page table has been changed; `aborted`: the kernel has aborted all faults of the device.
    pub fn unhold(&self, device: u32, aborted: bool) -> Result<(), HoldError> {
        let (channel, dev_id) = self.channel_of(device)?;
        let unhold = || {
            self.core
                .step(|core, now| core.unhold(device, aborted, now))
        };
        let held = || self.core.look(|core| core.is_held(device));
        let result = if aborted {
            channel.faults.discard_if(held, dev_id, unhold)
        } else {
            channel.faults.at_rest(unhold)
        };
        self.settle();
        result
    }

    /// The channel of a device, and the `dev_id` that it has there.
    fn channel_of(&self, device: u32) -> Result<(Arc<OpenChannel>, u32), HoldError> {
        self.core
            .look(|core| core.channel_of(device))
            .and_then(|(number, dev_id)| Some((self.channels.find(number)?, dev_id)))
            .ok_or(HoldError::NotAttached { device })
    }
}

/// Refuses descriptors that do not go with a channel that is new, or exists.
fn check_fds(
    number: u32,
    existing: Option<&OpenChannel>,
    fds: &AttachFds,
) -> Result<(), AttachFailure> {
    match (existing, &fds.faults) {
        (Some(_), Some(_)) => Err(AttachFailure::ExtraDescriptor(number)),
        (None, None) => Err(AttachFailure::NoDescriptor(number)),
        (Some(_), None) if fds.owner.is_some() || fds.recover => Err(AttachFailure::NotNew(number)),
        (Some(channel), None) if fds.veventq.is_some() && lock(&channel.records).is_some() => {
            Err(AttachFailure::SecondVeventq(number))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
