// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Fault files and vEVENTQs, and the table of those that are open.

pub mod channel;
pub mod fault_file;
pub mod recover;
pub mod stage_one;
pub mod veventq;
