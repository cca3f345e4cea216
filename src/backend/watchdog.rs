// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The service manager's watchdog (`WatchdogSec=` of systemd): it ends a process that does not say
//! again and again that it goes on.
//!
//! The engine says so, from its own timer: a process that is stopped, an engine that does not come
//! to its timer, or a core whose lock is not given up is silent by itself. It does not say so while
//! the thread of the portal ring is in the same piece of work as at the last tick. So nothing of
//! this is on the way of a fault.

use std::{
    cell::Cell,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixDatagram,
    },
    time::Duration,
};

use rustix::{
    net::{send, SendFlags},
    time::{
        timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags,
        TimerfdTimerFlags, Timespec,
    },
};

/// Ticks within the time after which the service manager ends the process.
const TICKS: u32 = 4;

/// Tells the service manager that the process goes on.
pub struct Watchdog {
    socket: UnixDatagram,
    timer: OwnedFd,
    /// What the thread of the portal ring was in the middle of at the last tick.
    seen: Cell<Option<u64>>,
}

impl Watchdog {
    /// For a service manager that waits for `limit`, and listens at the other end of `socket`.
    pub fn new(socket: UnixDatagram, limit: Duration) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let period = limit / TICKS;
        let period = Timespec {
            tv_sec: i64::try_from(period.as_secs()).unwrap_or(i64::MAX),
            // A timer of 0 never comes.
            tv_nsec: i64::from(period.subsec_nanos().max(1)),
        };
        let spec = Itimerspec {
            it_interval: period,
            it_value: period,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec)?;
        Ok(Watchdog {
            socket,
            timer,
            seen: Cell::new(None),
        })
    }

    /// The timer has come. `portal` is what the thread of the portal ring is in the middle of.
    pub fn tick(&self, portal: Option<u64>) {
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        if self.seen.replace(portal) == portal && portal.is_some() {
            log::warn!("the portal ring's thread stands still: the watchdog is not told");
            return;
        }
        // Who does not read it is told at the next tick, and the process never waits for it.
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if let Err(e) = send(&self.socket, b"WATCHDOG=1\n", flags) {
            log::debug!("cannot tell the watchdog: {e}");
        }
    }
}

impl AsFd for Watchdog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::wait::progress::Progress;

    fn watchdog() -> (Watchdog, UnixDatagram) {
        let (own, manager) = UnixDatagram::pair().unwrap();
        manager.set_nonblocking(true).unwrap();
        let hour = Duration::from_secs(3600);
        (Watchdog::new(own, hour).unwrap(), manager)
    }

    fn is_told(manager: &UnixDatagram) -> bool {
        let mut message = [0; 64];
        match manager.recv(&mut message) {
            Ok(len) => {
                assert_eq!(&message[..len], b"WATCHDOG=1\n");
                true
            }
            Err(e) => {
                assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                false
            }
        }
    }

    #[test]
    fn test_tick_with_an_idle_portal_ring_tells_the_manager() {
        let (watchdog, manager) = watchdog();
        let portal = Progress::default();
        for _ in 0..3 {
            watchdog.tick(portal.current());
            assert!(is_told(&manager));
        }
    }

    #[test]
    fn test_tick_in_the_same_piece_of_work_as_before_does_not_tell_the_manager() {
        let (watchdog, manager) = watchdog();
        let portal = Progress::default();
        let work = portal.begin();
        watchdog.tick(portal.current());
        assert!(is_told(&manager));
        watchdog.tick(portal.current());
        assert!(!is_told(&manager));
        watchdog.tick(portal.current());
        assert!(!is_told(&manager));
        drop(work);
        watchdog.tick(portal.current());
        assert!(is_told(&manager));
    }

    #[test]
    fn test_tick_in_another_piece_of_work_tells_the_manager() {
        let (watchdog, manager) = watchdog();
        let portal = Progress::default();
        for _ in 0..3 {
            let _work = portal.begin();
            watchdog.tick(portal.current());
            assert!(is_told(&manager));
        }
    }

    #[test]
    fn test_tick_with_a_manager_that_does_not_read_does_not_wait() {
        let (watchdog, manager) = watchdog();
        for _ in 0..10_000 {
            watchdog.tick(None);
        }
        assert!(is_told(&manager));
    }
}
