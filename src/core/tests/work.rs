// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the core wants done, and that it says so once.

use proptest::prelude::*;
use zerocopy::FromZeros;

use super::rig::{desc, part, record, sid, Rig, MS};
use crate::core::{FaultError, Job, Wants};
use crate::wire::{LostReason, MessageType, PageResponse, EVENT_RECORD_SIZE};

fn jobs(rig: &mut Rig) -> Vec<Job> {
    std::iter::from_fn(|| rig.core.wants().job)
        .take(100)
        .collect()
}

/// As the thread that has been told to write: takes the answers, and says that they were written.
fn write_all(rig: &mut Rig, channel: u32) -> usize {
    let mut answers = [PageResponse::new_zeroed(); 4];
    let mut written = 0;
    loop {
        let count = rig.core.next_answers(channel, &mut answers);
        if count == 0 {
            return written;
        }
        rig.core.answers_written(channel, count, rig.now);
        written += count;
    }
}

#[test]
fn test_answer_is_given_out_to_be_written_once() {
    let mut rig = Rig::new();
    let stag = rig.delivered(1);
    assert_eq!(jobs(&mut rig), []);

    rig.resume(0, stag);

    assert_eq!(jobs(&mut rig), [Job::Write(0)]);
    assert_eq!(write_all(&mut rig, 0), 1);
    assert_eq!(jobs(&mut rig), []);
}

#[test]
fn test_answer_that_comes_while_a_thread_writes_is_given_out_again() {
    let mut rig = Rig::new();
    let stags = [rig.delivered(1), rig.delivered(2)];
    rig.resume(0, stags[0]);
    assert_eq!(jobs(&mut rig), [Job::Write(0)]);

    rig.resume(0, stags[1]);

    // The thread that made the step is to know that its answer is written.
    assert_eq!(jobs(&mut rig), [Job::Write(0)]);
    assert_eq!(write_all(&mut rig, 0), 2);
    assert_eq!(write_all(&mut rig, 0), 0);
    let stag = rig.delivered(3);
    rig.resume(0, stag);
    assert_eq!(jobs(&mut rig), [Job::Write(0)]);
}

#[test]
fn test_answers_of_a_socket_that_takes_none_wait_until_it_does() {
    let mut rig = Rig::new();
    let stags = [rig.delivered(1), rig.delivered(2)];
    rig.resume(0, stags[0]);
    assert_eq!(jobs(&mut rig), [Job::Write(0)]);
    rig.core.write_blocked(0);

    rig.resume(0, stags[1]);
    let blocked = jobs(&mut rig);
    rig.core.writable(0);

    assert_eq!(blocked, []);
    assert_eq!(jobs(&mut rig), [Job::Write(0)]);
    assert_eq!(write_all(&mut rig, 0), 2);
}

#[test]
fn test_channel_without_room_is_given_out_to_be_read_when_there_is_some() {
    let mut rig = Rig::new();
    for cookie in 1..=8 {
        rig.fault(0, &record(0, cookie));
    }
    rig.try_fault(0, &record(0, 9)).unwrap_err();
    let full = jobs(&mut rig);
    let stag = rig.stags()[0];

    rig.resume(0, stag);
    let room = jobs(&mut rig);

    assert_eq!(full, []);
    // Either first: the record needs a fault and a group.
    assert!(room.contains(&Job::Read(0)), "{room:?}");
    assert!(room.contains(&Job::Write(0)), "{room:?}");
    rig.fault(0, &record(0, 9));
    write_all(&mut rig, 0);
    assert_eq!(jobs(&mut rig), []);
}

#[test]
fn test_channel_that_was_never_read_is_not_given_out_while_another_is_blocked() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 1));
    for cookie in 1..=8 {
        rig.fault(0, &record(0, cookie));
    }

    rig.try_fault(0, &record(0, 9)).unwrap_err();

    assert_eq!(jobs(&mut rig), []);
}

