// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Fault files and vEVENTQs, and the table of those that are open.
//!
//! | File | Knows |
//! |---|---|
//! | `fault_file` | how a fault file of the kernel, or a socket with the same bytes, is read and written |
//! | `veventq` | how a vEVENTQ of the kernel is read |
//! | `recover` | how faults are found that a former back-end has left unanswered |
//! | `open_channel` | the descriptors of one channel |
//! | `table` | which channels are open: opens them, closes them, decides what their ends mean |
//! | `traffic` | the way of faults and answers between the files and the core |

pub mod fault_file;
#[cfg(feature = "failpoints")]
mod model_file;
pub mod open_channel;
mod recover;
pub mod table;
mod traffic;
pub mod veventq;
