// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What an operator sees of a back-end that runs (docs/status.md).
//!
//! Data flows one way: what the state machine is observed to do (`meter`) becomes words that others
//! read without waiting (`board`), these become a document, and the document becomes JSON,
//! Prometheus text or a table.

pub(crate) mod board;
pub(crate) mod cell;
pub mod client;
mod clients;
pub mod command;
pub mod document;
pub mod estimate;
pub mod histogram;
mod http;
pub(crate) mod meter;
pub mod metrics;
pub(crate) mod server;
pub mod table;
#[cfg(test)]
mod tests;
