// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The way of faults from the fault files into the core, and of answers out of it.
//!
//! What a read or a write has met is said by the fault file; what is to be done about it is decided
//! here, and an end is the table's business.

use std::{sync::Arc, thread, time::Duration};

use super::{
    fault_file::{AnswerSource, FaultSink, ReadEnd, WriteEnd},
    open_channel::{OpenChannel, Role},
    table::ChannelTable,
};
use crate::{
    backend::{published::SharedCore, wait::poller::Interest},
    core::{FaultError, Job},
    lock::lock,
    recovery::point,
    wire::{LostReason, PageResponse, PgFault},
};

/// Before reading again when the kernel has no memory for it.
const OUT_OF_MEMORY_REST: Duration = Duration::from_millis(10);

impl ChannelTable {
    /// Does what the core wants done.
    pub fn perform(&self, job: Job) {
        match job {
            Job::Write(number) => {
                if let Some(channel) = self.find(number) {
                    self.write(&channel);
                }
            }
            Job::Read(number) => {
                if let Some(channel) = self.find(number) {
                    while self.read(&channel) {}
                }
            }
            Job::Close(number) => self.close_if_unused(number),
            Job::ReadRecords => self.watch_records(),
        }
    }

    /// A descriptor of a channel is ready.
    pub fn ready(&self, token: u64, readable: bool, writable: bool) {
        let Some((channel, role)) = self.find_token(token) else {
            return;
        };
        match role {
            Role::Faults => {
                if writable {
                    channel.block_writes(false, &self.poller);
                    self.core.step(|core, _| core.writable(channel.number));
                }
                if readable {
                    self.read(&channel);
                }
            }
            Role::Owner => {
                let text = "the process that owns its devices has ended";
                self.lose(&channel, LostReason::Owner, &text);
            }
            Role::Records => self.read_records(&channel),
        }
    }

    /// Reads once, as readiness is level-triggered. Returns whether there may be more.
    pub fn read(&self, channel: &OpenChannel) -> bool {
        let mut sink = Sink {
            core: &self.core,
            channel,
        };
        let end = loop {
            let end = channel.faults.read(&mut sink);
            let unwanted = matches!(
                end,
                ReadEnd::Refused(FaultError::NoRoom { .. }) | ReadEnd::Unwanted
            );
            channel.block_reads(unwanted, &self.poller);
            // Another thread may have made room, and read, just before it was said that there is
            // none.
            if !unwanted || !sink.wanted() {
                break end;
            }
        };
        match end {
            ReadEnd::More => return true,
            ReadEnd::Empty | ReadEnd::Unwanted | ReadEnd::Refused(FaultError::NoRoom { .. }) => {}
            // Its last device has just been detached: it is about to be closed.
            ReadEnd::Refused(FaultError::UnknownChannel { .. }) => {}
            ReadEnd::Refused(e) => self.lose(channel, LostReason::Protocol, &e),
            ReadEnd::Again(e) => {
                log::warn!("fault channel {}: {e}; trying again", channel.number);
                // The descriptor stays readable: without a rest this would be a busy loop.
                thread::sleep(OUT_OF_MEMORY_REST);
            }
            ReadEnd::Closed => self.lose(channel, LostReason::Ended, &"the other end was closed"),
            ReadEnd::Broken(e) => self.lose(channel, LostReason::Io, &e),
        }
        false
    }

    /// Writes the answers that there are. When this returns none that existed before is on its way,
    /// unless the socket takes no more.
    pub fn write(&self, channel: &OpenChannel) {
        let mut source = Source {
            core: &self.core,
            channel,
        };
        match channel.faults.write(&mut source) {
            WriteEnd::Done => {}
            WriteEnd::Blocked => {
                self.core.step(|core, _| core.write_blocked(channel.number));
                channel.block_writes(true, &self.poller);
            }
            WriteEnd::Broken(e) => self.lose(channel, LostReason::Io, &e),
        }
    }

    /// Reads a channel's vEVENTQ as far as there is room.
    fn read_records(&self, channel: &OpenChannel) {
        let Some(records) = lock(&channel.records).clone() else {
            return;
        };
        let queue = &records.queue;
        let room = || self.core.look(|core| core.event_room());
        self.core.records_reading(channel.inbox(), true);
        let result = queue.fd.read(room(), |entry| {
            point("queue read");
            self.core.step(|core, now| {
                let record = entry.record.as_ref();
                // There is room, as only the engine reads vEVENTQs.
                let _ = core.stage_one_event(channel.number, record, entry.lost, now);
            });
            if entry.lost > 0 {
                log::warn!(
                    "fault channel {}: the kernel had no room for {} events of its vEVENTQ",
                    channel.number,
                    entry.lost
                );
            }
        });
        self.core.records_reading(channel.inbox(), false);
        match result {
            Ok(_) if room() == 0 => {
                self.watch(queue.token, &queue.fd, Interest::Nothing);
                // The job that says so may have been done just before.
                if room() > 0 {
                    self.watch(queue.token, &queue.fd, Interest::Read);
                }
            }
            Ok(_) => {}
            Err(e) => {
                log::error!(
                    "fault channel {}: the vEVENTQ is given up: {e}",
                    channel.number
                );
                self.remove_records(channel);
            }
        }
    }

