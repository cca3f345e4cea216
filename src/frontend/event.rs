// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages of the event ring as a front end wants them.

use super::FrontendError;
use crate::wire::{
    DrainFailed, Drained, Message, MessageType, Released, Submission, EVENT_RECORD_SIZE, U32,
};

/// A message of the back-end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An event record for the guest's event queue. A stalled one must not be lost.
    Smmu {
        /// The device that has the fault.
        device: u32,
        /// The record.
        record: [u8; EVENT_RECORD_SIZE],
    },
    /// A submission is to be performed now, as if the guest had just written it.
    Replay {
        /// The device.
        device: u32,
        /// The submission, as it was handed over.
        submission: Submission,
    },
    /// Nothing is outstanding: the vCPUs may be stopped.
    Drained(Drained),
    /// The drain failed: the vCPUs must go on.
    DrainFailed(DrainFailed),
    /// Everything has been replayed.
    Released(Released),
    /// The kernel had no room for so many events of the devices behind a vEVENTQ. The guest's event
    /// queue has an overflow flag for that.
    EventsLost {
        /// A device of the channel that the vEVENTQ belongs to.
        device: u32,
        /// How many.
        count: u32,
    },
    /// The faults of a device can no longer be answered.
    DeviceLost {
        /// The device.
        device: u32,
        /// A [`crate::wire::LostReason`].
        reason: u32,
    },
}

impl TryFrom<&Message> for Event {
    type Error = FrontendError;

    fn try_from(message: &Message) -> Result<Self, FrontendError> {
        let device = message.device.get();
        match message.message_type() {
            Some(MessageType::SmmuEvent) => Ok(Self::Smmu {
                device,
                record: message.payload(),
            }),
            Some(MessageType::Replay) => Ok(Self::Replay {
                device,
                submission: message.payload(),
            }),
            Some(MessageType::Drained) => Ok(Self::Drained(message.payload())),
            Some(MessageType::DrainFailed) => Ok(Self::DrainFailed(message.payload())),
            Some(MessageType::Released) => Ok(Self::Released(message.payload())),
            Some(MessageType::EventsLost) => Ok(Self::EventsLost {
                device,
                count: message.payload::<U32>().get(),
            }),
            Some(MessageType::DeviceLost) => Ok(Self::DeviceLost {
                device,
                reason: message.payload::<U32>().get(),
            }),
            _ => Err(FrontendError::Protocol(format!(
                "message type {:#x} on the event ring",
                message.kind
            ))),
        }
    }
}
