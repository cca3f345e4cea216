// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a front end finds in each phase, after a load, and in a back-end that has been started
//! anew.

use std::{os::fd::AsFd, time::Duration};

use rustix::net::{send, SendFlags};
use vhost_user_vsva::{
    core::Phase,
    frontend::{Event, Frontend},
    wire::{AttachPacket, AttachType, Released, ResponseCode},
};
use zerocopy::IntoBytes;

use crate::support::{
    attachment, smmu_event, submission, wait_config, Backend, FaultSource, OneDevice, LONG,
};

/// The next RELEASED, and how many REPLAYs came before it.
fn released(frontend: &mut Frontend) -> (Released, usize) {
    let mut replays = 0;
    loop {
        match frontend.wait_event().unwrap() {
            Event::Replay { .. } => replays += 1,
            Event::Released(released) => return (released, replays),
            other => panic!("expected REPLAY or RELEASED, not {other:?}"),
        }
    }
}

fn fields(released: &Released) -> [u64; 3] {
    [
        released.generation.get(),
        released.next_ticket.get(),
        released.replayed.get(),
    ]
}

fn drained(vm: &mut OneDevice, generation: u64) {
    vm.frontend.drain(generation, LONG).unwrap();
    vm.frontend.quiesced(0, generation).unwrap();
    assert!(matches!(
        vm.frontend.wait_event().unwrap(),
        Event::Drained(_)
    ));
}

/// What has been posted has taken effect before.
fn save(frontend: &mut Frontend) -> Vec<u8> {
    frontend.wait_completed().unwrap();
    frontend.stop().unwrap();
    let state = frontend.save().unwrap();
    frontend.start().unwrap();
    state
}

/// A second back-end that has loaded the state, and its front end.
fn loaded(state: &[u8]) -> (Backend, OneDevice) {
    let backend = Backend::start();
    let mut vm = OneDevice::with_frontend(backend.negotiate());
    vm.frontend.load(state).unwrap();
    vm.frontend.start().unwrap();
    (backend, vm)
}

#[test]
fn test_released_counts_what_was_replayed_since_its_release() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);

    vm.frontend.submit(0, &submission(0)).unwrap();
    assert_eq!(fields(&released(&mut vm.frontend).0), [0, 1, 1]);
    vm.frontend.drain(7, LONG).unwrap();
    for ticket in 1..4 {
        vm.frontend.submit(0, &submission(ticket)).unwrap();
    }
    vm.frontend.release(7).unwrap();
    assert_eq!(fields(&released(&mut vm.frontend).0), [7, 4, 3]);
    vm.frontend.submit(0, &submission(4)).unwrap();
    assert_eq!(fields(&released(&mut vm.frontend).0), [7, 5, 4]);
    vm.frontend.release(0).unwrap();
    assert_eq!(fields(&released(&mut vm.frontend).0), [0, 5, 0]);
}

#[test]
fn test_released_after_load_has_the_generation_of_its_release_and_counts_only_here() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    vm.frontend.submit(0, &submission(0)).unwrap();
    released(&mut vm.frontend);
    drained(&mut vm, 9);
    for ticket in 1..4 {
        vm.frontend.submit(0, &submission(ticket)).unwrap();
    }
    let state = save(&mut vm.frontend);

    for generation in [0, 9, 77] {
        let (_backend, mut vm) = loaded(&state);
        vm.frontend.release(generation).unwrap();

        let (released, replays) = released(&mut vm.frontend);

        assert_eq!(fields(&released), [generation, 4, 3]);
        assert_eq!(replays, 3);
        // The counters have moved.
        assert_eq!(vm.frontend.config().unwrap().replays.get(), 4);
    }
}

#[test]
fn test_fault_after_drained_is_served_and_keeps_the_phase_but_refuses_the_save() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    drained(&mut vm, 1);

    let (cookie, event) = vm.stall(0x1000);

    let config = vm.frontend.config().unwrap();
    assert_eq!(config.phase.get(), Phase::Drained as u32);
    assert_eq!(config.outstanding.get(), 1);
    vm.frontend.stop().unwrap();
    vm.frontend.save().unwrap_err();
    vm.frontend.start().unwrap();
    vm.resume(&event);
    assert_eq!(vm.source.answer(), (cookie, ResponseCode::Success));
    vm.frontend.wait_completed().unwrap();
    assert_eq!(
        vm.frontend.next_event().unwrap(),
        None,
        "DRAINED comes once"
    );
    save(&mut vm.frontend);
}

