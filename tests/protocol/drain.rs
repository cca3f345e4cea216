// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Drain, replay, release, and the state that moves.

use std::{os::fd::AsFd, time::Duration};

use vhost_user_vsva::{
    core::Phase,
    frontend::{Event, Frontend, FrontendError},
    wire::{DrainFailedReason, ResponseCode, FAULT_INFO_SSID_VALID, FAULT_INFO_VALID},
};

use crate::support::{attachment, submission, Backend, FaultSource, OneDevice, LONG, SID};

fn assert_drained(frontend: &mut Frontend, generation: u64, pending: u32) {
    match frontend.wait_event().unwrap() {
        Event::Drained(drained) => {
            assert_eq!(drained.generation.get(), generation);
            assert_eq!(drained.pending.get(), pending);
        }
        other => panic!("expected DRAINED, not {other:?}"),
    }
}

fn assert_replays(frontend: &mut Frontend, tickets: impl IntoIterator<Item = u64>) {
    for ticket in tickets {
        let expected = Event::Replay {
            device: 0,
            submission: submission(ticket),
        };
        assert_eq!(frontend.wait_event().unwrap(), expected);
    }
}

fn assert_released(frontend: &mut Frontend, generation: u64, next_ticket: u64, replayed: u64) {
    match frontend.wait_event().unwrap() {
        Event::Released(released) => {
            assert_eq!(released.generation.get(), generation);
            assert_eq!(released.next_ticket.get(), next_ticket);
            assert_eq!(released.replayed.get(), replayed);
        }
        other => panic!("expected RELEASED, not {other:?}"),
    }
}

fn phase(frontend: &mut Frontend) -> u32 {
    frontend.config().unwrap().phase.get()
}

#[test]
fn test_drain_with_nothing_outstanding_is_drained_at_once() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);

    vm.frontend.drain(1, LONG).unwrap();
    vm.frontend.quiesced(0, 1).unwrap();

    assert_drained(&mut vm.frontend, 1, 0);
    assert_eq!(phase(&mut vm.frontend), Phase::Drained as u32);
}

#[test]
fn test_drain_with_64_faults_held_is_drained_after_the_last_answer() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let faults: Vec<_> = (0..64).map(|n| vm.stall(n << 12)).collect();
    vm.frontend.drain(1, LONG).unwrap();
    vm.frontend.wait_completed().unwrap();

    for (cookie, event) in &faults {
        assert_eq!(phase(&mut vm.frontend), Phase::Draining as u32);
        vm.resume(event);
        assert_eq!(vm.source.answer(), (*cookie, ResponseCode::Success));
    }
    vm.frontend.wait_completed().unwrap();
    assert_eq!(vm.frontend.next_event().unwrap(), None, "not quiesced yet");
    vm.frontend.quiesced(0, 1).unwrap();

    match vm.frontend.wait_event().unwrap() {
        Event::Drained(drained) => assert_eq!(drained.answered.get(), 64),
        other => panic!("expected DRAINED, not {other:?}"),
    }
}

#[test]
fn test_drain_with_fault_unread_at_quiesce_serves_it_first() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    vm.frontend.drain(1, LONG).unwrap();

    // Whether the engine or the portal's thread reads it first, DRAINED must come after it.
    let cookie = vm.source.raise_read(1, 0x5000);
    vm.frontend.quiesced(0, 1).unwrap();

    let event = crate::support::smmu_event(&mut vm.frontend);
    assert_eq!(event.addr, 0x5000);
    vm.frontend.wait_completed().unwrap();
    assert_eq!(vm.frontend.next_event().unwrap(), None);
    vm.resume(&event);
    assert_eq!(vm.source.answer().0, cookie);
    assert_drained(&mut vm.frontend, 1, 0);
}

