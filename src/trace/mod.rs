// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A trace for the Perfetto UI: what happened, on tracks for devices, processes of the guest, drains,
//! transfers of the state and replays.
//!
//! Data flows one way: an event becomes a few words (`moment`), which become packets (`tracks`) of
//! protocol buffers (`proto`). The packets are made by the thread that writes the trace, or by the
//! one that answers at the status socket, of the last events that are kept (`recent`).

mod moment;
mod proto;
pub(crate) mod recent;
mod tracks;

pub(crate) use self::{moment::Moment, tracks::Tracer};
