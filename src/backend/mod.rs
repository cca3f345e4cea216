// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The state machine's shell: vhost-user, rings, fault channels, attach channel, state transfer.
//!
//! | Thread | Does |
//! |---|---|
//! | main | waits for connections and signals, interrupts calls that a peer blocks (`guard`) |
//! | `vsva` | vhost-user requests; waits for the others only as long as what they have begun takes |
//! | `vsva-wait` | the end of a connection |
//! | `vring_worker` | messages of the portal ring, the answers and events that come of them |
//! | `vsva-engine` | faults and the events that come of them, attach channel, deadline, watchdog |
//! | `vsva-save`, `vsva-load` | the bytes of one state transfer |
//! | `vsva-log`, `vsva-messages` | write the event log, and the messages on stderr |

mod attach;
mod channels;
mod connection;
mod engine;
pub(crate) mod events;
mod instance;
mod link;
mod process;
mod published;
mod recovery;
mod rings;
mod sealed;
mod shell;
mod state;
mod wait;
mod watchdog;

pub use process::{capabilities, run};
