// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A timer that is set to a point of the core's time.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        atomic::{AtomicU64, Ordering},
        Mutex,
    },
};

use rustix::{
    io::Errno,
    time::{
        timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags,
        TimerfdTimerFlags, Timespec,
    },
};

use crate::{backend::published::NS_PER_S, lock::lock};

/// A timer that wakes at a deadline.
pub struct Timer {
    fd: OwnedFd,
    /// What it is set to; 0: nothing.
    armed: AtomicU64,
    setting: Mutex<()>,
}

impl Timer {
    /// A timer that is not set.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Timer {
            fd: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            armed: AtomicU64::new(0),
            setting: Mutex::new(()),
        })
    }

    /// Sets it to `deadline`, unless it is. `latest` is asked when it is not, as another thread may
    /// know better.
    pub fn set(&self, deadline: Option<u64>, latest: impl FnOnce() -> Option<u64>) {
        if self.armed.load(Ordering::Relaxed) == deadline.unwrap_or(0) {
            return;
        }
        // Whoever comes last sets it to what is right then.
        let _setting = lock(&self.setting);
        let deadline = latest().unwrap_or(0);
        if self.armed.swap(deadline, Ordering::Relaxed) == deadline {
            return;
        }
        let spec = Itimerspec {
            it_interval: timespec(0),
            it_value: timespec(deadline),
        };
        if let Err(e) = timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &spec) {
            log::error!("cannot set the timer of the drain's deadline: {e}");
        }
    }

    /// Whether it has woken; it may have been set anew in the meantime.
    pub fn take(&self) -> bool {
        rustix::io::read(&self.fd, &mut [0; 8]) != Err(Errno::AGAIN)
    }

    /// It has woken, and is not set any more.
    pub fn expired(&self) {
        self.armed.store(0, Ordering::Relaxed);
    }
}

fn timespec(ns: u64) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(ns / NS_PER_S).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(ns % NS_PER_S).unwrap_or(0),
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
