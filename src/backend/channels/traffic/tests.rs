// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::{
    fs, io,
    sync::{
        atomic::{AtomicBool, Ordering},
        Mutex, OnceLock, Weak,
    },
    time::Instant,
};

use rustix::thread::{gettid, Pid};
use zerocopy::{FromZeros, IntoBytes};

use super::*;
use crate::{
    backend::{
        channels::{
            fault_file::{ChannelKind, FaultFile, FaultIo},
            open_channel::Watched,
        },
        events::Events,
        shell::Shell,
        wait::wake::Wake,
    },
    core::{Attachment, Limits},
    wire::{
        Message, MessageType, ResponseCode, SmmuCommand, PGFAULT_LAST_PAGE, PGFAULT_SIZE, U32, U64,
    },
};

const HANG: Duration = Duration::from_secs(20);

/// A device that uses a cookie again as soon as it has its answer, and a reader that sees that
/// fault before the writer knows that the answer was taken.
#[derive(Default)]
struct Reuser {
    rig: OnceLock<(Weak<Shell>, Weak<OpenChannel>)>,
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
                .channels
                .read(&channel.upgrade().unwrap());
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
    let shell = Arc::new(Shell::new(Limits::default(), Events::for_tests(), wake).unwrap());
    let reuser = Arc::new(Reuser::default());
    let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let fd = Watched {
        token: 0,
        fd: Arc::new(fd),
    };
    let faults = FaultFile::with_io(ChannelKind::Socket, Box::new(reuser.clone()));
    let channel = Arc::new(OpenChannel::new(0, fd, faults, None));
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
    shell
        .core
        .step(|core, now| core.attach(&desc, now))
        .unwrap();
    shell.channels.read(&channel);
    let emitted = |shell: &Shell| {
        let mut message = None;
        let mut take = |next: &Message| {
            message = Some(*next);
            Ok::<(), ()>(())
        };
        let sent = shell.core.step(|core, now| core.emit(now, &mut take));
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

    shell.channels.write(&channel);
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
