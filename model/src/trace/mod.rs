// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What QEMU and back-ends have recorded, fed to the front end's state machine.
//!
//! A trace may end anywhere: programs are killed. What it has must follow the rules of
//! docs/protocol.md, section 10.

mod events;
mod lanes;
mod machine;
mod qemu;
mod replay;

use std::path::PathBuf;

use thiserror::Error;

use crate::front_end::Violation;

pub use replay::{replay, BackEndLog, Inputs, Summary};

/// What is wrong, and where.
#[derive(Debug, Error)]
pub enum TraceError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not as QEMU's series or the back-end writes it.
    #[error("{}:{line}: not understood, {what}: {text}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is missing.
        what: String,
        /// The line.
        text: String,
    },
    /// A step that a rule forbids.
    #[error("{}:{line}: {violation} ({state}): {text}", path.display())]
    Illegal {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// The rule, and what breaks it.
        violation: Violation,
        /// The state of the front end's machine before the step.
        state: String,
        /// The line.
        text: String,
    },
    /// The files that were named do not belong together.
    #[error("{0}")]
    Inputs(String),
}

/// A line of a file.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    line: usize,
    text: &'a str,
}
