// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An attached fault channel: what the engine waits for on it, and its way into and out of the core.

use std::{
    fmt::Display,
    io,
    os::fd::OwnedFd,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Mutex,
    },
    thread,
    time::Duration,
};

use super::{
    fault_file::{AnswerSource, FaultChannel, FaultSink, ReadEnd, WriteEnd},
    stage_one::Events,
};
use crate::{
    backend::{shell::Shell, wait::poller::Interest},
    core::FaultError,
    lock::lock,
    wire::{LostReason, PageResponse, PgFault},
};

/// Before reading again when the kernel has no memory for it.
const OUT_OF_MEMORY_REST: Duration = Duration::from_millis(10);

/// A fault channel and what the engine waits for on it.
pub struct Channel {
    pub number: u32,
    pub token: u64,
    /// For the poller; what is read and written is the business of `faults`.
    pub fd: Arc<OwnedFd>,
    pub faults: FaultChannel,
    /// Cleared with reader and writer at rest: its number means another channel from then on.
    pub open: AtomicBool,
    /// The core had no room for the next fault.
    pub read_blocked: AtomicBool,
    /// The socket had no room for the next answer.
    pub write_blocked: AtomicBool,
    pub interest: Mutex<Interest>,
    /// Becomes readable when the process that owns the devices ends.
    pub owner: Option<Watched<OwnedFd>>,
    pub events: Mutex<Option<Arc<Events>>>,
}

/// Something that the engine waits for.
pub struct Watched<T> {
    pub token: u64,
    pub fd: T,
}

/// What one of the descriptors of a channel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Faults and answers.
    Faults,
    /// The end of the process that owns the devices.
    Owner,
    /// The vEVENTQ.
    Events,
}

impl Channel {
    /// What the descriptor with this token is for, if it is one of the channel's.
    pub fn role(&self, token: u64) -> Option<Role> {
        let owner = self.owner.as_ref().map(|owner| owner.token);
        let events = lock(&self.events).as_ref().map(|events| events.queue.token);
        [
            (Some(self.token), Role::Faults),
            (owner, Role::Owner),
            (events, Role::Events),
        ]
        .into_iter()
        .find_map(|(own, role)| (own == Some(token)).then_some(role))
    }

    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }
}

impl Shell {
    /// Reads once, as readiness is level-triggered.
    pub fn read_channel(&self, channel: &Channel) -> bool {
        let mut sink = Sink {
            shell: self,
            channel,
        };
        let more = match channel.faults.read(&mut sink) {
            ReadEnd::More => true,
            ReadEnd::Empty => false,
            ReadEnd::Refused(FaultError::NoRoom { .. }) | ReadEnd::Unwanted => {
                channel.read_blocked.store(true, Ordering::Relaxed);
                false
            }
            // Its last device has just been detached: it is about to be closed.
            ReadEnd::Refused(FaultError::UnknownChannel { .. }) => false,
            ReadEnd::Refused(e) => self.lose(channel, LostReason::Protocol, &e),
            ReadEnd::Again(e) => {
                log::warn!("fault channel {}: {e}; trying again", channel.number);
                // The descriptor stays readable: without a rest this would be a busy loop.
                thread::sleep(OUT_OF_MEMORY_REST);
                false
            }
            ReadEnd::Closed => self.lose(channel, LostReason::Ended, &"the other end was closed"),
            ReadEnd::Broken(e) => self.lose(channel, LostReason::Io, &e),
        };
        self.update_interest(channel);
        more
    }

    pub fn read_to_end(&self, channel: &Channel) {
        while self.read_channel(channel) {}
    }

    pub fn write_channel(&self, channel: &Channel) {
        let mut source = Source {
            shell: self,
            channel,
        };
        match channel.faults.write(&mut source) {
            WriteEnd::Done => {}
            WriteEnd::Blocked => channel.write_blocked.store(true, Ordering::Relaxed),
            WriteEnd::Broken(e) => {
                self.lose(channel, LostReason::Io, &e);
            }
        }
        self.update_interest(channel);
    }

    /// Gives up a channel; its devices are lost.
    pub fn lose(&self, channel: &Channel, reason: LostReason, error: &dyn Display) -> bool {
        let first = channel.faults.at_rest(|| {
            let first = channel.open.swap(false, Ordering::Relaxed);
            if first {
                self.step(|core, now| core.channel_lost(channel.number, reason, now));
            }
            first
        });
        if first {
            // Its owner closes it when the VM ends. A front end that goes on hears of it by DEVICE_LOST.
            let level = match reason {
                LostReason::Ended => log::Level::Info,
                _ => log::Level::Error,
            };
            log::log!(level, "fault channel {} is lost: {error}", channel.number);
            self.remove(channel);
        }
        false
    }

