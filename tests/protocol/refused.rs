// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Descriptors that are refused instead of being taken without a look.

use std::{fs::File, os::fd::AsFd};

use rustix::{
    event::{eventfd, EventfdFlags},
    fs::{fcntl_add_seals, memfd_create, MemfdFlags, SealFlags},
};

use crate::{
    raw::{self, Raw},
    support::Backend,
};

fn negotiated(backend: &Backend) -> Raw {
    Raw::negotiated(backend, raw::ALL_PROTOCOL)
}

#[test]
fn test_kick_that_is_no_eventfd_is_refused() {
    let backend = Backend::start();
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let ring = raw::words(&[0, 0]);
    negotiated(&backend).assert_refused_with(raw::SET_VRING_KICK, &ring, pipe.as_fd());
    backend.connect();
}

#[test]
fn test_kick_in_the_place_of_one_that_is_waited_for_is_refused() {
    let backend = Backend::start();
    let kick = File::from(eventfd(0, EventfdFlags::empty()).unwrap());
    let mut raw = negotiated(&backend);
    let ring = raw::words(&[0, 0]);
    let started = raw.acknowledged_with(raw::SET_VRING_KICK, &ring, kick.as_fd());
    let enabled = raw.acknowledged(raw::SET_VRING_ENABLE, &raw::words(&[0, 1]));
    assert_eq!((started, enabled), (0, 0));
    raw.assert_refused_with(raw::SET_VRING_KICK, &ring, kick.as_fd());
}

fn mem_table(size: u32) -> Vec<u8> {
    raw::words(&[1, 0, 0, 0, size, 0, 0x1000, 0, 0, 0])
}

fn ring_memory(seals: SealFlags) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = File::from(memfd_create("rings", flags).unwrap());
    memfd.set_len(0x4000).unwrap();
    fcntl_add_seals(&memfd, seals).unwrap();
    memfd
}

#[test]
fn test_ring_memory_beyond_its_file_is_refused() {
    let backend = Backend::start();
    let memfd = ring_memory(SealFlags::SHRINK);
    let mut raw = negotiated(&backend);
    let within = raw.acknowledged_with(raw::SET_MEM_TABLE, &mem_table(0x4000), memfd.as_fd());
    assert_eq!(within, 0);
    raw.assert_refused_with(raw::SET_MEM_TABLE, &mem_table(0x5000), memfd.as_fd());
    backend.connect();
}

#[test]
fn test_ring_memory_that_can_shrink_is_refused() {
    let backend = Backend::start();
    let memfd = ring_memory(SealFlags::GROW);
    let table = mem_table(0x4000);
    negotiated(&backend).assert_refused_with(raw::SET_MEM_TABLE, &table, memfd.as_fd());
    backend.connect();
}
