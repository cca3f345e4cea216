// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of the state machine through its public functions.

mod attach;
mod drain;
mod faults;
mod hold;
mod kernel_model;
mod oracle;
mod output;
mod page_requests;
mod persist;
mod portal;
mod quiet;
mod random_model;
mod reset;
mod rig;
mod share;
mod stage_one;
mod untaken;
mod work;
