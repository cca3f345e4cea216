// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is kept of the logs for the picture and the text: figures of all of it, and a bounded
//! number of drains, of each a bounded number of words.

use std::collections::VecDeque;

use super::{
    faults::{Faults, Figures},
    log::{Entry, Line, Note},
    part::{short, Arrival, Drain, Mark, Outcome, Part, Save, Span},
    runs::Runs,
};
use crate::{
    backend::events::{Event, Step},
    core::Observation,
    status::histogram::Histogram,
};

/// Parts that are kept, the last ones.
const PARTS_MAX: usize = 16;
/// Of one part.
pub const NOTES_MAX: usize = 256;

/// What is kept of drains in all.
#[derive(Default)]
pub struct Drains {
    pub begun: u64,
    pub drained: u64,
    pub failed: u64,
    pub given_up: u64,
    pub times: Histogram,
}

/// Everything that is kept.
pub struct Story {
    pub figures: Figures,
    pub drains: Drains,
    pub parts: VecDeque<Part>,
    pub unanswered: u64,
    /// Notes of others that no part has room for, or that come before the first one.
    pub left_out: u64,
    wanted: Option<u64>,
    faults: Vec<Faults>,
    current: Option<Part>,
    sections: bool,
    arrivals: VecDeque<Arrival>,
    now_us: u64,
}

impl Story {
    /// Of so many logs; `wanted`: keep only drains of this generation.
    pub fn new(logs: usize, wanted: Option<u64>) -> Self {
        Story {
            figures: Figures::default(),
            drains: Drains::default(),
            parts: VecDeque::new(),
            unanswered: 0,
            left_out: 0,
            wanted,
            faults: (0..logs).map(|_| Faults::default()).collect(),
            current: None,
            sections: false,
            arrivals: VecDeque::new(),
            now_us: 0,
        }
    }

    /// Takes a line of a log.
    pub fn take(&mut self, log: usize, line: &Line) {
        self.now_us = line.t_us;
        match &line.entry {
            Entry::Note(note) => self.note(log, line.t_us, note),
            Entry::Event(Event::Core(observation)) => self.event(log, line.t_us, observation),
            Entry::Event(Event::Shell(step)) => self.step(log, line.t_us, step),
        }
    }

    fn note(&mut self, log: usize, t_us: u64, note: &Note) {
        if let Note::Section { title, note } = note {
            self.close();
            self.sections = true;
            self.current = Some(Part::new(title, note, t_us, log));
            return;
        }
        let Some(part) = &mut self.current else {
            self.left_out += 1;
            return;
        };
        match note {
            Note::Mark {
                from,
                to,
                text,
                kind,
                step,
            } if part.marks.len() < NOTES_MAX => part.marks.push(Mark {
                t_us,
                from: *from,
                to: *to,
                text: short(text),
                kind: *kind,
                step: step.filter(|step| (1..=8).contains(step)),
            }),
            Note::Span {
                text,
                kind,
                until_us,
            } if part.spans.len() < NOTES_MAX => part.spans.push(Span {
                text: short(text),
                kind: *kind,
                begin_us: t_us,
                end_us: (*until_us).max(t_us),
            }),
            _ => self.left_out += 1,
        }
    }

    fn event(&mut self, log: usize, t_us: u64, observation: &Observation) {
        let ended = self.faults[log].take(t_us, observation, &mut self.figures);
        if let (Some(fault), Some(part)) = (ended, &mut self.current) {
            if self.sections || part.log == log {
                part.saw(fault, t_us);
            }
        }
        match *observation {
            Observation::DrainBegun {
                generation,
                timeout_ms,
            } => self.drain_begun(log, t_us, generation, timeout_ms),
            Observation::Submitted { .. } => {
                if let Some(part) = self.of(log) {
                    part.queued.add(t_us);
                }
            }
            Observation::Restored { generation, .. } => self.arrived(log, generation),
            Observation::Replayed { ticket, .. } => self.replayed(log, t_us, ticket),
            Observation::ReleaseBegun { .. } => {
                self.end_drain(log, t_us, Outcome::GivenUp);
                if let Some(arrival) = self.arrival(log) {
                    arrival.release_us.get_or_insert(t_us);
                }
            }
            Observation::Released { .. } => self.released(log, t_us),
            Observation::Reset { .. } => self.end_drain(log, t_us, Outcome::GivenUp),
            _ => self.drain_changed(log, t_us, observation),
        }
    }

    fn drain_changed(&mut self, log: usize, t_us: u64, observation: &Observation) {
        match *observation {
            Observation::DeviceQuiesced {
                device,
                current: true,
                ..
            } => {
                if let Some(drain) = self.drain(log) {
                    if drain.quiesced.len() < NOTES_MAX {
                        drain.quiesced.push((t_us, device));
                    }
                }
            }
            Observation::DrainComplete { answered, .. } => {
                self.end_drain(log, t_us, Outcome::Drained { answered });
            }
            Observation::DrainResumed { .. } => {
                if let Some(drain) = self.drain(log) {
                    drain.end_us = None;
                    drain.outcome = Outcome::Open;
                }
            }
            Observation::DrainedSent { duration_ns, .. } => {
                self.drains.drained += 1;
                self.drains.times.record(duration_ns);
            }
            Observation::DrainFailed {
                reason,
                outstanding,
                untaken_device,
                ..
            } => {
                self.drains.failed += 1;
                let oldest = self.faults[log].oldest();
                if let (Some(part), Some(oldest)) = (self.of(log), oldest) {
                    part.saw(oldest, t_us);
                }
                let outcome = Outcome::Failed {
                    reason,
                    outstanding,
                    untaken_device,
                };
                self.end_drain(log, t_us, outcome);
            }
            _ => {}
        }
    }

