// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The engine thread: it waits for fault channels, the attach channel and the drain's deadline.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use epoll::Events;
use rustix::event::{poll, PollFd, PollFlags, Timespec};

use super::{
    attach::service::AttachService,
    shell::Shell,
    wait::{
        poller::{Interest, Ready, BATCH, FOREVER, NOW},
        wake::Wake,
    },
    watchdog::Watchdog,
};
use crate::error::Error;

// The table of channels counts its tokens from 0.
const TOKEN_WAKE: u64 = u64::MAX;
const TOKEN_DEADLINE: u64 = u64::MAX - 1;
const TOKEN_ATTACH: u64 = u64::MAX - 2;
const TOKEN_WATCHDOG: u64 = u64::MAX - 3;
/// How long the thread may take to end.
const END_LIMIT: Timespec = Timespec {
    tv_sec: 3,
    tv_nsec: 0,
};

/// The engine as the other threads see it.
pub struct Engine {
    /// The attach channel, which the thread serves.
    pub attach: Arc<AttachService>,
    shell: Arc<Shell>,
    stop: Arc<AtomicBool>,
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

impl Engine {
    /// Starts the thread, which tells the service manager's watchdog of itself, if there is one.
    /// After a fault it goes on to look for the next one, and for the guest's answers, without
    /// waiting, until nothing has come for as long as `busy_poll`.
    pub fn start(
        shell: Arc<Shell>,
        watchdog: Option<Watchdog>,
        busy_poll: Duration,
    ) -> Result<Self, Error> {
        let no_eventfd = || Error::system("Cannot create an eventfd");
        let watch = |fd, token| shell.poller.add(fd, token, Interest::Read);
        watch(std::os::fd::AsFd::as_fd(&shell.deadline), TOKEN_DEADLINE)
            .and_then(|()| watch(std::os::fd::AsFd::as_fd(&shell.wake), TOKEN_WAKE))
            .and_then(|()| match &watchdog {
                Some(watchdog) => watch(std::os::fd::AsFd::as_fd(watchdog), TOKEN_WATCHDOG),
                None => Ok(()),
            })
            .map_err(Error::system("Cannot set up epoll"))?;
        let ended = Wake::new().map_err(no_eventfd())?;
        let says_ended = SaysEnded(ended.try_clone().map_err(no_eventfd())?);
        let attach = Arc::new(AttachService::new(shell.clone(), TOKEN_ATTACH));
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            shell: shell.clone(),
            attach: attach.clone(),
            stop: stop.clone(),
            watchdog,
            busy_poll,
        };
        let thread = thread::Builder::new()
            .name("vsva-engine".to_owned())
            .spawn(move || {
                let _says_ended = says_ended;
                worker.run();
            })
            .map_err(Error::system("Cannot start the engine thread"))?;
        Ok(Engine {
            attach,
            shell,
            stop,
            thread: Some(thread),
            ended,
        })
    }

    /// Set when the thread has ended.
    pub fn ended(&self) -> &Wake {
        &self.ended
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.shell.wake.set();
        // Whatever holds it, the process ends.
        let mut fds = [PollFd::new(&self.ended, PollFlags::IN)];
        if poll(&mut fds, Some(&END_LIMIT)) != Ok(1) {
            log::error!("the engine thread does not end");
            return;
        }
        let thread = self.thread.take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("the engine thread has panicked");
        }
    }
}

struct Worker {
    shell: Arc<Shell>,
    attach: Arc<AttachService>,
    stop: Arc<AtomicBool>,
    watchdog: Option<Watchdog>,
    busy_poll: Duration,
}

impl Worker {
    fn run(&self) {
        let mut ready = Vec::with_capacity(BATCH);
        let mut idle_since = None;
        while !self.stop.load(Ordering::Acquire) {
            let limit = if idle_since.is_some() { NOW } else { FOREVER };
            if let Err(e) = self.shell.poller.wait(limit, &mut ready) {
                log::error!("the engine cannot wait for events, faults are not served: {e}");
                break;
            }
            let mut busy = false;
            for ready in &ready {
                busy |= self.serve(*ready);
            }
            if !self.busy_poll.is_zero() {
                idle_since = self.look_again(busy, idle_since);
            }
        }
    }

    /// Looks into the portal ring, and says whether to look for faults without waiting for them:
    /// as long as something has come up within the limit.
    fn look_again(&self, busy: bool, idle_since: Option<Instant>) -> Option<Instant> {
        if !busy && idle_since.is_none() {
            return None;
        }
        let served = self.shell.with_portal(|portal| portal.poll());
        let idle_since = idle_since.filter(|_| !busy && !served);
        let idle_since = idle_since.unwrap_or_else(Instant::now);
        if idle_since.elapsed() < self.busy_poll {
            std::hint::spin_loop();
            return Some(idle_since);
        }
        // Its thread is woken again by the next kick. What came before it is seen here.
        let left = self.shell.with_portal(|portal| portal.rest());
        left.then(Instant::now)
    }

    /// Returns whether it was something of a fault channel.
    fn serve(&self, ready: Ready) -> bool {
        match ready.token {
            TOKEN_WAKE => {
                self.shell.wake.clear();
                self.shell.go_on_if_enabled();
                self.shell.settle();
            }
            TOKEN_DEADLINE => {
                if self.shell.deadline.take() {
                    self.shell.tick();
                }
            }
            TOKEN_ATTACH => self.attach.serve(),
            TOKEN_WATCHDOG => {
                // The core's lock can be had.
                self.shell.core.look(|_| ());
                if let Some(watchdog) = &self.watchdog {
                    watchdog.tick(self.shell.portal_work.current());
                }
            }
            token => {
                let failed = ready.events.intersects(Events::EPOLLERR | Events::EPOLLHUP);
                let readable = failed || ready.events.contains(Events::EPOLLIN);
                let writable = failed || ready.events.contains(Events::EPOLLOUT);
                self.shell.channels.ready(token, readable, writable);
                self.shell.settle();
                return true;
            }
        }
        false
    }
}
