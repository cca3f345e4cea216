// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages of the event ring, made when there is room for them.

use super::drain::Outcome;
use super::stage_one::{Entry, StageOneEvent};
use super::submissions::Pending;
use super::{Core, Observation, Observer, Phase};
use crate::wire::{
    Drained, EventRecord, LostReason, Message, MessageType, Released, DEVICE_NONE, U32, U64,
};

/// What is to be sent next.
#[derive(Clone, Copy)]
enum Output {
    Lost { device: u32, reason: LostReason },
    Outcome(Outcome),
    Event { device: u32, event: EventRecord },
    StageOne(StageOneEvent),
    Replay(Pending),
    Released(Released),
}

impl<O: Observer> Core<O> {
    /// Whether [`Core::emit`] has something to send.
    pub fn has_event(&self) -> bool {
        self.next_output().is_some()
    }

    /// How many messages wait to be sent.
    pub(super) fn messages_waiting(&self) -> usize {
        let replaying = matches!(self.drain.phase, Phase::Running | Phase::Releasing);
        let replays = if replaying {
            self.pending.len() + u32::from(self.release.due)
        } else {
            0
        };
        let events = self.faults.backlog_len() + self.stage_one.len();
        let count = self.devices.lost_due_len()
            + u32::from(self.drain.outcome.is_some())
            + events
            + replays;
        count as usize
    }

    /// Lets `write` put the next message on the event ring and returns whether there was one.
    ///
    /// If `write` fails the message stays and comes again.
    pub fn emit<E>(
        &mut self,
        now_ns: u64,
        write: impl FnOnce(&Message) -> Result<(), E>,
    ) -> Result<bool, E> {
        let Some(output) = self.next_output() else {
            return Ok(false);
        };
        let seq = self.event_seq.wrapping_add(1);
        let mut message = self.compose(&output);
        message.seq = U64::new(seq);
        write(&message)?;
        self.event_seq = seq;
        self.sent(&output, seq, now_ns);
        Ok(true)
    }

    fn next_output(&self) -> Option<Output> {
        if let Some((device, reason)) = self.devices.next_lost() {
            return Some(Output::Lost { device, reason });
        }
        if let Some(outcome) = self.drain.outcome {
            return Some(Output::Outcome(outcome));
        }
        let replaying = matches!(self.drain.phase, Phase::Running | Phase::Releasing);
        let event = self.next_record();
        let replay = self
            .pending
            .front()
            .filter(|_| replaying)
            .map(|front| Output::Replay(*front));
        let released = (replaying && self.release.due).then(|| {
            Output::Released(Released {
                generation: U64::new(self.release.generation),
                next_ticket: U64::new(self.pending.next_ticket()),
                replayed: U64::new(self.release.replayed),
            })
        });
        let replay = replay.or(released);
        // Neither may keep the other from being sent.
        if self.prefer_replay {
            replay.or(event)
        } else {
            event.or(replay)
        }
    }

    /// The next record for the guest's event queue: the one that was read first.
    fn next_record(&self) -> Option<Output> {
        let fault = self.faults.next_event();
        let other = self.stage_one.front();
        match (fault, other) {
            (Some(fault), other) if other.is_none_or(|other| fault.read_ns <= other.read_ns) => {
                Some(Output::Event {
                    device: fault.device,
                    event: fault.event,
                })
            }
            (_, other) => other.copied().map(Output::StageOne),
        }
    }

    fn compose(&self, output: &Output) -> Message {
        match *output {
            Output::Lost { device, reason } => {
                Message::new(MessageType::DeviceLost, device, &U32::new(reason as u32))
            }
            Output::Outcome(Outcome::Drained { duration_ns }) => Message::new(
                MessageType::Drained,
                DEVICE_NONE,
                &Drained {
                    generation: U64::new(self.drain.generation),
                    duration_ns: U64::new(duration_ns),
                    answered: U32::new(self.drain.answered),
                    pending: U32::new(self.pending.len()),
                },
            ),
            Output::Outcome(Outcome::Failed(failed)) => {
                Message::new(MessageType::DrainFailed, DEVICE_NONE, &failed)
            }
            Output::Event { device, event } => {
                Message::new(MessageType::SmmuEvent, device, &event.encode())
            }
            Output::StageOne(StageOneEvent { device, entry, .. }) => match entry {
                Entry::Record(record) => Message::new(MessageType::SmmuEvent, device, &record),
                Entry::Lost(count) => {
                    Message::new(MessageType::EventsLost, device, &U32::new(count))
                }
            },
            Output::Replay(pending) => {
                Message::new(MessageType::Replay, pending.device, &pending.submission())
            }
            Output::Released(released) => {
                Message::new(MessageType::Released, DEVICE_NONE, &released)
            }
        }
    }

    /// The message is in a buffer that the front end owns now.
    fn sent(&mut self, output: &Output, seq: u64, now_ns: u64) {
        let generation = self.drain.generation;
        let observation = match *output {
            Output::Lost { device, .. } => {
                self.devices.set_lost_due(device, false);
                Observation::DeviceLostSent { device, seq }
            }
            Output::Outcome(outcome) => {
                self.drain.outcome = None;
                match outcome {
                    Outcome::Drained { duration_ns } => Observation::DrainedSent {
                        generation,
                        duration_ns,
                        answered: self.drain.answered,
                        pending: self.pending.len(),
                        seq,
                    },
                    Outcome::Failed(_) => Observation::DrainFailedSent { generation, seq },
                }
            }
            Output::Event { device, event } => {
                self.prefer_replay = true;
                let number = self.numbers.event_base.wrapping_add(seq);
                self.faults.delivered(event.stag, number);
                Observation::EventEmitted {
                    device,
                    stag: event.stag,
                    seq,
                }
            }
            Output::StageOne(StageOneEvent { device, .. }) => {
                self.prefer_replay = true;
                self.stage_one.pop();
                Observation::StageOneEventSent { device, seq }
            }
            Output::Replay(pending) => {
                self.prefer_replay = false;
                self.pending.pop();
                self.counters.replays = self.counters.replays.wrapping_add(1);
                self.release.replayed += 1;
                Observation::Replayed {
                    device: pending.device,
                    ticket: pending.ticket(),
                    seq,
                }
            }
            Output::Released(released) => {
                self.prefer_replay = false;
                self.drain.phase = Phase::Running;
                self.release.due = false;
                Observation::Released {
                    generation: released.generation.get(),
                    next_ticket: released.next_ticket.get(),
                    replayed: released.replayed.get(),
                    seq,
                }
            }
        };
        self.observe(now_ns, observation);
        self.end_drain_if_drained(now_ns);
    }
}
