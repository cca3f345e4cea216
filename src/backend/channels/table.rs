// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The channels that are open. They are opened and closed here, and nowhere else.
//!
//! A channel is open from the ATTACH that brings its descriptor until the core has no more use for
//! it ([`crate::core::Job::Close`]), or until it ends, breaks, or loses its owner.

use std::{
    collections::BTreeMap,
    fmt::Display,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc, Mutex, OnceLock,
    },
};

use rustix::net::{getpeername, SocketAddrAny};

use super::{
    fault_file::FaultFile,
    open_channel::{OpenChannel, Records, Role, Watched},
    veventq::EventQueue,
};
use crate::{
    backend::{
        published::SharedCore,
        wait::poller::{Interest, Poller},
    },
    lock::lock,
    wire::LostReason,
};

/// The channels that are open, and the descriptors that the engine waits for on their behalf.
pub struct ChannelTable {
    pub(in crate::backend) core: Arc<SharedCore>,
    pub(super) poller: Arc<Poller>,
    /// Copied when it changes, so that looking into it takes no lock for longer than a moment.
    open: Mutex<Arc<Open>>,
    next_token: AtomicU64,
    /// Of the listening socket.
    own_address: OnceLock<SocketAddrAny>,
}

/// The channels by their number, and by the tokens of their descriptors.
#[derive(Clone, Default)]
pub struct Open {
    /// By number.
    pub by_number: BTreeMap<u32, Arc<OpenChannel>>,
    by_token: BTreeMap<u64, (Arc<OpenChannel>, Role)>,
}

impl ChannelTable {
    /// A table without channels.
    pub fn new(core: Arc<SharedCore>, poller: Arc<Poller>) -> Self {
        ChannelTable {
            core,
            poller,
            open: Mutex::default(),
            next_token: AtomicU64::new(0),
            own_address: OnceLock::new(),
        }
    }

    /// Connections to `address` are the front end's own, and no fault channels.
    pub fn listens_at(&self, address: SocketAddrAny) {
        // Once in the life of the process.
        let _ = self.own_address.set(address);
    }

    /// The channels as they are now.
    pub fn open(&self) -> Arc<Open> {
        lock(&self.open).clone()
    }

    /// The channel with this number.
    pub fn find(&self, number: u32) -> Option<Arc<OpenChannel>> {
        lock(&self.open).by_number.get(&number).cloned()
    }

    /// The channel that has the descriptor with this token, and what the descriptor is for.
    pub fn find_token(&self, token: u64) -> Option<(Arc<OpenChannel>, Role)> {
        lock(&self.open).by_token.get(&token).cloned()
    }

    /// A channel over `fd`. It is not served before [`Self::add`].
    pub fn new_channel(
        &self,
        number: u32,
        fd: OwnedFd,
        owner: Option<OwnedFd>,
    ) -> io::Result<Arc<OpenChannel>> {
        self.check_not_own(fd.as_fd())?;
        let fd = self.watched(Arc::new(fd));
        let faults = FaultFile::new(fd.fd.clone())?;
        let owner = owner.map(|owner| self.watched(owner));
        Ok(Arc::new(OpenChannel::new(number, fd, faults, owner)))
    }

    /// Serves a channel from now on.
    pub fn add(&self, channel: &Arc<OpenChannel>) -> io::Result<()> {
        let fd = &channel.fd;
        self.poller.add(&fd.fd, fd.token, Interest::Read)?;
        if let Some(owner) = &channel.owner {
            self.poller
                .add(&owner.fd, owner.token, Interest::Read)
                .inspect_err(|_| self.forget(&fd.fd))?;
        }
        self.change(|open| {
            open.by_number.insert(channel.number, channel.clone());
            let roles = [(Some(fd.token), Role::Faults)];
            let owner = channel.owner.as_ref().map(|owner| owner.token);
            for (token, role) in roles.into_iter().chain([(owner, Role::Owner)]) {
                if let Some(token) = token {
                    open.by_token.insert(token, (channel.clone(), role));
                }
            }
        });
        Ok(())
    }

