// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! When a state transfer takes effect, and what ends it.

use std::{
    io::{Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
};

use vhost::vhost_user::message::VhostTransferStateDirection;
use vhost_user_vsva::{core::Phase, frontend::Frontend};

use crate::support::{attachment, Backend, FaultSource};

const LOAD: VhostTransferStateDirection = VhostTransferStateDirection::LOAD;
const SAVE: VhostTransferStateDirection = VhostTransferStateDirection::SAVE;

fn phase(frontend: &mut Frontend) -> u32 {
    frontend.config().unwrap().phase.get()
}

/// The front end's end of a transfer that has begun.
fn begun(frontend: &mut Frontend, direction: VhostTransferStateDirection) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let channel = frontend.transfer(direction, theirs.into()).unwrap();
    assert!(channel.is_none());
    ours
}

/// A front end that has sent the whole of a state to be loaded, and not asked for the result.
fn loading(backend: &Backend) -> (Frontend, Vec<u8>) {
    let mut frontend = backend.negotiate();
    let state = frontend.save().unwrap();
    let mut channel = begun(&mut frontend, LOAD);
    channel.write_all(&state).unwrap();
    drop(channel);
    (frontend, state)
}

#[test]
fn test_load_takes_effect_at_check_and_not_before() {
    let backend = Backend::start();
    let (mut frontend, _) = loading(&backend);

    assert_eq!(phase(&mut frontend), Phase::Running as u32);
    frontend.check_state().unwrap();
    assert_eq!(phase(&mut frontend), Phase::Loaded as u32);
    frontend.check_state().unwrap_err();
}

#[test]
fn test_load_without_check_has_no_effect_when_the_connection_ends() {
    let backend = Backend::start();
    let (frontend, state) = loading(&backend);
    drop(frontend);

    let mut frontend = backend.negotiate();
    frontend.check_state().unwrap_err();
    assert_eq!(phase(&mut frontend), Phase::Running as u32);
    frontend.load(&state).unwrap();
}

#[test]
fn test_check_while_the_front_end_keeps_its_end_open_fails_and_ends_the_transfer() {
    let backend = Backend::start();
    let mut frontend = backend.negotiate();
    let state = frontend.save().unwrap();
    let mut channel = begun(&mut frontend, LOAD);
    channel.write_all(&state).unwrap();

    frontend.check_state().unwrap_err();

    assert_eq!(phase(&mut frontend), Phase::Running as u32);
    drop(channel);
    frontend.check_state().unwrap_err();
    frontend.load(&state).unwrap();
}

#[test]
fn test_save_is_of_the_moment_of_its_request() {
    let backend = Backend::start();
    let mut frontend = backend.negotiate();
    let mut channel = begun(&mut frontend, SAVE);
    let (_source, fd) = FaultSource::new(100);
    let mut attach = frontend.attach_channel().unwrap();
    attach.attach(&attachment(0), Some(fd.as_fd())).unwrap();
    let mut state = Vec::new();
    channel.read_to_end(&mut state).unwrap();
    frontend.check_state().unwrap();

    // A back-end without the device takes it.
    Backend::start().negotiate().load(&state).unwrap();
    Backend::start()
        .negotiate()
        .load(&frontend.save().unwrap())
        .unwrap_err();
}
