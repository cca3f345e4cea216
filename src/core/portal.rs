// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages of the portal ring.

use super::fault_table::PageRequest;
use super::{Core, GuestCommand, Observation, Observer, PortalError};
use crate::wire::{
    DrainRequest, GenerationPayload, Message, MessageType, ResponseCode, SmmuCommand, DEVICE_NONE,
};

impl<O: Observer> Core<O> {
    /// Takes a message of the portal ring. When it returns the message has taken effect.
    pub fn portal(&mut self, message: &Message, now_ns: u64) -> Result<(), PortalError> {
        let seq = message.seq.get();
        let expected = self.portal_seq.wrapping_add(1);
        if seq != expected {
            return Err(PortalError::Sequence {
                expected,
                found: seq,
            });
        }
        let device = message.device.get();
        match message.message_type() {
            Some(MessageType::SmmuCmd) => {
                let command = SmmuCommand::decode(&message.payload());
                self.smmu_command(command, now_ns);
            }
            Some(MessageType::Submit) => self.submit(device, message.payload(), now_ns)?,
            Some(MessageType::DeviceQuiesced) => {
                let payload: GenerationPayload = message.payload();
                self.for_each_device(device, |core, device| {
                    core.quiesced(device, payload.generation.get(), now_ns);
                });
            }
            Some(MessageType::Drain) => {
                let request: DrainRequest = message.payload();
                self.begin_drain(request.generation.get(), request.timeout_ms.get(), now_ns)?;
            }
            Some(MessageType::Release) => {
                let payload: GenerationPayload = message.payload();
                self.begin_release(payload.generation.get(), now_ns)?;
            }
            Some(MessageType::Reset) => {
                self.for_each_device(device, |core, device| core.reset_device(device, now_ns));
            }
            _ => {
                return Err(PortalError::UnknownType {
                    seq,
                    kind: message.kind.get(),
                })
            }
        }
        self.portal_seq = seq;
        self.end_drain_if_drained(now_ns);
        Ok(())
    }

    fn for_each_device(&mut self, device: u32, mut action: impl FnMut(&mut Self, u32)) {
        if device == DEVICE_NONE {
            for device in 0..self.limits.max_devices {
                action(self, device);
            }
        } else {
            action(self, device);
        }
    }

    fn smmu_command(&mut self, command: SmmuCommand, now_ns: u64) {
        match command {
            SmmuCommand::Resume { sid, stag, code } => {
                let known = self
                    .faults
                    .get(stag)
                    .is_some_and(|fault| fault.delivered && fault.event.sid == sid);
                if known {
                    self.answer_fault(stag, code, Some(GuestCommand::Resume), now_ns);
                } else {
                    self.unknown_answer(sid, Some(stag), now_ns);
                }
            }
            SmmuCommand::StallTerm { sid } => {
                let answered = self.devices.by_sid(sid).map_or(0, |device| {
                    self.answer_all(device, Some(GuestCommand::StallTerm), now_ns)
                });
                if answered == 0 {
                    self.unknown_answer(sid, None, now_ns);
                }
            }
            SmmuCommand::PriResp {
                sid,
                ssid,
                group,
                code,
            } => {
                if !self.page_response(sid, ssid, group, code, now_ns) {
                    self.unknown_answer(sid, None, now_ns);
                }
            }
            SmmuCommand::Other { .. } => {}
        }
    }

    /// Answers a page request group of a PRI device. Returns whether there was one.
    fn page_response(
        &mut self,
        sid: u32,
        ssid: Option<u32>,
        grpid: u32,
        code: ResponseCode,
        now_ns: u64,
    ) -> bool {
        let Some(device) = self.devices.by_sid(sid) else {
            return false;
        };
        let request = PageRequest {
            device,
            ssid,
            grpid,
        };
        let mut answered = false;
        while let Some(stag) = self.faults.requested(&request).map(|f| f.event.stag) {
            self.answer_fault(stag, code, Some(GuestCommand::PriResp), now_ns);
            answered = true;
        }
        answered
    }

    fn unknown_answer(&mut self, sid: u32, stag: Option<u16>, now_ns: u64) {
        self.counters.unknown_answers = self.counters.unknown_answers.wrapping_add(1);
        self.observe(now_ns, Observation::UnknownAnswer { sid, stag });
    }
}
