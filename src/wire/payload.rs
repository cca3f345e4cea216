// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The part of a message or packet that depends on its type.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::U32;

/// Size of the part of a message that depends on its type.
pub const PAYLOAD_SIZE: usize = 48;

/// What a payload can hold.
pub trait Payload: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned {
    /// The payload that begins with this and has zeroes after it.
    fn to_payload(&self) -> [u8; PAYLOAD_SIZE]
    where
        Self: Sized,
    {
        const { assert!(size_of::<Self>() <= PAYLOAD_SIZE) };
        let mut bytes = [0; PAYLOAD_SIZE];
        bytes[..size_of::<Self>()].copy_from_slice(self.as_bytes());
        bytes
    }

    /// What the payload begins with.
    fn from_payload(bytes: &[u8; PAYLOAD_SIZE]) -> Self
    where
        Self: Sized,
    {
        const { assert!(size_of::<Self>() <= PAYLOAD_SIZE) };
        let mut value = Self::new_zeroed();
        value
            .as_mut_bytes()
            .copy_from_slice(&bytes[..size_of::<Self>()]);
        value
    }
}

impl Payload for [u8; 0] {}
impl Payload for [u8; super::SMMU_COMMAND_SIZE] {}
impl Payload for [u8; super::EVENT_RECORD_SIZE] {}
impl Payload for U32 {}
