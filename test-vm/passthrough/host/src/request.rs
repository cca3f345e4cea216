// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can be asked for.

use std::path::PathBuf;

use serde::Deserialize;

/// A line.
#[derive(Debug, Deserialize)]
pub struct Request {
    /// Comes back in the answer.
    pub id: u64,
    #[serde(flatten)]
    pub operation: Operation,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Operation {
    /// Runs a program; what it says is appended to `log`. Its end is told by an event.
    Start {
        argv: Vec<String>,
        log: PathBuf,
    },
    Signal {
        pid: u32,
        signal: i32,
    },
    /// A part of a file; the answer's `end` is the offset of what follows it.
    Read {
        path: PathBuf,
        offset: u64,
    },
    /// To a file that exists or not, by one system call.
    Write {
        path: PathBuf,
        text: String,
    },
    /// The names in a folder.
    List {
        path: PathBuf,
    },
    /// The last part of what a symbolic link refers to.
    Link {
        path: PathBuf,
    },
    Module {
        path: PathBuf,
        options: String,
    },
    PowerOff,
}