#[test]
fn test_held_channel_is_given_out_when_it_is_let_go() {
    let mut rig = Rig::new();
    rig.core.set_kernel_channel(0);
    let stag = rig.delivered(1);
    rig.core.hold(0, rig.now).unwrap();
    rig.resume(0, stag);
    let held = jobs(&mut rig);

    rig.core.unhold(0, false, rig.now).unwrap();

    assert_eq!(held, []);
    assert_eq!(jobs(&mut rig), [Job::Write(0), Job::Read(0)]);
}

#[test]
fn test_channel_is_probed_once_at_the_end_of_a_drain() {
    let mut rig = Rig::new();
    rig.drain(1, 1000);
    let draining = jobs(&mut rig);

    rig.quiesced(0, 1);
    let quiet = jobs(&mut rig);
    rig.core.channel_empty(0, rig.now);

    assert_eq!(draining, []);
    assert_eq!(quiet, [Job::Read(0)]);
    assert_eq!(rig.core.wants().job, None);
    assert_eq!(rig.core.wants().waiting, 1);
    assert_eq!(rig.message_types(), [MessageType::Drained]);
}

#[test]
fn test_probe_that_found_a_fault_is_made_again_after_its_answer() {
    let mut rig = Rig::new();
    rig.drain(1, 1000);
    rig.quiesced(0, 1);
    assert_eq!(jobs(&mut rig), [Job::Read(0)]);
    let stag = rig.delivered(1);
    rig.core.channel_empty(0, rig.now);
    rig.resume(0, stag);
    assert_eq!(jobs(&mut rig), [Job::Write(0)]);

    // Nothing has said since that more could have come.
    write_all(&mut rig, 0);

    assert_eq!(jobs(&mut rig), []);
    assert_eq!(rig.message_types(), [MessageType::Drained]);
}

#[test]
fn test_channel_that_nobody_uses_any_more_is_given_out_to_be_closed() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 5));
    rig.delivered(1);

    rig.core.detach(1, rig.now).unwrap();
    let idle = jobs(&mut rig);
    rig.core.detach(0, rig.now).unwrap();
    let busy = jobs(&mut rig);
    write_all(&mut rig, 0);

    assert_eq!(idle, [Job::Close(5)]);
    assert_eq!(busy, [Job::Write(0)]);
    assert_eq!(jobs(&mut rig), [Job::Close(0)]);
}

#[test]
fn test_channels_that_are_closed_in_one_step_are_each_given_out() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 5));
    rig.attach(&desc(2, 6));

    rig.core.reset(rig.now);

    assert_eq!(jobs(&mut rig), [0, 5, 6].map(Job::Close));
}

#[test]
fn test_answer_of_another_channel_than_the_one_that_is_closed_is_given_out() {
    let mut rig = Rig::new();
    rig.attach(&desc(1, 5));
    let stag = rig.delivered(1);
    rig.resume(0, stag);

    rig.core.detach(1, rig.now).unwrap();

    assert_eq!(jobs(&mut rig), [Job::Close(5), Job::Write(0)]);
}

#[test]
fn test_answers_of_a_channel_that_is_lost_are_not_given_out_for_the_next_of_its_number() {
    let mut rig = Rig::new();
    let stag = rig.delivered(1);
    rig.resume(0, stag);

    rig.core.channel_lost(0, LostReason::Io, rig.now);
    rig.attach(&desc(0, 0));

    assert_eq!(jobs(&mut rig), []);
}

#[test]
fn test_channel_that_gets_a_device_again_is_given_out_to_be_read() {
    let mut rig = Rig::new();
    rig.delivered(1);
    rig.core.detach(0, rig.now).unwrap();
    assert_eq!(jobs(&mut rig), [Job::Write(0)]);

    rig.attach(&desc(1, 0));

    assert_eq!(jobs(&mut rig), [Job::Read(0)]);
}

#[test]
fn test_room_for_records_is_told_once() {
    let mut rig = Rig::new();
    // Of the device that is there, so that each of them takes its place.
    let mut record = [0; EVENT_RECORD_SIZE];
    record[4..8].copy_from_slice(&sid(0).to_le_bytes());
    for _ in 0..rig.core.event_room() {
        rig.core
            .stage_one_event(0, Some(&record), 1, rig.now)
            .unwrap();
    }
    assert_eq!(rig.core.event_room(), 0);
    let full = jobs(&mut rig);

    rig.messages();

    assert_eq!(full, []);
    assert_eq!(jobs(&mut rig), [Job::ReadRecords]);
}

