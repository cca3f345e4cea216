// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Follows the faults of one log, and measures them as the status does.

use std::collections::HashMap;

use crate::{core::Observation, status::histogram::Histogram};

/// As many as can be outstanding in a back-end.
const MOST: usize = 65_536;

/// A fault; times are microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub device: u32,
    pub sid: u32,
    pub ssid: Option<u32>,
    pub addr: u64,
    pub stag: u16,
    pub read_us: u64,
    /// Its event is on the event ring.
    pub emitted_us: Option<u64>,
    /// The guest has answered.
    pub answered_us: Option<u64>,
    /// The response is written.
    pub written_us: Option<u64>,
}

#[derive(Default)]
struct Group {
    faults: Vec<Fault>,
    answered_us: Option<u64>,
}

/// A channel and a cookie.
type Key = (u32, u32);

/// The faults of one log that are not over.
#[derive(Default)]
pub struct Faults {
    groups: HashMap<Key, Group>,
    by_stag: HashMap<u16, Key>,
    count: usize,
}

/// What has been measured and counted, in all logs.
#[derive(Default)]
pub struct Figures {
    pub read: u64,
    pub answered: u64,
    pub refused: u64,
    pub aborted: u64,
    pub unknown_answers: u64,
    pub submitted: u64,
    pub replayed: u64,
    pub read_to_event: Histogram,
    pub event_to_answer: Histogram,
    pub answer_to_written: Histogram,
    pub whole: Histogram,
}

fn since(begin_us: u64, end_us: u64) -> u64 {
    end_us.saturating_sub(begin_us).saturating_mul(1000)
}

impl Faults {
    /// The process has been started anew, or its front end has: none of them is left.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many have not been answered.
    pub fn unanswered(&self) -> u64 {
        self.open().count() as u64
    }

    fn open(&self) -> impl Iterator<Item = &Fault> {
        let faults = self.groups.values().flat_map(|group| &group.faults);
        faults.filter(|fault| fault.answered_us.is_none())
    }

    /// The oldest that has not been answered.
    pub fn oldest(&self) -> Option<Fault> {
        self.open().min_by_key(|fault| fault.read_us).copied()
    }

    /// Takes an event. A group that ends with it gives its longest fault.
    pub fn take(
        &mut self,
        t_us: u64,
        observation: &Observation,
        figures: &mut Figures,
    ) -> Option<Fault> {
        match *observation {
            Observation::FaultRead {
                device,
                sid,
                ssid,
                stag,
                addr,
                channel,
                cookie,
                ..
            } => {
                figures.read += 1;
                let fault = Fault {
                    device,
                    sid,
                    ssid,
                    addr,
                    stag,
                    read_us: t_us,
                    emitted_us: None,
                    answered_us: None,
                    written_us: None,
                };
                self.read((channel, cookie), fault);
            }
            Observation::EventEmitted { stag, .. } => {
                if let Some(fault) = self.fault(stag) {
                    fault.emitted_us = Some(t_us);
                    let ns = since(fault.read_us, t_us);
                    figures.read_to_event.record(ns);
                }
            }
            Observation::GuestAnswered {
                stag,
                channel,
                cookie,
                ..
            } => {
                if let Some(fault) = self.fault(stag) {
                    fault.answered_us = Some(t_us);
                    if let Some(emitted_us) = fault.emitted_us {
                        figures.event_to_answer.record(since(emitted_us, t_us));
                    }
                }
                self.by_stag.remove(&stag);
                if let Some(group) = self.groups.get_mut(&(channel, cookie)) {
                    group.answered_us = Some(t_us);
                }
            }
            Observation::AnswerWritten {
                channel,
                cookie,
                faults,
                ..
            } => {
                figures.answered += u64::from(faults);
                return self.written((channel, cookie), t_us, figures);
            }
            Observation::AnswerAborted {
                channel, cookie, ..
            } => self.drop_group((channel, cookie)),
            Observation::FaultAborted { stag, .. } => {
                figures.aborted += 1;
                self.by_stag.remove(&stag);
            }
            Observation::FaultRefused { .. } => figures.refused += 1,
            Observation::UnknownAnswer { .. } => figures.unknown_answers += 1,
            Observation::ChannelLost { channel, .. } => {
                self.retain(|key, _| key.0 != channel);
            }
            Observation::Detached { device, .. } => self.retain(|_, fault| fault.device != device),
            Observation::Reset { .. } => self.clear(),
            Observation::Submitted { .. } => figures.submitted += 1,
            Observation::Replayed { .. } => figures.replayed += 1,
            _ => {}
        }
        None
    }

    fn read(&mut self, key: Key, fault: Fault) {
        if self.count >= MOST {
            return;
        }
        self.count += 1;
        self.by_stag.insert(fault.stag, key);
        self.groups.entry(key).or_default().faults.push(fault);
    }

    fn fault(&mut self, stag: u16) -> Option<&mut Fault> {
        let group = self.groups.get_mut(self.by_stag.get(&stag)?)?;
        let mut faults = group.faults.iter_mut();
        faults.find(|fault| fault.stag == stag)
    }

    fn drop_group(&mut self, key: Key) {
        if let Some(group) = self.groups.remove(&key) {
            self.count -= group.faults.len();
        }
    }

    fn written(&mut self, key: Key, t_us: u64, figures: &mut Figures) -> Option<Fault> {
        let group = self.groups.remove(&key)?;
        self.count -= group.faults.len();
        // What a reset or a detach has answered says nothing of the guest.
        let answered_us = group.answered_us?;
        let mut first = group.faults.into_iter().min_by_key(|fault| fault.read_us)?;
        first.written_us = Some(t_us);
        figures.answer_to_written.record(since(answered_us, t_us));
        figures.whole.record(since(first.read_us, t_us));
        Some(first)
    }

    fn retain(&mut self, keep: impl Fn(&Key, &Fault) -> bool) {
        self.groups.retain(|key, group| {
            group.faults.retain(|fault| keep(key, fault));
            !group.faults.is_empty()
        });
        self.count = self.groups.values().map(|group| group.faults.len()).sum();
        let groups = &self.groups;
        self.by_stag.retain(|_, key| groups.contains_key(key));
    }
}
