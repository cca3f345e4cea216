// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Waiting for events, within a bound.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
};

/// How long anything may take. No check depends on its value, it only bounds a hang.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Waits until `fd` is readable; false when it is not within `limit`.
pub fn readable(fd: impl AsFd, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return fds[0].revents().intersects(PollFlags::IN | PollFlags::HUP),
            Err(Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

/// Waits for something that gives no notice when it happens, such as a word that a device writes.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(
            Instant::now() < end,
            "{what} did not happen within {LIMIT:?}"
        );
        std::thread::yield_now();
    }
}
