// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Drains a guest's stalled DMA faults before the VM is stopped, as a vhost-user back-end.
//!
//! - [`wire`]: the records that cross a boundary of the process.
//! - [`core`]: the state machine, without I/O.
//! - [`state`]: the state stream.

pub mod core;
pub mod state;
pub mod wire;