    /// Waits for all vEVENTQs again.
    fn watch_records(&self) {
        for channel in self.open().by_number.values() {
            if let Some(records) = &*lock(&channel.records) {
                let queue = &records.queue;
                self.watch(queue.token, &queue.fd, Interest::Read);
            }
        }
    }

    fn watch(&self, token: u64, queue: impl std::os::fd::AsFd, interest: Interest) {
        if let Err(e) = self.poller.modify(queue, token, interest) {
            log::error!("vEVENTQ: epoll: {e}");
        }
    }
}

/// Puts the faults of a channel into the core.
struct Sink<'a> {
    core: &'a Arc<SharedCore>,
    channel: &'a OpenChannel,
}

impl FaultSink for Sink<'_> {
    type Error = FaultError;

    fn take(&mut self, faults: &[PgFault]) -> (usize, Result<(), FaultError>) {
        self.take_at(0, faults)
    }

    fn take_at(&mut self, at: usize, faults: &[PgFault]) -> (usize, Result<(), FaultError>) {
        if !self.channel.is_open() {
            return (faults.len(), Ok(()));
        }
        let inbox = self.channel.inbox();
        let mut taken = 0;
        loop {
            let (count, result) = self.core.step_taking(inbox, at + taken, |core, now| {
                for (count, fault) in faults[taken..].iter().enumerate() {
                    if let Err(e) = core.fault(self.channel.number, fault, now) {
                        return (count, Err(e));
                    }
                }
                (faults.len() - taken, Ok(()))
            });
            taken += count;
            let reused = matches!(
                result,
                Err(FaultError::DuplicateCookie { .. } | FaultError::Stale { .. })
            );
            match if reused {
                self.retake(at + taken, &faults[taken])
            } else {
                result
            } {
                Ok(()) if reused => taken += 1,
                result => return (taken, result),
            }
        }
    }

    fn wanted(&mut self) -> bool {
        let number = self.channel.number;
        self.channel.is_open() && self.core.look(|core| core.wants_read(number))
    }

    fn empty(&mut self) {
        if self.channel.is_open() {
            self.core
                .step(|core, now| core.channel_empty(self.channel.number, now));
        }
    }
}

impl Sink<'_> {
    /// Takes a fault whose cookie the core has not given up.
    ///
    /// A cookie can come again as soon as its answer has been taken; the thread that wrote the
    /// answer may not have told the core yet. With that thread out of the way it is clear what the
    /// cookie means.
    fn retake(&self, at: usize, fault: &PgFault) -> Result<(), FaultError> {
        let number = self.channel.number;
        let inbox = self.channel.inbox();
        let (_, result) = self.channel.faults.writer_at_rest(|| {
            self.core.step_taking(inbox, at, |core, now| {
                let mut result = core.fault(number, fault, now);
                if let Err(FaultError::Stale { channel, cookie }) = result {
                    log::warn!(
                        "fault channel {channel}: the kernel has aborted the fault of cookie \
                         {cookie} without a HOLD"
                    );
                    core.forget_stale(channel, cookie, now);
                    result = core.fault(number, fault, now);
                }
                (usize::from(result.is_ok()), result)
            })
        });
        result
    }
}

/// Takes the answers of a channel out of the core.
struct Source<'a> {
    core: &'a Arc<SharedCore>,
    channel: &'a OpenChannel,
}

impl AnswerSource for Source<'_> {
    fn peek(&mut self, answers: &mut [PageResponse]) -> usize {
        if !self.channel.is_open() {
            return 0;
        }
        let number = self.channel.number;
        self.core.step(|core, _| core.next_answers(number, answers))
    }

    fn written(&mut self, count: usize, answers: &mut [PageResponse]) -> usize {
        let number = self.channel.number;
        self.core.step(|core, now| {
            core.answers_written(number, count, now);
            core.next_answers(number, answers)
        })
    }

    fn aborted(&mut self, answers: &mut [PageResponse]) -> usize {
        let number = self.channel.number;
        self.core.step(|core, now| {
            core.answer_aborted(number, now);
            core.next_answers(number, answers)
        })
    }
}

#[cfg(test)]
mod tests;