#[test]
fn test_drain_waits_for_every_device() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let (_other, fd) = FaultSource::new(101);
    vm.attach.attach(&attachment(1), Some(fd.as_fd())).unwrap();

    vm.frontend.drain(1, LONG).unwrap();
    vm.frontend.quiesced(1, 1).unwrap();
    vm.frontend.quiesced(0, 0).unwrap();
    vm.frontend.wait_completed().unwrap();
    assert_eq!(vm.frontend.next_event().unwrap(), None);
    vm.frontend.quiesced(0, 1).unwrap();

    assert_drained(&mut vm.frontend, 1, 0);
}

#[test]
fn test_drain_at_its_deadline_fails_and_names_the_oldest_fault() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    vm.stall(0xabc000);
    vm.stall(0xdef000);

    vm.frontend.drain(7, Duration::from_millis(10)).unwrap();
    let failed = match vm.frontend.wait_event().unwrap() {
        Event::DrainFailed(failed) => failed,
        other => panic!("expected DRAIN_FAILED, not {other:?}"),
    };

    assert_eq!(failed.generation.get(), 7);
    assert_eq!(failed.reason.get(), DrainFailedReason::Deadline as u32);
    assert_eq!(failed.outstanding.get(), 2);
    assert_eq!(failed.sid.get(), SID);
    assert_eq!(failed.ssid.get(), 1);
    assert_eq!(failed.addr.get(), 0xabc000);
    assert!(failed.age_ms.get() >= 10);
    assert_eq!(failed.flags.get(), FAULT_INFO_VALID | FAULT_INFO_SSID_VALID);
    assert_eq!(phase(&mut vm.frontend), Phase::Failed as u32);
    let config = vm.frontend.config().unwrap();
    assert_eq!(config.oldest_addr.get(), 0xabc000);
    assert_eq!(config.drains_failed.get(), 1);
}

#[test]
fn test_release_after_failed_drain_replays_and_a_later_drain_succeeds() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let (cookie, event) = vm.stall(0x1000);
    vm.frontend.drain(1, Duration::ZERO).unwrap();
    assert!(matches!(
        vm.frontend.wait_event().unwrap(),
        Event::DrainFailed(_)
    ));
    for ticket in 0..3 {
        vm.frontend.submit(0, &submission(ticket)).unwrap();
    }

    vm.frontend.release(1).unwrap();
    assert_replays(&mut vm.frontend, 0..3);
    assert_released(&mut vm.frontend, 1, 3, 3);

    vm.frontend.drain(2, LONG).unwrap();
    vm.resume(&event);
    assert_eq!(vm.source.answer(), (cookie, ResponseCode::Success));
    vm.frontend.quiesced(0, 2).unwrap();
    assert_drained(&mut vm.frontend, 2, 0);
}

#[test]
fn test_release_while_draining_cancels_and_replays_in_order() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let (cookie, event) = vm.stall(0x1000);
    vm.frontend.drain(1, LONG).unwrap();
    for ticket in 0..500 {
        vm.frontend.submit(0, &submission(ticket)).unwrap();
    }
    vm.frontend.wait_completed().unwrap();
    assert_eq!(vm.frontend.config().unwrap().pending.get(), 500);

    vm.frontend.release(1).unwrap();
    assert_replays(&mut vm.frontend, 0..500);
    assert_released(&mut vm.frontend, 1, 500, 500);

    assert_eq!(phase(&mut vm.frontend), Phase::Running as u32);
    vm.resume(&event);
    assert_eq!(vm.source.answer(), (cookie, ResponseCode::Success));
}

#[test]
fn test_submit_while_running_is_replayed_and_released_again() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);

    vm.frontend.submit(0, &submission(0)).unwrap();

    assert_replays(&mut vm.frontend, 0..1);
    assert_released(&mut vm.frontend, 0, 1, 1);
}

