// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Packets of the attach channel.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes, Unaligned};

use super::{Payload, PAYLOAD_SIZE, U32};

/// Size of every packet of the attach channel.
pub const ATTACH_PACKET_SIZE: usize = 64;
/// Room for the text of a reply.
pub const ATTACH_TEXT_SIZE: usize = 44;
/// UUID by which the front end asks for the attach channel (GET_SHARED_OBJECT).
pub const ATTACH_UUID: [u8; 16] = [
    0x8d, 0x3b, 0x7b, 0x2e, 0x41, 0xf6, 0x4c, 0x7e, 0x9b, 0x0a, 0x76, 0x73, 0x76, 0x61, 0x00, 0x01,
];
/// [`AttachPacket::flags`]: the device is answered by CMD_PRI_RESP.
pub const ATTACH_FLAG_PRI: u32 = 1 << 0;
/// [`AttachPacket::flags`]: a vEVENTQ descriptor follows.
pub const ATTACH_FLAG_VEVENTQ: u32 = 1 << 1;
/// [`AttachPacket::flags`]: a pidfd of the process that owns the devices follows.
pub const ATTACH_FLAG_OWNER: u32 = 1 << 2;
/// [`AttachPacket::flags`]: another back-end may have read faults from this fault file.
pub const ATTACH_FLAG_RECOVER: u32 = 1 << 3;

/// A request or a reply.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct AttachPacket {
    /// An [`AttachType`].
    pub kind: U32,
    /// The device, a number that the front end chose.
    pub device: U32,
    /// Chosen by the requester, echoed in the reply.
    pub seq: U32,
    /// [`ATTACH_FLAG_PRI`], [`ATTACH_FLAG_VEVENTQ`], [`ATTACH_FLAG_OWNER`],
    /// [`ATTACH_FLAG_RECOVER`].
    pub flags: U32,
    /// Depends on the type.
    pub payload: [u8; PAYLOAD_SIZE],
}

const _: () = assert!(size_of::<AttachPacket>() == ATTACH_PACKET_SIZE);

impl AttachPacket {
    /// A packet with sequence number and flags 0.
    pub fn new<P: Payload>(kind: AttachType, device: u32, payload: &P) -> Self {
        Self {
            kind: U32::new(kind as u32),
            device: U32::new(device),
            seq: U32::ZERO,
            flags: U32::ZERO,
            payload: payload.to_payload(),
        }
    }

    /// The packet's type, if it is a known one.
    pub fn attach_type(&self) -> Option<AttachType> {
        AttachType::from_raw(self.kind.get())
    }

    /// The first bytes of the payload as a `P`.
    pub fn payload<P: Payload>(&self) -> P {
        P::from_payload(&self.payload)
    }
}

/// Type of an [`AttachPacket`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, TryFromBytes)]
#[repr(u32)]
pub enum AttachType {
    /// Request: a device appears ([`AttachRequest`]).
    Attach = 1,
    /// Request: a device goes away.
    Detach = 2,
    /// Request: the page table of a device is about to change.
    Hold = 3,
    /// Request: it has been changed ([`UnholdRequest`]).
    Unhold = 4,
    /// Request: memory that both sides share ([`super::SharedMemoryRequest`]).
    SharedMemory = 5,
    /// Reply to ATTACH ([`AttachReply`]).
    AttachReply = 0x101,
    /// Reply to DETACH ([`AttachReply`]).
    DetachReply = 0x102,
    /// Reply to HOLD ([`AttachReply`]).
    HoldReply = 0x103,
    /// Reply to UNHOLD ([`AttachReply`]).
    UnholdReply = 0x104,
    /// Reply to SHARED_MEMORY ([`AttachReply`]).
    SharedMemoryReply = 0x105,
}

impl AttachType {
    /// The type with this number.
    pub fn from_raw(raw: u32) -> Option<Self> {
        zerocopy::try_transmute!(raw).ok()
    }
}

/// Payload of ATTACH.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct AttachRequest {
    /// SID of the device as the guest knows it.
    pub vsid: U32,
    /// `dev_id` of the device in the records of its fault channel.
    pub iommufd_dev_id: U32,
    /// Number of the fault channel, chosen by the front end.
    pub channel: U32,
    /// Limit of outstanding faults, 0 for the back-end's own.
    pub max_outstanding: U32,
}

impl Payload for AttachRequest {}

/// Payload of UNHOLD.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct UnholdRequest {
    /// 1: the kernel has aborted every fault of the device; 0: nothing has changed.
    pub aborted: U32,
}

impl Payload for UnholdRequest {}

/// Payload of all replies.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct AttachReply {
    /// 0 or an errno.
    pub status: U32,
    /// Why it failed, UTF-8, padded with NUL.
    pub text: [u8; ATTACH_TEXT_SIZE],
}

const _: () = assert!(size_of::<AttachReply>() == PAYLOAD_SIZE);

impl Payload for AttachReply {}

impl AttachReply {
    /// A reply; `text` is cut to what fits, at a character boundary.
    pub fn new(status: u32, text: &str) -> Self {
        let end = (0..=text.len().min(ATTACH_TEXT_SIZE))
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        let mut bytes = [0; ATTACH_TEXT_SIZE];
        bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        Self {
            status: U32::new(status),
            text: bytes,
        }
    }

    /// The text without its padding.
    pub fn text(&self) -> String {
        let end = self
            .text
            .iter()
            .position(|b| *b == 0)
            .unwrap_or(ATTACH_TEXT_SIZE);
        String::from_utf8_lossy(&self.text[..end]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_attach_packet_layout_matches_protocol() {
        let request = AttachRequest {
            vsid: U32::new(8),
            iommufd_dev_id: U32::new(9),
            channel: U32::new(10),
            max_outstanding: U32::new(11),
        };
        let mut packet = AttachPacket::new(AttachType::Attach, 3, &request);
        packet.seq = U32::new(4);
        packet.flags = U32::new(ATTACH_FLAG_PRI);

        let words: Vec<u32> = packet
            .as_bytes()
            .chunks(4)
            .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
            .collect();

        assert_eq!(words[..8], [1, 3, 4, 1, 8, 9, 10, 11]);
        assert_eq!(words[8..], [0; 8]);
        assert_eq!(packet.payload::<AttachRequest>(), request);
    }

    #[test]
    fn test_attach_reply_long_text_is_cut_at_character() {
        let text = "ä".repeat(30);

        let reply = AttachReply::new(22, &text);

        assert_eq!(reply.text(), "ä".repeat(22));
        assert_eq!(AttachReply::new(0, "").text(), "");
        assert_eq!(AttachReply::new(0, &"ö".repeat(22)).text(), "ö".repeat(22));
        assert_eq!(
            AttachReply::new(0, &format!("x{text}")).text(),
            format!("x{}", "ä".repeat(21))
        );
    }

    #[test]
    fn test_attach_type_unknown_number_is_none() {
        assert_eq!(AttachType::from_raw(6), None);
        assert_eq!(AttachType::from_raw(0x102), Some(AttachType::DetachReply));
    }
}