    fn step(&mut self, log: usize, t_us: u64, step: &Step) {
        match *step {
            Step::Listening => {
                self.faults[log].clear();
                if !self.sections && self.of(log).is_some() {
                    self.close();
                }
            }
            Step::Save { bytes, pending } => {
                let save = Save {
                    t_us,
                    bytes,
                    pending,
                };
                if let Some(part) = self.of(log) {
                    part.save = Some(save);
                }
            }
            Step::Load { .. } => {
                if let Some(arrival) = self.arrival(log) {
                    arrival.load_us = Some(t_us);
                }
            }
            _ => {}
        }
    }

    /// The part that is under way, if it is of this log.
    fn of(&mut self, log: usize) -> Option<&mut Part> {
        let sections = self.sections;
        let part = self.current.as_mut()?;
        // What a VM that has come does is not of the drain with which it has gone.
        let of_it = part.drain.is_some() && part.log == log || sections && part.drain.is_none();
        (of_it && !part.over).then_some(part)
    }

    fn drain(&mut self, log: usize) -> Option<&mut Drain> {
        self.of(log)?.drain.as_mut()
    }

    fn arrival(&mut self, log: usize) -> Option<&mut Arrival> {
        let mut arrivals = self.arrivals.iter_mut().rev();
        let last = arrivals.find(|arrival| arrival.log == log)?;
        last.released_us.is_none().then_some(last)
    }

    fn drain_begun(&mut self, log: usize, t_us: u64, generation: u64, timeout_ms: u32) {
        self.drains.begun += 1;
        if !self.sections {
            self.close();
            let title = format!("Drain {}", self.drains.begun);
            self.current = Some(Part::new(&title, "", t_us, log));
        }
        if let Some(part) = &mut self.current {
            part.log = log;
            part.drain = Some(Drain {
                generation,
                timeout_ms,
                begin_us: t_us,
                end_us: None,
                outcome: Outcome::Open,
                quiesced: Vec::new(),
            });
        }
    }

    /// The first end counts.
    fn end_drain(&mut self, log: usize, t_us: u64, outcome: Outcome) {
        let Some(drain) = self.drain(log) else {
            return;
        };
        if drain.outcome == Outcome::Open {
            drain.outcome = outcome;
            drain.end_us = Some(t_us);
            if outcome == Outcome::GivenUp {
                self.drains.given_up += 1;
            }
        }
    }

    fn arrived(&mut self, log: usize, generation: u64) {
        if self.arrivals.len() == PARTS_MAX {
            self.arrivals.pop_front();
        }
        self.arrivals.push_back(Arrival {
            log,
            generation,
            load_us: None,
            release_us: None,
            released_us: None,
            replayed: Runs::default(),
            in_order: true,
            last_ticket: None,
        });
    }

    fn replayed(&mut self, log: usize, t_us: u64, ticket: u64) {
        if let Some(arrival) = self.arrival(log) {
            arrival.replayed.add(t_us);
            arrival.in_order &= arrival.last_ticket.is_none_or(|last| last < ticket);
            arrival.last_ticket = Some(ticket);
        }
    }

    fn released(&mut self, log: usize, t_us: u64) {
        if let Some(arrival) = self.arrival(log) {
            arrival.released_us = Some(t_us);
            return;
        }
        let sections = self.sections;
        if let Some(part) = self.of(log) {
            part.released_us = Some(t_us);
            part.over = !sections;
        }
        if !sections && self.current.as_ref().is_some_and(|part| part.over) {
            self.close();
        }
    }

    fn close(&mut self) {
        let Some(mut part) = self.current.take() else {
            return;
        };
        // Still outstanding.
        if part.fault.is_none() {
            if let Some(oldest) = self.faults[part.log].oldest() {
                part.saw(oldest, self.now_us);
            }
        }
        let generation = part.drain.as_ref().map(|drain| drain.generation);
        if self.wanted.is_some() && self.wanted != generation {
            return;
        }
        if self.parts.len() == PARTS_MAX {
            self.parts.pop_front();
        }
        self.parts.push_back(part);
    }

    /// After the last line.
    pub fn finish(&mut self) {
        self.close();
        self.unanswered = self.faults.iter().map(Faults::unanswered).sum();
        for part in &mut self.parts {
            let (Some(save), Some(drain)) = (part.save, &part.drain) else {
                continue;
            };
            let of_it = |arrival: &&Arrival| arrival.generation == drain.generation;
            let distance = |arrival: &&Arrival| {
                let other_log = arrival.log != part.log;
                (
                    !other_log,
                    arrival.load_us.unwrap_or(u64::MAX).abs_diff(save.t_us),
                )
            };
            let arrivals = self.arrivals.iter().filter(of_it);
            part.arrival = arrivals.min_by_key(distance).cloned();
        }
    }
}
