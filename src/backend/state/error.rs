// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Why a state could not be moved.

use std::io;

use thiserror::Error;

use crate::{
    core::{RestoreError, SnapshotError},
    state::DecodeError,
};

/// Why a state could not be saved or loaded.
#[derive(Debug, Error)]
pub enum StateError {
    /// It cannot be saved now.
    #[error("cannot save the state: {0}")]
    Snapshot(#[from] SnapshotError),
    /// The bytes did not get through.
    #[error("{0}")]
    Transfer(#[from] TransferError),
    /// The stream is damaged, or of another version.
    #[error("cannot load the state: {0}")]
    Decode(#[from] DecodeError),
    /// The state does not fit this back-end.
    #[error("cannot load the state: {0}")]
    Restore(#[from] RestoreError),
}

/// Why a transfer failed.
#[derive(Debug, Error)]
pub enum TransferError {
    /// Another transfer is under way.
    #[error("a state transfer is under way already")]
    Busy,
    /// CHECK_DEVICE_STATE without a transfer before it.
    #[error("there was no state transfer to check")]
    NoTransfer,
    /// The front end keeps its end open.
    #[error("the front end checks the state before it has closed its end of the channel")]
    Unfinished,
    /// Front ends keep the threads of former transfers blocked.
    #[error("{0} state transfers of before are blocked by the descriptors they were given")]
    LeftBehind(usize),
    /// The descriptor failed.
    #[error("cannot transfer the state: {0}")]
    Io(#[from] io::Error),
    /// Nothing moved.
    #[error("the front end has not moved any state for {0} s")]
    Idle(i64),
    /// The transfer was stopped.
    #[error("the state transfer was cancelled")]
    Cancelled,
}