#[test]
fn test_wants_tell_of_messages_and_of_the_deadline() {
    let mut rig = Rig::new();
    rig.fault(0, &record(0, 1));
    rig.fault(0, &record(0, 2));
    rig.drain(1, 1000);
    rig.submit(0);

    let wants = rig.core.wants();

    let expected = Wants {
        job: None,
        waiting: 2,
        deadline_ns: Some(rig.now + 1000 * MS),
    };
    assert_eq!(wants, expected);
    assert_eq!(rig.messages().len(), 2);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Fault(u32),
    Part(u32),
    Resume,
    Empty(u32),
    Block(u32),
    Writable(u32),
    Hold(u32),
    Unhold(u32, bool),
    Detach(u32),
    Attach(u32),
    Drain,
    Quiesced(u32),
    Release,
}

fn op() -> impl Strategy<Value = Op> {
    let device = 0..3u32;
    let channel = 0..2u32;
    prop_oneof![
        6 => device.clone().prop_map(Op::Fault),
        2 => device.clone().prop_map(Op::Part),
        4 => Just(Op::Resume),
        2 => channel.clone().prop_map(Op::Empty),
        1 => channel.clone().prop_map(Op::Block),
        1 => channel.prop_map(Op::Writable),
        1 => device.clone().prop_map(Op::Hold),
        1 => (device.clone(), any::<bool>()).prop_map(|(d, a)| Op::Unhold(d, a)),
        1 => device.clone().prop_map(Op::Detach),
        2 => device.clone().prop_map(Op::Attach),
        1 => Just(Op::Drain),
        2 => device.prop_map(Op::Quiesced),
        1 => Just(Op::Release),
    ]
}

/// Devices 0 and 1 are on channel 0, device 2 on channel 1.
fn channel_of(device: u32) -> u32 {
    device / 2
}

/// A shell that does what it is told to, and nothing else.
struct Shell {
    rig: Rig,
    cookie: u32,
    generation: u64,
    stags: Vec<(u32, u16)>,
    blocked: [bool; 2],
    held: [bool; 3],
    /// Channels that were not read as the core wanted no fault of them, and are not watched by the
    /// poller.
    unwatched: [bool; 2],
    open: [bool; 2],
    /// The device, and whether it is the last of its group, of a record that found no room.
    refused: [Option<(u32, bool)>; 2],
}

impl Shell {
    fn follow(&mut self) {
        for round in 0.. {
            assert!(round < 100, "the same job again and again");
            let Some(job) = self.rig.core.wants().job else {
                break;
            };
            match job {
                Job::Write(channel) if self.blocked[channel as usize] => {
                    self.rig.core.write_blocked(channel);
                }
                Job::Write(channel) => drop(write_all(&mut self.rig, channel)),
                Job::Read(channel) => {
                    self.unwatched[channel as usize] = false;
                    if let Some((device, last)) = self.refused[channel as usize].take() {
                        self.read(device, last);
                    }
                    let refused = self.refused[channel as usize].is_some();
                    if !refused && self.rig.core.wants_read(channel) {
                        self.rig.core.channel_empty(channel, self.rig.now);
                    }
                }
                Job::Close(channel) => {
                    self.open[channel as usize] = self.rig.core.channel_in_use(channel);
                }
                Job::ReadRecords => {}
            }
        }
    }

