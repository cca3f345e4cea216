// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The built program, driven over its real sockets by the front end of this crate.

mod connection;
mod control;
mod drain;
mod faults;
mod groups;
mod logs;
mod process;
mod raw;
mod recovery;
mod refused;
mod report;
mod reset;
mod robustness;
mod share;
mod shared_memory;
mod shell;
mod state;
mod status;
mod stuck_transfer;
mod support;
mod transfer;
