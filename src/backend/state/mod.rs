// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Saving and loading the state on behalf of the front end.
//!
//! The front end learns of an error, but not which one: the text goes to the log here.

mod error;
mod stream;
pub mod transfer;

use std::fs::File;

use vhost::vhost_user::message::VhostTransferStateDirection;

use self::{
    error::StateError,
    transfer::{Direction, Loaded, Transfer, Transferred},
};
use super::{events::Step, instance::Backend};
use crate::recovery::point;

/// SET_DEVICE_STATE_FD: starts the transfer.
pub fn begin(
    backend: &Backend,
    transfer: &Transfer,
    direction: VhostTransferStateDirection,
    file: File,
) -> Result<(), StateError> {
    match direction {
        VhostTransferStateDirection::SAVE => save(backend, transfer, file)
            .inspect_err(|e| failed(backend, e, |error| Step::SaveFailed { error })),
        VhostTransferStateDirection::LOAD => {
            let version = backend.state_version;
            let limit = backend.state_limit;
            backend.shell.events.step(|| Step::LoadBegin);
            transfer
                .load(file, move |channel| {
                    let data = version.decode_within(limit, &mut *channel)?;
                    let bytes = channel.received();
                    Ok(Loaded { data, bytes })
                })
                .map_err(StateError::from)
                .inspect_err(|e| failed(backend, e, |error| Step::LoadFailed { error }))
        }
    }
}

/// CHECK_DEVICE_STATE: collects the result, and applies the state that has come in.
pub fn finish(backend: &Backend, transfer: &Transfer) -> Result<(), StateError> {
    let (direction, result) = transfer.check();
    point("checking");
    let result = result.and_then(|transferred| match transferred {
        Transferred::Saved(bytes) => {
            log::info!("state saved, {bytes} bytes");
            backend.shell.events.step(|| Step::Saved { bytes });
            Ok(())
        }
        Transferred::Received(loaded) => load(backend, &loaded),
    });
    result.inspect_err(|e| {
        failed(backend, e, |error| match direction {
            Some(Direction::Load) => Step::LoadFailed { error },
            Some(Direction::Save) | None => Step::SaveFailed { error },
        });
    })
}

fn failed(backend: &Backend, e: &StateError, step: impl FnOnce(String) -> Step) {
    log::error!("{e}");
    backend.shell.events.step(|| step(e.to_string()));
}

fn save(backend: &Backend, transfer: &Transfer, file: File) -> Result<(), StateError> {
    let data = backend.shell.core.step(|core, _| core.snapshot())?;
    let state = backend.state_version.encode(data);
    let (length, pending) = (state.length(), state.pending());
    point("saving");
    transfer.save(file, state)?;
    backend.shell.events.step(|| Step::Save {
        bytes: length,
        pending,
    });
    Ok(())
}

fn load(backend: &Backend, loaded: &Loaded) -> Result<(), StateError> {
    let Loaded { data, bytes } = loaded;
    point("loading");
    backend
        .shell
        .core
        .step(|core, now| core.restore(data, now))?;
    point("loaded");
    let (bytes, pending) = (*bytes, data.pending.len());
    log::info!("state loaded, {bytes} bytes, {pending} submissions");
    backend.shell.events.step(|| Step::Load { bytes, pending });
    backend.shell.settle();
    Ok(())
}