    fn read(&mut self, device: u32, last: bool) {
        let channel = channel_of(device);
        if !self.open[channel as usize] {
            return;
        }
        if !self.rig.core.wants_read(channel) {
            self.unwatched[channel as usize] = true;
            return;
        }
        if self.refused[channel as usize].is_some() {
            return;
        }
        let record = if last { record } else { part };
        match self.rig.try_fault(channel, &record(device, self.cookie)) {
            Ok(()) if last => self.cookie += 1,
            Ok(()) => {}
            // The device breaks off a group of another.
            Err(e) if e.is_fatal() => self.cookie += 1,
            Err(FaultError::Stale { channel, cookie }) => {
                self.rig.core.forget_stale(channel, cookie, self.rig.now);
                self.read(device, last);
            }
            Err(_) => {
                self.unwatched[channel as usize] = true;
                self.refused[channel as usize] = Some((device, last));
            }
        }
    }

    fn step(&mut self, op: Op) {
        let rig = &mut self.rig;
        rig.now += MS;
        match op {
            Op::Fault(device) => self.read(device, true),
            Op::Part(device) => self.read(device, false),
            Op::Resume => {
                if let Some((device, stag)) = self.stags.pop() {
                    rig.resume(device, stag);
                }
            }
            Op::Empty(channel) => {
                if rig.core.wants_read(channel) {
                    rig.core.channel_empty(channel, rig.now);
                }
            }
            Op::Block(channel) => self.blocked[channel as usize] = true,
            Op::Writable(channel) => {
                self.blocked[channel as usize] = false;
                rig.core.writable(channel);
            }
            Op::Hold(device) => {
                self.held[device as usize] |= rig.core.hold(device, rig.now).is_ok();
            }
            Op::Unhold(device, aborted) => {
                if rig.core.unhold(device, aborted, rig.now).is_ok() {
                    self.held[device as usize] = false;
                    let refused = &mut self.refused[channel_of(device) as usize];
                    *refused = refused.filter(|(of, _)| !aborted || *of != device);
                }
            }
            Op::Detach(device) => {
                if rig.core.detach(device, rig.now).is_ok() {
                    self.held[device as usize] = false;
                }
            }
            Op::Attach(device) => {
                let channel = channel_of(device);
                if rig.core.attach(&desc(device, channel), rig.now).is_ok() {
                    rig.core.set_kernel_channel(channel);
                    if !std::mem::replace(&mut self.open[channel as usize], true) {
                        self.unwatched[channel as usize] = false;
                        self.refused[channel as usize] = None;
                    }
                }
            }
            Op::Drain => {
                self.generation += 1;
                rig.drain(self.generation, 60_000);
            }
            Op::Quiesced(device) => rig.quiesced(device, self.generation.max(1)),
            Op::Release => {
                rig.release(self.generation);
            }
        }
        self.follow();
        self.check();
        let waiting = self.rig.core.wants().waiting;
        let messages = self.rig.messages();
        assert_eq!(waiting, messages.len());
        for message in messages {
            if message.message_type() == Some(MessageType::SmmuEvent) {
                let event = crate::wire::EventRecord::decode(&message.payload()).unwrap();
                self.stags.push((message.device.get(), event.stag));
            }
        }
        self.follow();
        self.check();
    }

    /// Nothing is left to do that the core has not said.
    fn check(&mut self) {
        let core = &self.rig.core;
        assert_eq!(core.next_probe(), None);
        for channel in 0..2 {
            let index = channel as usize;
            let answers = self.rig.peek_answers(channel).len();
            assert!(answers == 0 || self.blocked[index], "unwritten answers");
            let read = core.wants_read(channel);
            assert!(!(read && self.unwatched[index]), "channel is not read");
            assert_eq!(core.channel_in_use(channel), self.open[index]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(256)
    })]
    #[test]
    fn test_shell_that_only_does_what_it_is_told_leaves_nothing_undone(
        ops in proptest::collection::vec(op(), 1..120),
    ) {
        let mut rig = Rig::with_limits(crate::core::Limits {
            max_device_faults: 3,
            ..super::rig::limits()
        });
        rig.attach(&desc(0, 0));
        rig.core.set_kernel_channel(0);
        let mut shell = Shell {
            rig,
            cookie: 1,
            generation: 0,
            stags: Vec::new(),
            blocked: [false; 2],
            held: [false; 3],
            unwatched: [false; 2],
            open: [true, false],
            refused: [None; 2],
        };
        for op in ops {
            shell.step(op);
        }
    }
}
