// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Drains a guest's stalled DMA faults before the VM is stopped, as a vhost-user back-end.
//!
//! - [`wire`]: the records that cross a boundary of the process.
//! - [`core`]: the state machine, without I/O.
//! - [`state`]: the state stream.
//! - [`recovery`]: what outlives the process.
//! - [`backend`]: the shell around them: sockets, rings, threads.
//! - [`status`]: what an operator sees of it.
//! - [`report`]: what its event log says afterwards.
//! - `frontend` (with the feature of that name): what a VMM does to use it.
//! - [`sandbox`]: what the process gives up before it talks to anybody.

#![deny(unsafe_code)]

pub mod backend;
pub mod config;
pub mod core;
pub mod error;
#[cfg(feature = "frontend")]
pub mod frontend;
mod lock;
pub mod messages;
mod output_file;
mod printable;
pub mod recovery;
pub mod report;
pub mod sandbox;
mod seqlock;
pub mod state;
pub mod status;
mod sys;
mod trace;
pub mod wire;
