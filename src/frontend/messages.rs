// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages to the back-end, and those that come from it.

use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use super::{wait_for, Event, Frontend, FrontendError};
use crate::wire::{
    DrainRequest, GenerationPayload, Message, MessageType, Payload, Submission, DEVICE_NONE, U32,
    U64,
};

impl Frontend {
    /// Puts a message on the portal ring and returns its number there.
    pub fn send<P: Payload>(
        &mut self,
        kind: MessageType,
        device: u32,
        payload: &P,
    ) -> Result<u64, FrontendError> {
        let mut message = Message::new(kind, device, payload);
        message.seq = U64::new(self.portal_seq + 1);
        self.send_raw(&message)?;
        self.portal_seq += 1;
        Ok(self.portal_seq)
    }

    /// Puts a message on the portal ring as it is.
    pub fn send_raw(&mut self, message: &Message) -> Result<(), FrontendError> {
        let head = self.free_descriptor()?;
        self.portal.write_buffer(head, message)?;
        self.portal.offer(head)?;
        self.portal.kick()
    }

    /// Hands over an SMMUv3 command of the guest.
    pub fn command(&mut self, command: &[u8; 16]) -> Result<u64, FrontendError> {
        self.send(MessageType::SmmuCmd, DEVICE_NONE, command)
    }

    /// Hands over a guest write to a trapped portal.
    pub fn submit(&mut self, device: u32, submission: &Submission) -> Result<u64, FrontendError> {
        self.send(MessageType::Submit, device, submission)
    }

    /// Tells that a device takes no new work and has no DMA in flight.
    pub fn quiesced(&mut self, device: u32, generation: u64) -> Result<u64, FrontendError> {
        let payload = GenerationPayload {
            generation: U64::new(generation),
        };
        self.send(MessageType::DeviceQuiesced, device, &payload)
    }

    /// Begins to drain. The portals are trapped, and the devices have been told to quiesce.
    pub fn drain(&mut self, generation: u64, timeout: Duration) -> Result<u64, FrontendError> {
        let payload = DrainRequest {
            generation: U64::new(generation),
            timeout_ms: U32::new(u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX)),
            reserved: U32::ZERO,
        };
        self.send(MessageType::Drain, DEVICE_NONE, &payload)
    }

    /// Ends a drain, or the state after a load: what is pending is replayed.
    pub fn release(&mut self, generation: u64) -> Result<u64, FrontendError> {
        let payload = GenerationPayload {
            generation: U64::new(generation),
        };
        self.send(MessageType::Release, DEVICE_NONE, &payload)
    }

    /// Tells that the guest has reset a device. See [`Self::reset_backend`] for all that the
    /// back-end has.
    pub fn reset(&mut self, device: u32) -> Result<u64, FrontendError> {
        self.send::<[u8; 0]>(MessageType::Reset, device, &[])
    }

    /// How many portal messages have taken effect.
    pub fn completed(&mut self) -> Result<u64, FrontendError> {
        self.reap()?;
        Ok(self.completed)
    }

    /// Waits until every portal message has taken effect.
    pub fn wait_completed(&mut self) -> Result<(), FrontendError> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            self.reap()?;
            if self.portal.in_flight() == 0 {
                return Ok(());
            }
            self.wait_for_completion(deadline)?;
        }
    }

    /// Readable when there may be a [`Self::next_event`]. Edge-triggered users must call that until
    /// it says `None`.
    pub fn event_fd(&self) -> &EventFd {
        self.events.call_fd()
    }

    /// Readable when portal messages have taken effect. The back-end is only asked to tell of it
    /// from now on: most messages need nobody to be woken.
    pub fn portal_fd(&mut self) -> Result<&EventFd, FrontendError> {
        self.portal_calls = true;
        self.portal.want_calls(true)?;
        Ok(self.portal.call_fd())
    }

    /// The next message of the back-end, if there is one.
    pub fn next_event(&mut self) -> Result<Option<Event>, FrontendError> {
        let Some(message) = self.next_message()? else {
            return Ok(None);
        };
        Event::try_from(&message).map(Some)
    }

    /// The next message of the back-end as it is, if there is one.
    pub fn next_message(&mut self) -> Result<Option<Message>, FrontendError> {
        let Some(used) = self.events.reap()? else {
            return Ok(None);
        };
        let message = self.events.read_buffer(used.head)?;
        self.events.offer(used.head)?;
        self.events.kick()?;
        let expected = self.event_seq + 1;
        if message.seq.get() != expected {
            return Err(FrontendError::Protocol(format!(
                "event {} came where {expected} was expected",
                message.seq
            )));
        }
        self.event_seq = expected;
        Ok(Some(message))
    }

    /// How many messages of the back-end have been taken on this connection.
    pub fn events_taken(&self) -> u64 {
        self.event_seq
    }

    /// Waits for the next message of the back-end.
    pub fn wait_event(&mut self) -> Result<Event, FrontendError> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            if let Some(event) = self.next_event()? {
                return Ok(event);
            }
            wait_for(self.events.call_fd(), deadline, "send an event")?;
        }
    }

    fn free_descriptor(&mut self) -> Result<u16, FrontendError> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            self.reap()?;
            if let Some(head) = self.portal.take_free() {
                return Ok(head);
            }
            self.wait_for_completion(deadline)?;
        }
    }

    /// Waits until a portal message has taken effect: only then has the back-end to tell of it.
    fn wait_for_completion(&mut self, deadline: Instant) -> Result<(), FrontendError> {
        self.portal.want_calls(true)?;
        let before = self.completed;
        self.reap()?;
        let waited = if self.completed == before {
            wait_for(self.portal.call_fd(), deadline, "complete a portal message")
        } else {
            Ok(())
        };
        self.portal.want_calls(self.portal_calls)?;
        waited
    }

    fn reap(&mut self) -> Result<(), FrontendError> {
        while let Some(used) = self.portal.reap()? {
            self.portal.put_free(used.head);
            self.completed += 1;
        }
        Ok(())
    }
}