    /// A vEVENTQ over `fd`. It is not read before [`Self::add_records`].
    pub fn new_records(&self, fd: OwnedFd) -> io::Result<Records> {
        Ok(Records {
            queue: self.watched(EventQueue::new(fd)?),
        })
    }

    /// Reads a vEVENTQ from now on. Another one of the channel is given up.
    pub fn add_records(&self, channel: &Arc<OpenChannel>, records: Records) -> io::Result<()> {
        let queue = &records.queue;
        let token = queue.token;
        if channel.records_lost.swap(false, Ordering::Relaxed) {
            // There is room, as nothing has been read.
            let _ = self
                .core
                .step(|core, now| core.stage_one_event(channel.number, None, 1, now));
            self.core.records_reading(channel.inbox(), false);
        }
        self.poller.add(&queue.fd, token, Interest::Read)?;
        *lock(&channel.records) = Some(Arc::new(records));
        self.change(|open| {
            open.by_token
                .insert(token, (channel.clone(), Role::Records));
        });
        Ok(())
    }

    /// Gives up the vEVENTQ of a channel.
    pub fn remove_records(&self, channel: &OpenChannel) {
        if let Some(records) = lock(&channel.records).take() {
            self.change(|open| {
                open.by_token.remove(&records.queue.token);
            });
            self.forget(&records.queue.fd);
        }
    }

    /// The channel has ended, for whatever reason: its devices are lost, and it is closed.
    pub fn lose(&self, channel: &OpenChannel, reason: LostReason, error: &dyn Display) {
        let first = channel.faults.at_rest(|| {
            let first = channel.close();
            if first {
                self.core
                    .step(|core, now| core.channel_lost(channel.number, reason, now));
            }
            first
        });
        if first {
            // Its owner closes it when the VM ends. A front end that goes on hears of it by
            // DEVICE_LOST.
            let level = match reason {
                LostReason::Ended => log::Level::Info,
                _ => log::Level::Error,
            };
            log::log!(level, "fault channel {} is lost: {error}", channel.number);
            self.remove(channel);
        }
    }

    /// Closes a channel if the core does not know it any more, or if another thread is about to
    /// close it.
    pub fn close_if_unused(&self, number: u32) {
        let Some(channel) = self.find(number) else {
            return;
        };
        let unused = channel.faults.at_rest(|| {
            let known = self.core.look(|core| core.channel_in_use(number));
            if !known {
                channel.close();
            }
            !channel.is_open()
        });
        if unused {
            self.remove(&channel);
        }
    }

    /// Takes a channel that is not open any more out of the table.
    pub fn remove(&self, channel: &OpenChannel) {
        let mut open = lock(&self.open);
        let same = |other: &Arc<OpenChannel>| other.fd.token == channel.fd.token;
        if !open.by_number.get(&channel.number).is_some_and(same) {
            return;
        }
        let table = Arc::make_mut(&mut open);
        table.by_number.remove(&channel.number);
        table.by_token.retain(|_, (other, _)| !same(other));
        drop(open);
        self.forget(&channel.fd.fd);
        if let Some(owner) = &channel.owner {
            self.forget(&owner.fd);
        }
        if let Some(records) = lock(&channel.records).take() {
            self.forget(&records.queue.fd);
        }
        if let Some(slot) = channel.leave_inbox(true) {
            self.core.close_inbox(slot);
        }
    }

    /// Refuses the other end of a connection to this process: held here, it would not end when the
    /// front end does.
    fn check_not_own(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let peer = getpeername(fd).ok().flatten();
        if peer.is_some() && peer.as_ref() == self.own_address.get() {
            let text = "it is the vhost-user socket";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Open)) {
        change(Arc::make_mut(&mut lock(&self.open)));
    }

    fn watched<T>(&self, fd: T) -> Watched<T> {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        Watched { token, fd }
    }

    fn forget(&self, fd: impl AsFd) {
        if let Err(e) = self.poller.remove(fd) {
            log::error!("epoll: {e}");
        }
    }
}
