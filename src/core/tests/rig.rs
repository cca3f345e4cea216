// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A core with the other sides of its channels.

use crate::core::{Attachment, Core, FaultError, Limits, Observation, Observer, PortalError};
use crate::wire::{
    DrainRequest, EventRecord, GenerationPayload, Message, MessageType, PageResponse, Payload,
    PgFault, ResponseCode, SmmuCommand, Submission, DEVICE_NONE, PERM_READ, PGFAULT_LAST_PAGE,
    PGFAULT_PASID_VALID, U32, U64,
};

pub const MS: u64 = 1_000_000;

#[derive(Debug, Default)]
pub struct Log(pub Vec<Observation>);

impl Observer for Log {
    fn observe(&mut self, _now_ns: u64, observation: &Observation) {
        self.0.push(*observation);
    }
}

/// A core, and a front end that keeps to the protocol. Device N has SID 0x100 + N and dev_id 10 +
/// N.
pub struct Rig {
    pub core: Core<Log>,
    pub now: u64,
    pub seq: u64,
    pub ticket: u64,
}

pub fn limits() -> Limits {
    Limits {
        max_devices: 4,
        max_pending: 8,
        max_faults: 8,
        max_device_faults: 8,
    }
}

pub fn sid(device: u32) -> u32 {
    0x100 + device
}

pub fn dev_id(device: u32) -> u32 {
    10 + device
}

pub fn desc(device: u32, channel: u32) -> Attachment {
    Attachment {
        device,
        vsid: sid(device),
        dev_id: dev_id(device),
        channel,
        max_outstanding: 0,
        pri: false,
    }
}

/// A single fault of a device.
pub fn record(device: u32, cookie: u32) -> PgFault {
    PgFault {
        flags: U32::new(PGFAULT_PASID_VALID | PGFAULT_LAST_PAGE),
        dev_id: U32::new(dev_id(device)),
        pasid: U32::new(1),
        grpid: U32::new(cookie),
        perm: U32::new(PERM_READ),
        reserved: U32::ZERO,
        addr: U64::new(0x1000 * u64::from(cookie)),
        length: U32::ZERO,
        cookie: U32::new(cookie),
    }
}

/// A fault that does not end its group.
pub fn part(device: u32, cookie: u32) -> PgFault {
    let mut part = record(device, cookie);
    part.flags.set(PGFAULT_PASID_VALID);
    part
}

pub fn submission(ticket: u64) -> Submission {
    Submission {
        region: U32::new(2),
        size: U32::new(8),
        offset: U64::new(8 * ticket),
        ticket: U64::new(ticket),
        data: [0x5a; 16],
        reserved: [0; 8],
    }
}

impl Rig {
    /// A core with device 0 on channel 0.
    pub fn new() -> Self {
        let mut rig = Self::with_limits(limits());
        rig.attach(&desc(0, 0));
        rig
    }

    pub fn with_limits(limits: Limits) -> Self {
        Self {
            core: Core::new(limits, Log::default()).unwrap(),
            now: 1000 * MS,
            seq: 0,
            ticket: 0,
        }
    }

    pub fn attach(&mut self, desc: &Attachment) {
        self.core.attach(desc, self.now).unwrap();
    }

    pub fn try_portal<P: Payload>(
        &mut self,
        kind: MessageType,
        device: u32,
        payload: &P,
    ) -> Result<(), PortalError> {
        let mut message = Message::new(kind, device, payload);
        message.seq.set(self.seq + 1);
        self.core.portal(&message, self.now)?;
        self.seq += 1;
        Ok(())
    }

    pub fn portal<P: Payload>(&mut self, kind: MessageType, device: u32, payload: &P) {
        self.try_portal(kind, device, payload).unwrap();
    }

    pub fn command(&mut self, command: SmmuCommand) {
        self.portal(MessageType::SmmuCmd, DEVICE_NONE, &command.encode());
    }

    pub fn resume(&mut self, device: u32, stag: u16) {
        self.command(SmmuCommand::Resume {
            sid: sid(device),
            stag,
            code: ResponseCode::Success,
        });
    }