    pub fn close_unused(&self) {
        for channel in self.channels().values() {
            let unused = channel.faults.at_rest(|| {
                let unused = !self.lock().channel_in_use(channel.number);
                unused && channel.open.swap(false, Ordering::Relaxed)
            });
            if unused {
                self.remove(channel);
            }
        }
    }

    pub fn remove(&self, channel: &Channel) {
        let mut channels = lock(&self.channels);
        if channels
            .get(&channel.number)
            .is_some_and(|c| c.token == channel.token)
        {
            Arc::make_mut(&mut channels).remove(&channel.number);
            self.forget(&channel.fd);
            if let Some(owner) = &channel.owner {
                self.forget(&owner.fd);
            }
            if let Some(events) = lock(&channel.events).take() {
                self.forget(&events.queue.fd);
            }
        }
    }

    fn update_interest(&self, channel: &Channel) {
        let mut interest = lock(&channel.interest);
        // Read under the lock, or an older wish of another thread could be the last to be granted.
        let wanted = Interest::new(
            !channel.read_blocked.load(Ordering::Relaxed),
            channel.write_blocked.load(Ordering::Relaxed),
        );
        if *interest == wanted {
            return;
        }
        *interest = wanted;
        match self.poller.modify(&channel.fd, channel.token, wanted) {
            // Removed in the meantime.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => log::error!("fault channel {}: epoll: {e}", channel.number),
            Ok(()) => {}
        }
    }
}

/// Puts the faults of a channel into the core.
struct Sink<'a> {
    shell: &'a Shell,
    channel: &'a Channel,
}

impl FaultSink for Sink<'_> {
    type Error = FaultError;

    fn take(&mut self, faults: &[PgFault]) -> (usize, Result<(), FaultError>) {
        if !self.channel.is_open() {
            return (faults.len(), Ok(()));
        }
        let mut taken = 0;
        loop {
            let result = self.shell.step(|core, now| {
                for fault in &faults[taken..] {
                    core.fault(self.channel.number, fault, now)?;
                    taken += 1;
                }
                Ok(())
            });
            let reused = matches!(
                result,
                Err(FaultError::DuplicateCookie { .. } | FaultError::Stale { .. })
            );
            match if reused {
                self.retake(&faults[taken])
            } else {
                result
            } {
                Ok(()) if reused => taken += 1,
                result => return (taken, result),
            }
        }
    }

    fn wanted(&mut self) -> bool {
        self.channel.is_open() && self.shell.lock().wants_read(self.channel.number)
    }

    fn empty(&mut self) {
        if self.channel.is_open() {
            self.shell
                .step(|core, now| core.channel_empty(self.channel.number, now));
        }
    }
}

impl Sink<'_> {
    /// Takes a fault whose cookie the core has not given up.
    ///
    /// A cookie can come again as soon as its answer has been taken; the thread that wrote the answer may not have told
    /// the core yet. With that thread out of the way it is clear what the cookie means.
    fn retake(&self, fault: &PgFault) -> Result<(), FaultError> {
        let number = self.channel.number;
        self.channel.faults.writer_at_rest(|| {
            self.shell.step(|core, now| {
                let result = core.fault(number, fault, now);
                let Err(FaultError::Stale { channel, cookie }) = result else {
                    return result;
                };
                log::warn!(
                    "fault channel {channel}: the kernel has aborted the fault of cookie {cookie} without a HOLD"
                );
                core.forget_stale(channel, cookie, now);
                core.fault(number, fault, now)
            })
        })
    }
}

/// Takes the answers of a channel out of the core.
struct Source<'a> {
    shell: &'a Shell,
    channel: &'a Channel,
}

