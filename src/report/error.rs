// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Why there is no report.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Why there is no report.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum ReportError {
    #[error("Cannot open {path:?}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("Cannot read {path:?}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?}, line {number}: {reason}; it is no event log of vhost-user-vsva")]
    Line {
        path: PathBuf,
        number: u64,
        reason: String,
    },
    #[error("{0:?} has no events")]
    Empty(PathBuf),
    #[error("Cannot write {path:?}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("The picture would replace {0:?}, an event log; choose another --output")]
    SameFile(PathBuf),
    #[error("{0:?} is named twice; name it once, and the log of the other host")]
    Twice(PathBuf),
    #[error("No drain has the generation {0}")]
    NoDrain(u64),
}