    /// Resumes every fault that the guest has been told of since it last looked; returns how many.
    pub fn resume_all(&mut self, device: u32) -> usize {
        let stags = self.stags();
        for &stag in &stags {
            self.resume(device, stag);
        }
        stags.len()
    }

    pub fn abort(&mut self, device: u32, stag: u16) {
        self.command(SmmuCommand::Resume {
            sid: sid(device),
            stag,
            code: ResponseCode::Invalid,
        });
    }

    pub fn submit(&mut self, device: u32) {
        let submission = submission(self.ticket);
        self.portal(MessageType::Submit, device, &submission);
        self.ticket += 1;
    }

    pub fn drain(&mut self, generation: u64, timeout_ms: u32) {
        let request = DrainRequest {
            generation: U64::new(generation),
            timeout_ms: U32::new(timeout_ms),
            reserved: U32::ZERO,
        };
        self.portal(MessageType::Drain, DEVICE_NONE, &request);
    }

    pub fn generation(&mut self, kind: MessageType, device: u32, generation: u64) {
        let payload = GenerationPayload {
            generation: U64::new(generation),
        };
        self.portal(kind, device, &payload);
    }

    pub fn quiesced(&mut self, device: u32, generation: u64) {
        self.generation(MessageType::DeviceQuiesced, device, generation);
    }

    pub fn release(&mut self, generation: u64) {
        self.generation(MessageType::Release, DEVICE_NONE, generation);
    }

    pub fn reset(&mut self, device: u32) {
        self.portal(MessageType::Reset, device, &[0u8; 0]);
    }

    pub fn try_fault(&mut self, channel: u32, record: &PgFault) -> Result<(), FaultError> {
        self.core.fault(channel, record, self.now)
    }

    pub fn fault(&mut self, channel: u32, record: &PgFault) {
        self.try_fault(channel, record).unwrap();
    }

    /// Reads the channels that the core wants to be read, which are empty.
    pub fn probe(&mut self) {
        while let Some(channel) = self.core.next_probe() {
            self.core.channel_empty(channel, self.now);
        }
    }

    pub fn next_message(&mut self) -> Option<Message> {
        let mut sent = None;
        let write = |message: &Message| {
            sent = Some(*message);
            Ok::<(), ()>(())
        };
        assert_eq!(self.core.emit(self.now, write), Ok(sent.is_some()));
        sent
    }

    /// All messages that the core has for the event ring.
    pub fn messages(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.next_message()).collect()
    }

    /// The types of all messages that the core has for the event ring.
    pub fn message_types(&mut self) -> Vec<MessageType> {
        self.messages()
            .iter()
            .map(|message| message.message_type().unwrap())
            .collect()
    }

    /// The STAGs of the events that the core has for the event ring.
    pub fn stags(&mut self) -> Vec<u16> {
        self.messages()
            .iter()
            .filter(|message| message.message_type() == Some(MessageType::SmmuEvent))
            .map(|message| EventRecord::decode(&message.payload()).unwrap().stag)
            .collect()
    }

    /// A fault of device 0 whose event was sent. Returns its STAG.
    pub fn delivered(&mut self, cookie: u32) -> u16 {
        self.fault(0, &record(0, cookie));
        self.stags()[0]
    }

    pub fn peek_answers(&self, channel: u32) -> Vec<(u32, u32)> {
        let mut answers = [PageResponse {
            cookie: U32::ZERO,
            code: U32::ZERO,
        }; 16];
        let count = self.core.answers(channel, &mut answers);
        answers[..count]
            .iter()
            .map(|answer| (answer.cookie.get(), answer.code.get()))
            .collect()
    }

    /// Writes all answers of a channel.
    pub fn answers(&mut self, channel: u32) -> Vec<(u32, u32)> {
        let answers = self.peek_answers(channel);
        self.core.answers_written(channel, answers.len(), self.now);
        answers
    }

    pub fn observed(&mut self, wanted: &Observation) -> bool {
        self.core.observer().0.contains(wanted)
    }
}