impl AnswerSource for Source<'_> {
    fn peek(&mut self, answers: &mut [PageResponse]) -> usize {
        if !self.channel.is_open() {
            return 0;
        }
        self.shell.lock().answers(self.channel.number, answers)
    }

    fn written(&mut self, count: usize) {
        self.shell
            .step(|core, now| core.answers_written(self.channel.number, count, now));
    }

    fn aborted(&mut self) {
        self.shell
            .step(|core, now| core.answer_aborted(self.channel.number, now));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::{OnceLock, Weak},
        time::Instant,
    };

    use rustix::thread::{gettid, Pid};
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;
    use crate::{
        backend::{
            channels::fault_file::{ChannelKind, FaultIo},
            events::Events,
            wait::wake::Wake,
        },
        core::{Attachment, Limits},
        wire::{
            Message, MessageType, ResponseCode, SmmuCommand, PGFAULT_LAST_PAGE, PGFAULT_SIZE, U32,
            U64,
        },
    };

    const HANG: Duration = Duration::from_secs(20);

    /// A device that uses a cookie again as soon as it has its answer, and a reader that sees that fault before the
    /// writer knows that the answer was taken.
    #[derive(Default)]
    struct Reuser {
        rig: OnceLock<(Weak<Shell>, Weak<Channel>)>,
        reader: Mutex<Option<thread::JoinHandle<()>>>,
        reader_id: OnceLock<Pid>,
        has_read: AtomicBool,
    }

    fn is_asleep(thread: Pid) -> bool {
        let stat = fs::read_to_string(format!("/proc/self/task/{}/stat", thread.as_raw_nonzero()));
        let state = stat.as_deref().ok().and_then(|stat| stat.rsplit_once(") "));
        state.is_some_and(|(_, state)| state.starts_with('S'))
    }

    impl FaultIo for Arc<Reuser> {
        fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
            let mut fault = PgFault::new_zeroed();
            fault.flags = U32::new(PGFAULT_LAST_PAGE);
            fault.cookie = U32::new(1);
            fault.addr = U64::new(if self.reader_id.get().is_some() {
                0x2000
            } else {
                0x1000
            });
            buf[..PGFAULT_SIZE].copy_from_slice(fault.as_bytes());
            self.has_read.store(true, Ordering::Release);
            Ok(PGFAULT_SIZE)
        }

        fn write(&self, buf: &[u8]) -> io::Result<usize> {
            let this = self.clone();
            self.has_read.store(false, Ordering::Release);
            let reader = thread::spawn(move || {
                let _ = this.reader_id.set(gettid());
                let (shell, channel) = this.rig.get().unwrap();
                shell
                    .upgrade()
                    .unwrap()
                    .read_channel(&channel.upgrade().unwrap());
            });
            *self.reader.lock().unwrap() = Some(reader);
            // The reader has the fault, and waits for this thread: there is nobody else.
            let start = Instant::now();
            let waits = |id: &Pid| self.has_read.load(Ordering::Acquire) && is_asleep(*id);
            while !self.reader_id.get().is_some_and(waits) {
                assert!(start.elapsed() < HANG);
                thread::yield_now();
            }
            Ok(buf.len())
        }

        fn readable(&self) -> io::Result<bool> {
            Ok(true)
        }
    }

    #[test]
    fn test_cookie_read_again_before_its_answer_is_recorded_is_a_new_fault() {
        let wake = Wake::new().unwrap();
        let shell = Arc::new(Shell::new(Limits::default(), Events::default(), wake).unwrap());
        let reuser = Arc::new(Reuser::default());
        let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let channel = Arc::new(Channel {
            number: 0,
            token: 0,
            fd: Arc::new(fd),
            faults: FaultChannel::with_io(ChannelKind::Socket, Box::new(reuser.clone())),
            open: AtomicBool::new(true),
            read_blocked: AtomicBool::new(false),
            write_blocked: AtomicBool::new(false),
            interest: Mutex::new(Interest::Read),
            owner: None,
            events: Mutex::default(),
        });
        let rig = (Arc::downgrade(&shell), Arc::downgrade(&channel));
        reuser.rig.set(rig).unwrap();
        let desc = Attachment {
            device: 0,
            vsid: 8,
            dev_id: 0,
            channel: 0,
            max_outstanding: 0,
            pri: false,
        };
        shell.step(|core, now| core.attach(&desc, now)).unwrap();
        shell.read_channel(&channel);
        let emitted = |shell: &Shell| {
            let mut message = None;
            let mut take = |next: &Message| {
                message = Some(*next);
                Ok::<(), ()>(())
            };
            let sent = shell.step(|core, now| core.emit(now, &mut take));
            (sent == Ok(true)).then_some(message).flatten()
        };
        let first = emitted(&shell).unwrap();
        let stag = first.payload::<[u8; 32]>()[8];
        let resume = SmmuCommand::Resume {
            sid: 8,
            stag: stag.into(),
            code: ResponseCode::Success,
        };
        let mut command = Message::new(MessageType::SmmuCmd, 0, &resume.encode());
        command.seq = U64::new(1);
        shell.portal([Some(&command)].into_iter()).1.unwrap();

        shell.write_channel(&channel);
        reuser
            .reader
            .lock()
            .unwrap()
            .take()
            .unwrap()
            .join()
            .unwrap();

        assert!(channel.is_open(), "the channel was given up");
        let second = emitted(&shell).unwrap();
        assert_eq!(second.message_type(), Some(MessageType::SmmuEvent));
        assert_eq!(shell.config_space().outstanding.get(), 1);
        assert_eq!(shell.config_space().faults_answered.get(), 1);
    }
}
