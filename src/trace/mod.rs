// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A trace for the Perfetto UI: what happened, on tracks for devices, processes of the guest,
//! drains, transfers of the state and replays.
//!
//! Data flows one way: an event becomes a few words (`moment`), of which slices, notes and counts
//! are made (`tracer`, `faults`), written (`writer`) as packets of protocol buffers (`proto`,
//! `schema`). The packets are made by the thread that writes the trace, or by the
//! one that answers at the status socket, of the last events that are kept (`recent`).

mod faults;
mod moment;
mod proto;
pub(crate) mod recent;
mod schema;
mod tracer;
mod writer;

pub(crate) use self::{moment::Moment, tracer::Tracer};
