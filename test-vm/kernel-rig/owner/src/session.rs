// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VMM with its guest: a connection to a back-end, and somebody who handles faults.

use std::os::unix::net::UnixStream;

use vhost_user_vsva::{
    frontend::{AttachChannel, Attachment, Companions, Event, Frontend, Options},
    wire::{ConfigSpace, EventRecord, ResponseCode, SmmuCommand},
};

use crate::{
    backend::Backend,
    hardware::{vsid, Access, AccessId, Hardware},
    tally,
    testdev::Outcome,
    wait::{until, LIMIT},
};

/// Number of the fault channel of all devices.
const CHANNEL: u32 = 0;

/// A connection to a back-end.
pub struct Session {
    pub front_end: Frontend,
    pub attach: AttachChannel,
    /// `None` in a process that has not started it.
    pub backend: Option<Backend>,
}

impl Session {
    /// Starts a back-end and connects to it.
    pub fn start() -> Self {
        Self::with(Backend::start())
    }

    /// Connects to a back-end.
    pub fn with(backend: Backend) -> Self {
        let stream = backend.connect();
        Session {
            backend: Some(backend),
            ..Self::over(stream)
        }
    }

    /// Uses a connection to the back-end of another process.
    pub fn over(stream: UnixStream) -> Self {
        let options = Options {
            timeout: LIMIT,
            ..Options::default()
        };
        let mut front_end = Frontend::from_stream(stream, &options).expect("negotiation");
        let attach = front_end.attach_channel().expect("attach channel");
        Session {
            front_end,
            attach,
            backend: None,
        }
    }

    /// The back-end that this process has started.
    pub fn backend(&self) -> &Backend {
        self.backend.as_ref().expect("started here")
    }

    /// Attaches the device as the first on the fault queue.
    pub fn attach(&mut self, hardware: &dyn Hardware, device: usize) {
        self.attach_with(hardware, device, Companions::default());
    }

    /// The same with whatever else belongs to it; what the back-end says about it.
    pub fn attach_with(
        &mut self,
        hardware: &dyn Hardware,
        device: usize,
        companions: Companions<'_>,
    ) -> String {
        let companions = Companions {
            fault_fd: Some(hardware.fault_fd()),
            ..companions
        };
        self.attach
            .attach_with(&attachment(hardware, device), &companions)
            .expect("ATTACH")
    }

    /// Attaches the device to the fault queue that another one has brought.
    pub fn attach_to_same_queue(&mut self, hardware: &dyn Hardware, device: usize) {
        self.attach
            .attach(&attachment(hardware, device), None)
            .expect("ATTACH");
    }

    /// Waits for the next event record. Anything else that the back-end says is wrong now.
    pub fn event(&mut self) -> EventRecord {
        match self.front_end.wait_event().expect("an event") {
            Event::Smmu { record, .. } => EventRecord::decode(&record).expect("a stall event"),
            other => panic!("{other:?} where an event record was expected"),
        }
    }

    /// Handles the fault as a guest kernel does: a page, then CMD_RESUME with retry.
    pub fn handle(&mut self, hardware: &mut dyn Hardware, event: &EventRecord) {
        hardware.resolve(&access(event)).expect("page");
        self.answer(event, ResponseCode::Success);
    }

    /// Answers the fault and waits until the answer has taken effect.
    pub fn answer(&mut self, event: &EventRecord, code: ResponseCode) {
        match code {
            ResponseCode::Success => tally::retried(1),
            ResponseCode::Invalid => tally::aborted(1),
        }
        self.command(SmmuCommand::Resume {
            sid: event.sid,
            stag: event.stag,
            code,
        });
    }

    /// Answers a fault that has been answered: the guest's mistake, which has no effect.
    pub fn answer_again(&mut self, event: &EventRecord, code: ResponseCode) {
        let before = self.config().unknown_answers.get();
        self.command(SmmuCommand::Resume {
            sid: event.sid,
            stag: event.stag,
            code,
        });
        assert_eq!(self.config().unknown_answers.get(), before + 1);
    }

    /// Hands a command of the guest over and waits until it has taken effect.
    pub fn command(&mut self, command: SmmuCommand) {
        self.raw_command(command.encode());
    }

    /// The same for any 16 bytes.
    pub fn raw_command(&mut self, command: [u8; 16]) {
        self.front_end.command(&command).expect("portal ring");
        self.front_end.wait_completed().expect("portal ring");
    }

    /// Waits for an event that is no event record.
    pub fn message(&mut self) -> Event {
        match self.front_end.wait_event().expect("an event") {
            Event::Smmu { .. } => panic!("an event record where another message was expected"),
            other => other,
        }
    }

    /// Waits until the access has been made.
    pub fn expect_done(&mut self, hardware: &mut dyn Hardware, id: AccessId) {
        self.expect(hardware, id, |outcome| {
            matches!(outcome, Outcome::Done { .. })
        });
    }

    /// Waits until the access has been aborted.
    pub fn expect_aborted(&mut self, hardware: &mut dyn Hardware, id: AccessId) {
        self.expect(hardware, id, |outcome| outcome == Outcome::Aborted);
    }

    fn expect(
        &mut self,
        hardware: &mut dyn Hardware,
        id: AccessId,
        wanted: impl Fn(Outcome) -> bool,
    ) {
        if hardware.tells_outcomes() {
            let outcome = until("the end of the access", || hardware.outcome(id));
            assert!(wanted(outcome), "access {id:?} ended with {outcome:?}");
        }
    }

    /// The back-end's counters.
    pub fn config(&mut self) -> ConfigSpace {
        self.front_end.config().expect("GET_CONFIG")
    }

    /// Checks that `faults` faults were read and answered, each once, and that none is left.
    pub fn finish(mut self, faults: u64) {
        let config = self.config();
        assert_eq!(config.faults_read.get(), faults, "faults read");
        assert_eq!(config.faults_answered.get(), faults, "faults answered");
        assert_eq!(
            config.answers_aborted.get(),
            0,
            "answers refused by the kernel"
        );
        assert_eq!(config.outstanding.get(), 0, "faults outstanding");
        assert!(
            self.front_end.next_event().expect("event ring").is_none(),
            "an event too many"
        );
    }
}

/// What ATTACH says of a device.
pub fn attachment(hardware: &dyn Hardware, device: usize) -> Attachment {
    Attachment {
        device: u32::try_from(device).expect("few devices"),
        vsid: vsid(device),
        dev_id: hardware.device_id(device),
        channel: CHANNEL,
        max_outstanding: 0,
        pri: false,
    }
}

/// The access that the event is about.
pub fn access(event: &EventRecord) -> Access {
    Access {
        ssid: event.ssid,
        addr: event.addr,
        write: event.write,
        exec: event.exec,
        privileged: event.privileged,
    }
}
