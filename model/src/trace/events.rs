// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The back-end's event log (docs/backend.md): one JSON object a line.

use serde::Deserialize;

use super::lanes::{Portal, Sent};

/// A line of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A front end has begun anew, which is the first thing that QEMU does.
    Reset,
    /// It has gone.
    Disconnected,
    /// A message of the portal ring was taken.
    Taken(Portal),
    /// A message of the event ring was sent.
    Sent(Sent),
    /// Some lines are missing from here on.
    Overflow,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum Record {
    Disconnected,
    Reset {},
    SubmissionQueued {
        device: u32,
        ticket: u64,
    },
    SubmissionDropped {
        device: u32,
        ticket: u64,
    },
    DrainBegin {
        generation: u64,
    },
    Quiesced {
        device: u32,
        generation: u64,
    },
    Release {
        generation: u64,
    },
    DeviceReset {
        device: u32,
    },
    Replay {
        ticket: u64,
    },
    Drained {
        generation: u64,
    },
    DrainFailedSent {
        generation: u64,
    },
    Released {
        generation: u64,
        next_ticket: u64,
    },
    LogOverflow,
    #[serde(other)]
    Other,
}

/// What a line tells of.
pub fn parse(text: &str) -> Result<Option<Event>, String> {
    let record: Record = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(Some(match record {
        Record::Disconnected => Event::Disconnected,
        Record::Reset {} => Event::Reset,
        Record::SubmissionQueued { device, ticket }
        | Record::SubmissionDropped { device, ticket } => {
            Event::Taken(Portal::Submit { device, ticket })
        }
        Record::DrainBegin { generation } => Event::Taken(Portal::Drain { generation }),
        Record::Quiesced { device, generation } => {
            Event::Taken(Portal::Quiesced { device, generation })
        }
        Record::Release { generation } => Event::Taken(Portal::Release { generation }),
        Record::DeviceReset { device } => Event::Taken(Portal::Reset { device }),
        Record::Replay { ticket } => Event::Sent(Sent::Replay { ticket }),
        Record::Drained { generation } => Event::Sent(Sent::Drained { generation }),
        Record::DrainFailedSent { generation } => Event::Sent(Sent::DrainFailed { generation }),
        Record::Released {
            generation,
            next_ticket,
        } => Event::Sent(Sent::Released {
            generation,
            next_ticket,
        }),
        Record::LogOverflow => Event::Overflow,
        Record::Other => return Ok(None),
    }))
}
