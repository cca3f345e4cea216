// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Tests of [`Transfer`] on its own.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use zerocopy::FromZeros;

use super::*;
use crate::{state::StateVersion, wire::Message};

fn pair() -> (UnixStream, File) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours, File::from(OwnedFd::from(theirs)))
}

fn count(stream: &mut Stream) -> Result<Loaded, StateError> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).map_err(TransferError::from)?;
    Ok(Loaded {
        data: StateData::default(),
        bytes: all.len(),
    })
}

#[test]
fn test_save_larger_than_the_channel_arrives_whole() {
    let (mut peer, file) = pair();
    let data = StateData {
        pending: vec![Message::new_zeroed(); 1 << 15],
        ..StateData::default()
    };
    let state = StateVersion::default().encode(data);
    let stream = state.parts().concat();
    let transfer = Transfer::default();
    transfer.save(file, state).unwrap();
    let mut received = Vec::new();
    peer.read_to_end(&mut received).unwrap();
    assert_eq!(received, stream);
    let result = transfer.check().1;
    assert!(matches!(result, Ok(Transferred::Saved(n)) if n == stream.len()));
}

#[test]
fn test_load_that_is_refused_reads_on_so_that_the_peer_can_finish() {
    let (mut peer, file) = pair();
    let transfer = Transfer::default();
    let refuse = |_: &mut Stream| Err(StateError::from(TransferError::NoTransfer));
    transfer.load(file, refuse).unwrap();
    peer.write_all(&vec![0; 1 << 20]).unwrap();
    drop(peer);
    transfer.check().1.unwrap_err();
}

#[test]
fn test_second_transfer_while_one_is_under_way_is_refused() {
    let (peer, file) = pair();
    let (_other_peer, other) = pair();
    let transfer = Transfer::default();
    transfer.load(file, count).unwrap();
    let second = transfer.load(other, count);
    assert!(matches!(second, Err(TransferError::Busy)));
    drop(peer);
    let result = transfer.check().1;
    assert!(matches!(result, Ok(Transferred::Received(s)) if s.bytes == 0));
}

#[test]
fn test_check_without_transfer_is_an_error() {
    let (direction, result) = Transfer::default().check();
    assert_eq!(direction, None);
    result.unwrap_err();
}

#[test]
fn test_save_to_a_closed_channel_is_reported_by_check() {
    let (peer, file) = pair();
    drop(peer);
    let transfer = Transfer::default();
    let state = StateVersion::default().encode(StateData::default());
    transfer.save(file, state).unwrap();
    let (direction, result) = transfer.check();
    assert_eq!(direction, Some(Direction::Save));
    result.unwrap_err();
}

#[test]
fn test_drop_with_a_transfer_under_way_ends_it() {
    let (_peer, file) = pair();
    let transfer = Transfer::default();
    transfer.load(file, count).unwrap();
    drop(transfer);
}