#[test]
fn test_save_then_load_into_second_backend_replays_there() {
    let first = Backend::start();
    let mut source_vm = OneDevice::new(&first);
    source_vm.frontend.drain(3, LONG).unwrap();
    for ticket in 0..1000 {
        source_vm.frontend.submit(0, &submission(ticket)).unwrap();
    }
    source_vm.frontend.quiesced(0, 3).unwrap();
    assert_drained(&mut source_vm.frontend, 3, 1000);
    source_vm.frontend.stop().unwrap();
    let state = source_vm.frontend.save().unwrap();
    assert_eq!(state, source_vm.frontend.save().unwrap(), "repeatable");

    let second = Backend::start();
    let mut frontend = second.negotiate();
    let mut attach = frontend.attach_channel().unwrap();
    let (_fault_source, fd) = FaultSource::new(100);
    attach.attach(&attachment(0), Some(fd.as_fd())).unwrap();
    frontend.load(&state).unwrap();
    assert_eq!(phase(&mut frontend), Phase::Loaded as u32);
    frontend.start().unwrap();
    frontend.submit(0, &submission(1000)).unwrap();
    frontend.release(0).unwrap();

    assert_replays(&mut frontend, 0..1001);
    assert_released(&mut frontend, 0, 1001, 1001);
}

#[test]
fn test_source_after_save_resumes_and_replays_itself() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    vm.frontend.drain(1, LONG).unwrap();
    vm.frontend.submit(0, &submission(0)).unwrap();
    vm.frontend.quiesced(0, 1).unwrap();
    assert_drained(&mut vm.frontend, 1, 1);
    vm.frontend.stop().unwrap();
    vm.frontend.save().unwrap();

    vm.frontend.start().unwrap();
    vm.frontend.release(1).unwrap();

    assert_replays(&mut vm.frontend, 0..1);
    assert_released(&mut vm.frontend, 1, 1, 1);
}

#[test]
fn test_save_with_fault_outstanding_is_refused() {
    let backend = Backend::start();
    let mut vm = OneDevice::new(&backend);
    let (cookie, event) = vm.stall(0x1000);
    vm.frontend.stop().unwrap();

    let error = vm.frontend.save().unwrap_err();

    assert!(matches!(
        error,
        FrontendError::Request {
            request: "SET_DEVICE_STATE_FD",
            ..
        }
    ));
    vm.frontend.start().unwrap();
    vm.resume(&event);
    assert_eq!(vm.source.answer(), (cookie, ResponseCode::Success));
}

#[test]
fn test_load_of_damaged_state_is_refused_by_check_and_changes_nothing() {
    let first = Backend::start();
    let mut vm = OneDevice::new(&first);
    vm.frontend.drain(1, LONG).unwrap();
    vm.frontend.submit(0, &submission(0)).unwrap();
    vm.frontend.quiesced(0, 1).unwrap();
    assert_drained(&mut vm.frontend, 1, 1);
    vm.frontend.stop().unwrap();
    let state = vm.frontend.save().unwrap();

    let second = Backend::start();
    let mut frontend = second.negotiate();
    let mut attach = frontend.attach_channel().unwrap();
    let (_fault_source, fd) = FaultSource::new(100);
    attach.attach(&attachment(0), Some(fd.as_fd())).unwrap();
    let damaged: Vec<Vec<u8>> = [0, 9, 12, 17, 24, 28, 40, 60, state.len() - 1]
        .into_iter()
        .map(|at| {
            let mut bytes = state.clone();
            bytes[at] ^= 0x10;
            bytes
        })
        .chain([
            vec![],
            state[..39].to_vec(),
            state[..state.len() - 1].to_vec(),
        ])
        .chain([[&state[..], &[0]].concat()])
        .collect();
    for bytes in damaged {
        let error = frontend.load(&bytes).unwrap_err();
        assert!(
            matches!(
                error,
                FrontendError::Request {
                    request: "CHECK_DEVICE_STATE",
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(phase(&mut frontend), Phase::Running as u32);
    }
    frontend.load(&state).unwrap();
    assert_eq!(phase(&mut frontend), Phase::Loaded as u32);
}
