// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a trace knows of an event: a few words.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    backend::events::{Event, Step},
    core::Observation,
};

/// Stands for no SSID.
pub const NO_SSID: u32 = u32::MAX;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum What {
    Connected = 1,
    Disconnected,
    Attached,
    Detached,
    DeviceReset,
    ChannelLost,
    Read,
    Emitted,
    Answered,
    Aborted,
    Written,
    Submitted,
    Replayed,
    DrainBegun,
    Quiesced,
    DrainComplete,
    DrainResumed,
    DrainFailed,
    ReleaseBegun,
    Released,
    Reset,
    Save,
    Saved,
    SaveFailed,
    LoadBegun,
    Loaded,
    LoadFailed,
    Lost,
}

const ALL: [What; 28] = [
    What::Connected,
    What::Disconnected,
    What::Attached,
    What::Detached,
    What::DeviceReset,
    What::ChannelLost,
    What::Read,
    What::Emitted,
    What::Answered,
    What::Aborted,
    What::Written,
    What::Submitted,
    What::Replayed,
    What::DrainBegun,
    What::Quiesced,
    What::DrainComplete,
    What::DrainResumed,
    What::DrainFailed,
    What::ReleaseBegun,
    What::Released,
    What::Reset,
    What::Save,
    What::Saved,
    What::SaveFailed,
    What::LoadBegun,
    What::Loaded,
    What::LoadFailed,
    What::Lost,
];

/// An event; what a kind has no use for is 0.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Moment {
    pub t_ns: u64,
    /// Address, generation, bytes or number of events.
    pub first: u64,
    /// Ticket, faults or submissions.
    pub second: u64,
    pub device: u32,
    pub sid: u32,
    pub ssid: u32,
    pub channel: u32,
    pub cookie: u32,
    pub stag: u16,
    what: u8,
    /// A write, as to a fault; a reason, as to a drain; a code, as to an answer.
    pub detail: u8,
}

/// How many words that is.
pub const WORDS: usize = size_of::<Moment>() / 8;

impl Moment {
    fn new(t_ns: u64, what: What) -> Self {
        Moment {
            t_ns,
            what: what as u8,
            ..Moment::default()
        }
    }

    /// What has happened; `None` if these words are of no moment.
    pub fn what(&self) -> Option<What> {
        ALL.into_iter().find(|what| *what as u8 == self.what)
    }

    /// What a trace knows of an event; `None`: nothing.
    pub fn of(t_ns: u64, event: &Event) -> Option<Self> {
        match event {
            Event::Core(observation) => Self::of_core(t_ns, observation),
            Event::Shell(step) => Self::of_shell(t_ns, step),
        }
    }

    fn of_shell(t_ns: u64, step: &Step) -> Option<Self> {
        let new = |what| Self::new(t_ns, what);
        let state = |what, bytes: usize, pending: usize| Moment {
            first: bytes as u64,
            second: pending as u64,
            ..new(what)
        };
        Some(match *step {
            Step::Listening => return None,
            Step::Connected => new(What::Connected),
            Step::Disconnected => new(What::Disconnected),
            Step::Save { bytes, pending } => state(What::Save, bytes, pending),
            Step::Saved { bytes } => state(What::Saved, bytes, 0),
            Step::SaveFailed { .. } => new(What::SaveFailed),
            Step::LoadBegin => new(What::LoadBegun),
            Step::Load { bytes, pending } => state(What::Loaded, bytes, pending),
            Step::LoadFailed { .. } => new(What::LoadFailed),
            Step::LogOverflow { dropped } => Moment {
                first: dropped,
                ..new(What::Lost)
            },
        })
    }

    /// Called with the core's lock held.
    pub fn of_core(t_ns: u64, observation: &Observation) -> Option<Self> {
        let new = |what| Self::new(t_ns, what);
        let of_device = |what, device| Moment {
            device,
            ..new(what)
        };
        let of_drain = |what, generation| Moment {
            first: generation,
            ..new(what)
        };
        Some(match *observation {
            Observation::Attached {
                device,
                sid,
                channel,
            } => Moment {
                sid,
                channel,
                ..of_device(What::Attached, device)
            },
            Observation::Detached { device, .. } => of_device(What::Detached, device),
            Observation::DeviceReset { device, .. } => of_device(What::DeviceReset, device),
            Observation::ChannelLost { channel, .. } => Moment {
                channel,
                ..new(What::ChannelLost)
            },
            Observation::FaultRead {
                device,
                sid,
                ssid,
                stag,
                addr,
                write,
                channel,
                cookie,
                ..
            } => Moment {
                first: addr,
                sid,
                ssid: ssid.unwrap_or(NO_SSID),
                channel,
                cookie,
                stag,
                detail: write.into(),
                ..of_device(What::Read, device)
            },
            Observation::EventEmitted { device, stag, .. } => Moment {
                stag,
                ..of_device(What::Emitted, device)
            },
            Observation::GuestAnswered {
                device,
                sid,
                stag,
                channel,
                cookie,
                code,
                ..
            } => Moment {
                sid,
                stag,
                channel,
                cookie,
                detail: low(code as u32),
                ..of_device(What::Answered, device)
            },
            Observation::FaultAborted {
                device,
                sid,
                stag,
                channel,
                cookie,
            } => Moment {
                sid,
                stag,
                channel,
                cookie,
                ..of_device(What::Aborted, device)
            },
            Observation::AnswerWritten {
                channel,
                cookie,
                code,
                faults,
            } => Moment {
                second: faults.into(),
                channel,
                cookie,
                detail: low(code as u32),
                ..new(What::Written)
            },
            Observation::AnswerAborted {
                channel,
                cookie,
                faults,
            } => Moment {
                second: faults.into(),
                channel,
                cookie,
                detail: u8::MAX,
                ..new(What::Written)
            },
            Observation::Submitted {
                device,
                ticket,
                pending,
            } => Moment {
                first: pending.into(),
                second: ticket,
                ..of_device(What::Submitted, device)
            },
            Observation::Replayed { device, ticket, .. } => Moment {
                second: ticket,
                ..of_device(What::Replayed, device)
            },
            Observation::DrainBegun { generation, .. } => of_drain(What::DrainBegun, generation),
            Observation::DeviceQuiesced {
                device, generation, ..
            } => Moment {
                first: generation,
                ..of_device(What::Quiesced, device)
            },
            Observation::DrainComplete {
                generation,
                answered,
                ..
            } => Moment {
                second: answered.into(),
                ..of_drain(What::DrainComplete, generation)
            },
            Observation::DrainResumed { generation } => of_drain(What::DrainResumed, generation),
            Observation::DrainFailed {
                generation,
                reason,
                outstanding,
                ..
            } => Moment {
                second: outstanding.into(),
                detail: low(reason as u32),
                ..of_drain(What::DrainFailed, generation)
            },
            Observation::ReleaseBegun {
                generation,
                pending,
            } => Moment {
                second: pending.into(),
                ..of_drain(What::ReleaseBegun, generation)
            },
            Observation::Released {
                generation,
                replayed,
                ..
            } => Moment {
                second: replayed,
                ..of_drain(What::Released, generation)
            },
            Observation::Reset { .. } => new(What::Reset),
            _ => return None,
        })
    }
}

fn low(value: u32) -> u8 {
    value.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_each_kind_of_moment_has_a_number_of_its_own() {
        for (index, what) in ALL.into_iter().enumerate() {
            assert_eq!(usize::from(what as u8), index + 1);
            assert_eq!(Moment::new(1, what).what(), Some(what));
        }
        assert_eq!(Moment::default().what(), None);
    }
}
