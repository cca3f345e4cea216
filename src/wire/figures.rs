// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the config space and the status block both say.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{U32, U64};

/// A part of [`super::ConfigSpace`] and of [`super::StatusBlock`], at the same offset in both.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Figures {
    /// Faults read and not answered yet.
    pub outstanding: U32,
    /// Submissions queued.
    pub pending: U32,
    /// Events that wait for a buffer.
    pub backlog: U32,
    /// Faults read.
    pub faults_read: U64,
    /// Faults answered.
    pub faults_answered: U64,
    /// Answers that came after the kernel had aborted the fault itself.
    pub answers_aborted: U64,
    /// Answers of the guest that matched nothing.
    pub unknown_answers: U64,
    /// Submissions received.
    pub submissions: U64,
    /// Submissions replayed.
    pub replays: U64,
    /// Drains begun.
    pub drains: U64,
    /// Drains failed.
    pub drains_failed: U64,
    /// SID of the oldest outstanding fault.
    pub oldest_sid: U32,
    /// SSID of the oldest outstanding fault.
    pub oldest_ssid: U32,
    /// Input address of the oldest outstanding fault.
    pub oldest_addr: U64,
}

/// Lets the fields be read as those of the record that they are a part of.
macro_rules! has_figures {
    ($record:ty) => {
        impl std::ops::Deref for $record {
            type Target = $crate::wire::Figures;

            fn deref(&self) -> &Self::Target {
                &self.figures
            }
        }

        const _: () = assert!(std::mem::offset_of!($record, figures.outstanding) == 0x1c);
        const _: () = assert!(std::mem::offset_of!($record, figures.faults_read) == 0x28);
        const _: () = assert!(std::mem::offset_of!($record, figures.drains_failed) == 0x60);
        const _: () = assert!(std::mem::offset_of!($record, figures.oldest_sid) == 0x68);
        const _: () = assert!(std::mem::offset_of!($record, figures.oldest_addr) == 0x70);
    };
}
pub(super) use has_figures;
