// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One channel that is open: its descriptors, and what the engine waits for on each.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        Arc, Mutex,
    },
};

use super::{fault_file::FaultFile, recover, veventq::EventQueue};
use crate::{
    backend::wait::poller::{Interest, Poller},
    lock::lock,
    recovery::{image::SavedChannel, inbox::Inbox},
};

/// A fault channel and its companions.
pub struct OpenChannel {
    /// Its number, which the front end chose.
    pub number: u32,
    /// For the poller; what is read and written is the business of `faults`.
    pub fd: Watched<Arc<OwnedFd>>,
    /// Faults and answers.
    pub faults: FaultFile,
    /// Cleared with reader and writer at rest: its number means another channel from then on.
    pub open: AtomicBool,
    /// The core wants no faults of it for now.
    pub read_blocked: AtomicBool,
    /// The socket had no room for the next answer.
    pub write_blocked: AtomicBool,
    /// What the poller has been told.
    pub interest: Mutex<Interest>,
    /// Becomes readable when the process that owns the devices ends.
    pub owner: Option<Watched<OwnedFd>>,
    /// The vEVENTQ, if one came with a device.
    pub records: Mutex<Option<Arc<Records>>>,
    /// Number of its inbox, [`NO_INBOX`] if it has none.
    inbox: AtomicUsize,
    /// Records of its vEVENTQ were lost with a process that has ended.
    pub records_lost: AtomicBool,
    /// What was left in its inbox.
    recovered: Mutex<Option<SavedChannel>>,
}

const NO_INBOX: usize = usize::MAX;

/// Something that the engine waits for.
pub struct Watched<T> {
    /// By which the poller names it.
    pub token: u64,
    /// The descriptor.
    pub fd: T,
}

/// A vEVENTQ that came with a device of a channel, and lives as long as the channel.
pub struct Records {
    /// The queue.
    pub queue: Watched<EventQueue>,
}

/// What one of the descriptors of a channel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Faults and answers.
    Faults,
    /// The end of the process that owns the devices.
    Owner,
    /// The vEVENTQ.
    Records,
}

impl OpenChannel {
    /// A channel over `faults`, whose descriptor is `fd`.
    pub fn new(
        number: u32,
        fd: Watched<Arc<OwnedFd>>,
        faults: FaultFile,
        owner: Option<Watched<OwnedFd>>,
    ) -> Self {
        OpenChannel {
            number,
            fd,
            faults,
            open: AtomicBool::new(true),
            read_blocked: AtomicBool::new(false),
            write_blocked: AtomicBool::new(false),
            interest: Mutex::new(Interest::Read),
            owner,
            records: Mutex::default(),
            inbox: AtomicUsize::new(NO_INBOX),
            records_lost: AtomicBool::new(false),
            recovered: Mutex::default(),
        }
    }

    /// Its records come into `inbox` from now on, which has what `saved` says.
    pub fn use_inbox(&self, inbox: Inbox, saved: Option<SavedChannel>) {
        self.inbox.store(inbox.slot, Ordering::Relaxed);
        let lost = saved.as_ref().is_some_and(|saved| saved.records_lost);
        self.records_lost.store(lost, Ordering::Relaxed);
        self.faults.use_inbox(inbox, saved.as_ref());
        *lock(&self.recovered) = saved;
    }

    /// What was left in its inbox when it was opened, before it is served.
    pub fn recovered(&self) -> Option<SavedChannel> {
        lock(&self.recovered).take()
    }

    /// Number of its inbox, if it has one.
    pub fn inbox(&self) -> Option<usize> {
        Some(self.inbox.load(Ordering::Relaxed)).filter(|slot| *slot != NO_INBOX)
    }

    /// Gives up its inbox, and what is in it if it is to be forgotten. Returns its number.
    pub fn leave_inbox(&self, forget: bool) -> Option<usize> {
        let slot = self.inbox.swap(NO_INBOX, Ordering::Relaxed);
        let slot = Some(slot).filter(|slot| *slot != NO_INBOX);
        if slot.is_some() {
            self.faults.leave_inbox(forget);
        }
        slot
    }

    /// Whether its number still means it.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether it was open, and is not any more. Call this with reader and writer at rest.
    pub fn close(&self) -> bool {
        self.open.swap(false, Ordering::Relaxed)
    }

    /// Aborts the faults that a former back-end has read, and says how many there were.
    pub fn abort_left_over(&self) -> io::Result<u32> {
        recover::abort_left_over(&self.fd.fd)
    }

    /// Says whether the core wants faults of it.
    pub fn block_reads(&self, blocked: bool, poller: &Poller) {
        if self.read_blocked.swap(blocked, Ordering::Relaxed) != blocked {
            self.update_interest(poller);
        }
    }

    /// Says whether the socket has no room for answers.
    pub fn block_writes(&self, blocked: bool, poller: &Poller) {
        if self.write_blocked.swap(blocked, Ordering::Relaxed) != blocked {
            self.update_interest(poller);
        }
    }

    fn update_interest(&self, poller: &Poller) {
        let mut interest = lock(&self.interest);
        // Read under the lock, or an older wish of another thread could be the last to be granted.
        let wanted = Interest::new(
            !self.read_blocked.load(Ordering::Relaxed),
            self.write_blocked.load(Ordering::Relaxed),
        );
        if *interest == wanted {
            return;
        }
        *interest = wanted;
        match poller.modify(&self.fd.fd, self.fd.token, wanted) {
            // Removed in the meantime.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => log::error!("fault channel {}: epoll: {e}", self.number),
            Ok(()) => {}
        }
    }
}
