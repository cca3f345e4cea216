// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages of the portal ring and of the event ring.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes, Unaligned};

use super::{Payload, PAYLOAD_SIZE, U16, U32, U64};

/// Size of every ring message.
pub const MESSAGE_SIZE: usize = 64;
/// Device number that stands for none, or for all.
pub const DEVICE_NONE: u32 = u32::MAX;
/// [`DrainFailed::flags`], [`super::ConfigSpace::oldest_flags`]: the fault fields are valid.
pub const FAULT_INFO_VALID: u32 = 1 << 0;
/// [`DrainFailed::flags`], [`super::ConfigSpace::oldest_flags`]: the SSID is valid.
pub const FAULT_INFO_SSID_VALID: u32 = 1 << 1;

/// A message of either ring.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Message {
    /// A [`MessageType`].
    pub kind: U16,
    /// Reserved, zero.
    pub flags: U16,
    /// The device concerned, or [`DEVICE_NONE`].
    pub device: U32,
    /// Number of this message on its ring, from 1.
    pub seq: U64,
    /// Depends on the type.
    pub payload: [u8; PAYLOAD_SIZE],
}

const _: () = assert!(size_of::<Message>() == MESSAGE_SIZE);

impl Message {
    /// A message with sequence number 0, which the sender fills in.
    pub fn new<P: Payload>(kind: MessageType, device: u32, payload: &P) -> Self {
        Self {
            kind: U16::new(kind as u16),
            flags: U16::ZERO,
            device: U32::new(device),
            seq: U64::ZERO,
            payload: payload.to_payload(),
        }
    }

    /// The message's type, if it is a known one.
    pub fn message_type(&self) -> Option<MessageType> {
        MessageType::from_raw(self.kind.get())
    }

    /// The first bytes of the payload as a `P`.
    pub fn payload<P: Payload>(&self) -> P {
        P::from_payload(&self.payload)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("kind", &format_args!("{:#x}", self.kind.get()))
            .field("device", &self.device.get())
            .field("seq", &self.seq.get())
            .field("payload", &self.payload)
            .finish_non_exhaustive()
    }
}

/// Type of a [`Message`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, TryFromBytes)]
#[repr(u16)]
pub enum MessageType {
    /// Portal ring: an SMMUv3 command as the guest wrote it.
    SmmuCmd = 1,
    /// Portal ring: a guest write to a trapped portal ([`Submission`]).
    Submit = 2,
    /// Portal ring: a device has no DMA in flight ([`GenerationPayload`]).
    DeviceQuiesced = 3,
    /// Portal ring: begin to drain ([`DrainRequest`]).
    Drain = 4,
    /// Portal ring: replay and end the drain ([`GenerationPayload`]).
    Release = 5,
    /// Portal ring: a device was reset.
    Reset = 6,
    /// Event ring: an SMMUv3 event record ([`super::EventRecord`]).
    SmmuEvent = 0x101,
    /// Event ring: a queued submission ([`Submission`]).
    Replay = 0x102,
    /// Event ring: the drain succeeded ([`Drained`]).
    Drained = 0x103,
    /// Event ring: the drain failed ([`DrainFailed`]).
    DrainFailed = 0x104,
    /// Event ring: the queue is empty ([`Released`]).
    Released = 0x105,
    /// Event ring: a device's fault channel is gone ([`LostReason`] as `u32`).
    DeviceLost = 0x106,
    /// Event ring: the kernel had no room for so many events (`u32`).
    EventsLost = 0x107,
}

impl MessageType {
    /// The type with this number.
    pub fn from_raw(raw: u16) -> Option<Self> {
        zerocopy::try_transmute!(raw).ok()
    }
}

/// Payload of SUBMIT and REPLAY: one guest write to a trapped portal.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Submission {
    /// Region of the device.
    pub region: U32,
    /// Bytes written: 1, 2, 4, 8 or 16.
    pub size: U32,
    /// Offset within the region.
    pub offset: U64,
    /// Number of this submission among all of the VM.
    pub ticket: U64,
    /// The bytes written.
    pub data: [u8; 16],
    /// Reserved, zero.
    pub reserved: [u8; 8],
}

const _: () = assert!(size_of::<Submission>() == PAYLOAD_SIZE);

impl Submission {
    /// Whether `size` is one of those that a portal write can have.
    pub fn size_is_valid(&self) -> bool {
        matches!(self.size.get(), 1 | 2 | 4 | 8 | 16)
    }
}

impl Payload for Submission {}

/// Payload of DEVICE_QUIESCED and RELEASE.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct GenerationPayload {
    /// Generation of the drain concerned.
    pub generation: U64,
}

impl Payload for GenerationPayload {}

/// Payload of DRAIN.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DrainRequest {
    /// Number that the front end gave to this drain.
    pub generation: U64,
    /// Time after which the drain has failed.
    pub timeout_ms: U32,
    /// Reserved, zero.
    pub reserved: U32,
}

impl Payload for DrainRequest {}

/// Payload of DRAINED.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Drained {
    /// Generation of the drain.
    pub generation: U64,
    /// Time the drain took.
    pub duration_ns: U64,
    /// Faults answered while draining.
    pub answered: U32,
    /// Submissions queued.
    pub pending: U32,
}

