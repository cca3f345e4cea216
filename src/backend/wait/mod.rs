// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What threads wait for, and an end to waiting.

pub mod guard;
pub mod poller;
pub mod progress;
pub mod timer;
pub mod wake;
