// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The back-end's threads do not allocate while faults, answers, submissions and replays go through
//! them.

mod counting_alloc;

use std::{
    io::{Read, Write},
    os::{
        fd::{AsFd, IntoRawFd},
        unix::net::{UnixListener, UnixStream},
    },
    thread,
    time::Duration,
};

use counting_alloc::of_other_threads;
use vhost_user_vsva::{
    backend,
    config::{Config, Listen},
    core::Limits,
    frontend::{Attachment, Event, Frontend, Options},
    sandbox::{SandboxMode, SeccompAction},
    state::StateVersion,
    wire::{
        EventRecord, PgFault, ResponseCode, SmmuCommand, Submission, PAGE_RESPONSE_SIZE,
        PGFAULT_LAST_PAGE, U32, U64,
    },
};
use zerocopy::{FromZeros, IntoBytes};

/// Nothing here takes this long: it only bounds a hang.
const HANG: Duration = Duration::from_secs(20);
const FAULTS: u32 = 48;
const SUBMISSIONS: u64 = 100;

/// Starts a back-end in this process, which serves until the process ends.
fn start() -> UnixStream {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsva.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let stream = UnixStream::connect(&path).unwrap();
    let config = Config {
        one_off: false,
        listen: Some(Listen::Fd(listener.into_raw_fd())),
        status_socket: None,
        event_log: None,
        trace: None,
        limits: Limits::default(),
        busy_poll: Duration::ZERO,
        migration_blocking: true,
        state_version: StateVersion::default(),
        seccomp: SeccompAction::None,
        sandbox: SandboxMode::None,
    };
    thread::spawn(move || backend::run(&config).unwrap());
    stream
}

/// A guest and a device.
struct Rig {
    frontend: Frontend,
    device: UnixStream,
    cookie: u32,
    ticket: u64,
    generation: u64,
}

impl Rig {
    /// Raises faults in one write, answers each, and has all answers arrive at the device.
    fn faults(&mut self) {
        let mut faults = Vec::new();
        for _ in 0..FAULTS {
            self.cookie += 1;
            let mut fault = PgFault::new_zeroed();
            fault.flags = U32::new(PGFAULT_LAST_PAGE);
            fault.cookie = U32::new(self.cookie);
            faults.push(fault);
        }
        self.device.write_all(faults.as_bytes()).unwrap();
        for _ in 0..FAULTS {
            let Event::Smmu { record, .. } = self.frontend.wait_event().unwrap() else {
                panic!("not an event record");
            };
            let event = EventRecord::decode(&record).unwrap();
            let command = SmmuCommand::Resume {
                sid: event.sid,
                stag: event.stag,
                code: ResponseCode::Success,
            };
            self.frontend.command(&command.encode()).unwrap();
        }
        let mut answers = [0; FAULTS as usize * PAGE_RESPONSE_SIZE];
        self.device.read_exact(&mut answers).unwrap();
        self.frontend.wait_completed().unwrap();
    }

    fn drain_and_replay(&mut self) {
        self.generation += 1;
        self.frontend.drain(self.generation, HANG).unwrap();
        for _ in 0..SUBMISSIONS {
            let mut submission = Submission::new_zeroed();
            submission.size = U32::new(8);
            submission.ticket = U64::new(self.ticket);
            self.ticket += 1;
            self.frontend.submit(0, &submission).unwrap();
        }
        self.faults();
        self.frontend.quiesced(0, self.generation).unwrap();
        assert!(matches!(
            self.frontend.wait_event().unwrap(),
            Event::Drained(_)
        ));
        self.frontend.release(self.generation).unwrap();
        for _ in 0..SUBMISSIONS {
            let event = self.frontend.wait_event().unwrap();
            assert!(matches!(event, Event::Replay { .. }), "{event:?}");
        }
        assert!(matches!(
            self.frontend.wait_event().unwrap(),
            Event::Released(_)
        ));
        self.frontend.wait_completed().unwrap();
    }
}

#[test]
fn test_backend_in_operation_does_not_allocate() {
    let options = Options {
        timeout: HANG,
        ..Options::default()
    };
    let mut frontend = Frontend::from_stream(start(), &options).unwrap();
    let mut attach = frontend.attach_channel().unwrap();
    let (device, theirs) = UnixStream::pair().unwrap();
    device.set_read_timeout(Some(HANG)).unwrap();
    let attachment = Attachment {
        device: 0,
        vsid: 8,
        dev_id: 0,
        channel: 0,
        max_outstanding: 0,
        pri: false,
    };
    attach.attach(&attachment, Some(theirs.as_fd())).unwrap();
    drop(theirs);
    let mut rig = Rig {
        frontend,
        device,
        cookie: 0,
        ticket: 0,
        generation: 0,
    };
    // What the threads and the library make once.
    rig.faults();
    rig.drain_and_replay();

    assert!(of_other_threads() > 0, "the back-end is in this process");
    let mut allocations = || {
        let before = of_other_threads();
        for _ in 0..20 {
            rig.faults();
            rig.drain_and_replay();
        }
        of_other_threads() - before
    };
    // Threads allocate when they begin to wait, each a few times, and on a busy machine at any time
    // after the last request. What allocates for a fault or a drain does so in every round.
    let mut rounds = Vec::new();
    while !rounds.ends_with(&[0; 3]) && rounds.len() < 30 {
        rounds.push(allocations());
    }
    assert!(rounds.ends_with(&[0; 3]), "{rounds:?} allocations");
}