impl Payload for Drained {}

/// Payload of DRAIN_FAILED.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DrainFailed {
    /// Generation of the drain.
    pub generation: U64,
    /// A [`DrainFailedReason`].
    pub reason: U32,
    /// Outstanding faults.
    pub outstanding: U32,
    /// SID of the oldest outstanding fault.
    pub sid: U32,
    /// SSID of the oldest outstanding fault.
    pub ssid: U32,
    /// Input address of the oldest outstanding fault.
    pub addr: U64,
    /// Age of the oldest outstanding fault.
    pub age_ms: U32,
    /// [`FAULT_INFO_VALID`], [`FAULT_INFO_SSID_VALID`].
    pub flags: U32,
    /// Answers that devices have not taken.
    pub untaken: U32,
    /// A device that has not taken its answers, [`DEVICE_NONE`] if it is detached; only if
    /// `untaken` is not 0.
    pub untaken_device: U32,
}

const _: () = assert!(size_of::<DrainFailed>() == 48);

impl Payload for DrainFailed {}

/// Why a drain failed.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, TryFromBytes, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub enum DrainFailedReason {
    /// The deadline passed.
    Deadline = 1,
    /// The fault table was still full at the deadline.
    FaultTableFull = 2,
    /// A fault channel ended or broke while draining.
    FaultChannel = 3,
    /// DRAIN came in a phase that does not allow it. Version 1 has no such phase.
    Busy = 4,
}

impl DrainFailedReason {
    /// The reason with this number.
    pub fn from_raw(raw: u32) -> Option<Self> {
        zerocopy::try_transmute!(raw).ok()
    }
}

/// Payload of RELEASED.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Released {
    /// Generation of the RELEASE that this answers.
    pub generation: U64,
    /// Every smaller ticket has been replayed.
    pub next_ticket: U64,
    /// Submissions replayed since that RELEASE.
    pub replayed: U64,
}

impl Payload for Released {}

/// Payload of DEVICE_LOST: why a fault channel is gone.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, TryFromBytes, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub enum LostReason {
    /// The other side closed it.
    Ended = 1,
    /// Reading or writing failed.
    Io = 2,
    /// It carried records that break the rules of the channel.
    Protocol = 3,
    /// The process that owns the devices has ended.
    Owner = 4,
}

impl LostReason {
    /// The reason with this number.
    pub fn from_raw(raw: u32) -> Option<Self> {
        zerocopy::try_transmute!(raw).ok()
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn test_message_layout_matches_protocol() {
        let submission = Submission {
            region: U32::new(2),
            size: U32::new(8),
            offset: U64::new(0x40),
            ticket: U64::new(7),
            data: [0xaa; 16],
            reserved: [0; 8],
        };
        let mut message = Message::new(MessageType::Submit, 3, &submission);
        message.seq = U64::new(0x0102_0304_0506_0708);

        let bytes = message.as_bytes();

        assert_eq!(bytes[0x00..0x02], [2, 0]);
        assert_eq!(bytes[0x02..0x04], [0, 0]);
        assert_eq!(bytes[0x04..0x08], [3, 0, 0, 0]);
        assert_eq!(bytes[0x08..0x10], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[0x10..0x14], [2, 0, 0, 0]);
        assert_eq!(bytes[0x14..0x18], [8, 0, 0, 0]);
        assert_eq!(bytes[0x18..0x20], [0x40, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[0x20..0x28], [7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[0x28..0x38], [0xaa; 16]);
        assert_eq!(bytes[0x38..0x40], [0; 8]);
        assert_eq!(message.payload::<Submission>(), submission);
    }

    #[test]
    fn test_message_type_unknown_number_is_none() {
        assert_eq!(MessageType::from_raw(0), None);
        assert_eq!(MessageType::from_raw(7), None);
        assert_eq!(MessageType::from_raw(0x108), None);
        for raw in (1..=6).chain(0x101..=0x107) {
            let kind = MessageType::from_raw(raw);
            assert_eq!(kind.map(|kind| kind as u16), Some(raw));
        }
    }

    #[test]
    fn test_submission_size_other_than_power_of_two_is_invalid() {
        let with_size = |size| Submission {
            size: U32::new(size),
            ..Submission::new_zeroed()
        };

        let valid: Vec<u32> = (0..40).filter(|s| with_size(*s).size_is_valid()).collect();

        assert_eq!(valid, [1, 2, 4, 8, 16]);
    }

    #[test]
    fn test_drain_failed_payload_layout_matches_protocol() {
        let payload = DrainFailed {
            generation: U64::new(1),
            reason: U32::new(2),
            outstanding: U32::new(3),
            sid: U32::new(4),
            ssid: U32::new(5),
            addr: U64::new(6),
            age_ms: U32::new(7),
            flags: U32::new(3),
            untaken: U32::new(8),
            untaken_device: U32::new(9),
        };

        let message = Message::new(MessageType::DrainFailed, DEVICE_NONE, &payload);

        let words: Vec<u32> = message
            .payload
            .chunks(4)
            .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
            .collect();
        assert_eq!(words, [1, 0, 2, 3, 4, 5, 6, 0, 7, 3, 8, 9]);
    }
}