#[test]
fn test_save_in_each_phase_loads_as_loaded_with_what_is_pending() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let mut states = vec![(0, save(&mut vm.frontend))];
    vm.frontend.drain(1, Duration::ZERO).unwrap();
    assert!(matches!(
        vm.frontend.wait_event().unwrap(),
        Event::DrainFailed(_)
    ));
    vm.frontend.submit(0, &submission(0)).unwrap();
    states.push((1, save(&mut vm.frontend)));
    vm.frontend.drain(2, LONG).unwrap();
    vm.frontend.submit(0, &submission(1)).unwrap();
    states.push((2, save(&mut vm.frontend)));
    vm.frontend.quiesced(0, 2).unwrap();
    assert!(matches!(
        vm.frontend.wait_event().unwrap(),
        Event::Drained(_)
    ));
    states.push((2, save(&mut vm.frontend)));

    for (pending, state) in &states {
        let (_backend, mut vm) = loaded(state);
        let config = vm.frontend.config().unwrap();
        assert_eq!(config.phase.get(), Phase::Loaded as u32);
        assert_eq!(config.pending.get(), *pending);
        // Saved once more before it was released.
        let (_backend, mut next) = loaded(&save(&mut vm.frontend));
        next.frontend.release(0).unwrap();
        let next_ticket = u64::from(*pending);
        let expected = [0, next_ticket, next_ticket];
        assert_eq!(fields(&released(&mut next.frontend).0), expected);
    }
}

#[test]
fn test_pri_device_is_not_loaded_over_one_that_is_not() {
    let source = Backend::start();
    let mut frontend = source.negotiate();
    let mut pri = attachment(0);
    pri.pri = true;
    let (_faults, fd) = FaultSource::new(100);
    let mut attach = frontend.attach_channel().unwrap();
    attach.attach(&pri, Some(fd.as_fd())).unwrap();
    let state = frontend.save().unwrap();
    let backend = Backend::start();
    let mut vm = OneDevice::with_frontend(backend.negotiate());

    vm.frontend.load(&state).unwrap_err();

    vm.attach.detach(0).unwrap();
    // What does not move may differ.
    pri.channel = 5;
    pri.max_outstanding = 3;
    let (_faults, fd) = FaultSource::new(100);
    vm.attach.attach(&pri, Some(fd.as_fd())).unwrap();
    vm.frontend.load(&state).unwrap();
}

#[test]
fn test_back_end_started_anew_has_no_device_and_begins_with_ticket_0() {
    let mut backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    vm.frontend.drain(4, LONG).unwrap();
    for ticket in 0..3 {
        vm.frontend.submit(0, &submission(ticket)).unwrap();
    }
    vm.frontend.wait_completed().unwrap();
    backend.restart();
    vm.frontend.config().unwrap_err();

    // Its old tickets are not taken.
    let mut stale = OneDevice::with_frontend(backend.connect());
    stale.frontend.submit(0, &submission(3)).unwrap();
    while stale.frontend.config().is_ok() {}
    let mut vm = OneDevice::with_frontend(backend.connect_anew());
    let config = vm.frontend.config().unwrap();
    assert_eq!(config.phase.get(), Phase::Running as u32);
    assert_eq!(config.pending.get(), 0);
    vm.frontend.submit(0, &submission(0)).unwrap();
    assert_eq!(fields(&released(&mut vm.frontend).0), [0, 1, 1]);
}

#[test]
fn test_attach_channel_whose_replies_are_not_read_is_closed_and_devices_stay() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let request = AttachPacket::new::<[u8; 0]>(AttachType::Detach, 9, &[]);

    // Until the replies fill the socket.
    let closed = loop {
        let flags = SendFlags::NOSIGNAL;
        if let Err(e) = send(&vm.attach, request.as_bytes(), flags) {
            break e;
        }
    };

    assert!(
        [rustix::io::Errno::PIPE, rustix::io::Errno::CONNRESET].contains(&closed),
        "{closed}"
    );
    let (cookie, event) = vm.stall(0x1000);
    vm.resume(&event);
    assert_eq!(vm.source.answer().0, cookie);
    let mut attach = vm.frontend.attach_channel().unwrap();
    attach.detach(0).unwrap();
}

#[test]
fn test_fault_raised_while_the_rings_are_stopped_is_delivered_after_the_start() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    vm.frontend.stop().unwrap();
    vm.source.raise_read(1, 0x7000);
    wait_config(&mut vm.frontend, |config| config.backlog.get() == 1);

    vm.frontend.start().unwrap();

    assert_eq!(smmu_event(&mut vm.frontend).addr, 0x7000);
}
