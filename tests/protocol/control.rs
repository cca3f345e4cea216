// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What each request is answered with, and which errors end the connection.

use vhost_user_vsva::{
    frontend::{Event, Frontend, Options},
    wire::ATTACH_UUID,
};

use crate::{
    raw::{self, Raw},
    support::{options, Backend, LONG},
};

#[test]
fn test_shared_object_by_uuid_in_the_order_of_its_text_is_the_attach_channel() {
    let backend = Backend::start();
    let mut raw = Raw::negotiated(&backend, raw::ALL_PROTOCOL);
    let text = "8d3b7b2e41f64c7e9b0a767376610001";
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap())
        .collect();
    let uuid: Vec<u8> = digits
        .chunks(2)
        .map(|pair| (pair[0] << 4) | pair[1])
        .collect();

    let reply = raw.ask(raw::GET_SHARED_OBJECT, &uuid);

    assert_eq!(uuid, ATTACH_UUID);
    assert!(reply.body.is_empty());
    let kind = rustix::net::sockopt::socket_type(reply.fd.expect("a descriptor"));
    assert_eq!(kind, Ok(rustix::net::SocketType::SEQPACKET));
}

#[test]
fn test_shared_object_by_another_uuid_brings_no_descriptor_and_keeps_the_connection() {
    let backend = Backend::start();
    let mut raw = Raw::negotiated(&backend, raw::ALL_PROTOCOL);
    // As a GUID is stored on a little-endian machine.
    let mut swapped = ATTACH_UUID;
    swapped[..4].reverse();
    swapped[4..6].reverse();
    swapped[6..8].reverse();

    let reply = raw.ask(raw::GET_SHARED_OBJECT, &swapped);

    assert!(reply.body.is_empty());
    assert!(reply.fd.is_none());
    raw.assert_served();
}

#[test]
fn test_request_without_its_protocol_feature_ends_the_connection() {
    let backend = Backend::start();
    for (feature, code, body) in [
        (raw::MQ, raw::GET_QUEUE_NUM, &[][..]),
        (raw::CONFIG, raw::GET_CONFIG, &[0; 12]),
        (raw::SHARED_OBJECT, raw::GET_SHARED_OBJECT, &ATTACH_UUID),
        (raw::PROTOCOL_RESET_DEVICE, raw::RESET_DEVICE, &[]),
    ] {
        let mut raw = Raw::negotiated(&backend, raw::ALL_PROTOCOL & !feature);
        raw.send(code, body);
        raw.assert_ended();
    }
}

#[test]
fn test_ring_enabled_without_protocol_features_ends_the_connection() {
    let backend = Backend::start();
    let mut raw = Raw::new(&backend);
    raw.ask(raw::GET_FEATURES, &[]);
    raw.send(raw::SET_FEATURES, &(1u64 << 32).to_le_bytes());

    raw.send(raw::SET_VRING_ENABLE, &[0, 0, 0, 0, 1, 0, 0, 0]);

    raw.assert_ended();
}

#[test]
fn test_feature_that_was_not_offered_is_refused_and_ends_the_connection() {
    let backend = Backend::start();
    let mut raw = Raw::negotiated(&backend, raw::ALL_PROTOCOL);
    // VIRTIO_RING_F_EVENT_IDX.
    let features = raw::FEATURES | (1 << 29);

    let answer = raw.acknowledged(raw::SET_FEATURES, &features.to_le_bytes());

    assert_eq!(answer, 1);
    raw.assert_ended();
}

#[test]
fn test_front_end_without_migration_blocking_can_drain_all_the_same() {
    let backend = Backend::start();
    let without = Options {
        migration_blocking: false,
        ..options()
    };
    let mut frontend = Frontend::connect(backend.socket(), &without).unwrap();

    frontend.drain(1, LONG).unwrap();

    assert!(matches!(frontend.wait_event().unwrap(), Event::Drained(_)));
}

#[test]
fn test_front_end_without_version_1_and_state_is_served() {
    let backend = Backend::start();
    let protocol = raw::ALL_PROTOCOL & !raw::DEVICE_STATE & !raw::REPLY_ACK;
    let mut raw = Raw::negotiated(&backend, protocol);
    raw.send(raw::SET_FEATURES, &(1u64 << 30).to_le_bytes());

    assert_eq!(raw.ask(raw::GET_QUEUE_NUM, &[]).number(), 2);
}

#[test]
fn test_config_beyond_its_end_is_a_reply_of_size_0() {
    let backend = Backend::start();
    let mut raw = Raw::negotiated(&backend, raw::ALL_PROTOCOL);
    let read = |offset: u32, size: u32| {
        let mut body = [offset, size, 0].map(u32::to_le_bytes).concat();
        body.resize(12 + size as usize, 0);
        body
    };

    let whole = raw.ask(raw::GET_CONFIG, &read(0, 128));
    let part = raw.ask(raw::GET_CONFIG, &read(4, 2));
    let beyond = raw.ask(raw::GET_CONFIG, &read(100, 29));

    assert_eq!(whole.body.len(), 12 + 128);
    assert_eq!(whole.body[12..16], *b"VSVA");
    assert_eq!(part.body[12..], [1, 0]);
    assert_eq!(beyond.body, [100, 0, 0].map(u32::to_le_bytes).concat());
    raw.assert_served();
}

fn numbers(first: u32, second: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_le_bytes());
    bytes[4..].copy_from_slice(&second.to_le_bytes());
    bytes
}

#[test]
fn test_ring_of_1_to_1024_descriptors_is_taken() {
    let backend = Backend::start();
    let mut raw = Raw::negotiated(&backend, raw::ALL_PROTOCOL);
    for size in [1, 2, 64, 1024] {
        assert_eq!(raw.acknowledged(raw::SET_VRING_NUM, &numbers(1, size)), 0);
    }
}

#[test]
fn test_ring_of_another_size_or_number_ends_the_connection() {
    let backend = Backend::start();
    for (ring, size) in [(0, 0), (0, 3), (1, 1000), (0, 2048), (0, 65536), (2, 64)] {
        let raw = Raw::negotiated(&backend, raw::ALL_PROTOCOL);
        raw.assert_refused(raw::SET_VRING_NUM, &numbers(ring, size));
    }
}

#[test]
fn test_config_space_that_is_written_ends_the_connection() {
    let backend = Backend::start();
    let raw = Raw::negotiated(&backend, raw::ALL_PROTOCOL);
    let mut body = [0u32, 4, 0].map(u32::to_le_bytes).concat();
    body.extend([1, 2, 3, 4]);

    raw.assert_refused(raw::SET_CONFIG, &body);
}

#[test]
fn test_request_in_two_pieces_ends_the_connection_and_the_next_is_served() {
    let backend = Backend::start();
    let mut raw = Raw::negotiated(&backend, 0);

    raw.send_part(raw::SET_FEATURES, 8, &[0; 4]);

    raw.assert_ended();
    backend.connect();
}
