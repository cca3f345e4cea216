// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A core goes on where another one, whose process has ended, was: with what that one has saved.
//!
//! What was saved keeps its place, so that a STAG that the guest knows stays what it is. A device
//! claims what is its own when it is attached. Until [`Core::finish_recovery`] no channel is read.

use std::collections::BTreeSet;

use super::channel_table::Channels;
use super::device_table::Devices;
use super::drain::{Drain, Release};
use super::fault_table::FaultTable;
use super::fault_table::Owners;
use super::saved::Numbers;
use super::{Core, Counters, Observation, Observer, Phase, SavedFault, SavedGroup};
use crate::wire::ResponseCode;

/// What was saved. It contradicts neither itself nor the core's limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The groups and their places.
    pub groups: Vec<(u32, SavedGroup)>,
    /// Places of those of them whose answer is known to have been written.
    pub written: Vec<u32>,
    /// The faults and their STAGs.
    pub faults: Vec<(u32, SavedFault)>,
    /// Devices that were held.
    pub held: Vec<u32>,
    /// In the order of the config space.
    pub counters: [u64; 8],
    /// Number of the last message of the event ring that the front end has taken.
    pub event_base: u64,
    /// Number of the last message of the portal ring that has taken effect.
    pub portal_base: u64,
    /// The ticket that the next submission will have.
    pub next_ticket: u64,
}

/// What has not been claimed yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Recovery {
    groups: Vec<(u32, SavedGroup)>,
    faults: Vec<(u32, SavedFault)>,
    held: Vec<u32>,
}

impl<O: Observer> Core<O> {
    /// Goes on with what was saved. The core is fresh, and saves its own steps from now on.
    pub fn recover(&mut self, mut saved: Recovered) {
        saved.groups.sort_by_key(|(_, group)| group.order);
        saved.faults.sort_by_key(|(_, fault)| fault.order);
        let orders = (
            saved.groups.last().map_or(0, |(_, group)| group.order),
            saved.faults.last().map_or(0, |(_, fault)| fault.order),
        );
        self.start_changes(orders.0, orders.1);
        for (index, _) in &saved.groups {
            self.channels.reserve(*index);
        }
        for (index, _) in &saved.faults {
            self.faults.reserve(*index);
        }
        self.counters = Counters::from_array(saved.counters);
        self.numbers = Numbers {
            event_base: saved.event_base,
            portal_base: saved.portal_base,
        };
        self.pending.restore(saved.next_ticket, std::iter::empty());
        self.drain.phase = Phase::Loaded;
        let written: BTreeSet<u32> = saved.written.into_iter().collect();
        for (index, group) in &saved.groups {
            if written.contains(index) {
                self.channels.give_up(*index);
                self.count_answered(group.records);
            }
        }
        saved.groups.retain(|(index, _)| !written.contains(index));
        self.recovery = Some(Box::new(Recovery {
            groups: saved.groups,
            faults: saved.faults,
            held: saved.held,
        }));
    }

    /// As after [`Core::new`], but on the same connection. Nothing is answered: it has all been
    /// saved, and is recovered.
    pub fn forget(&mut self) {
        let limits = self.limits;
        let seed = self.faults.seed();
        self.devices = Devices::new(limits.max_devices);
        self.channels = Channels::new(limits.max_devices, limits.max_faults);
        self.faults = FaultTable::new(limits.max_faults);
        self.faults.set_seed(seed);
        self.pending.clear();
        self.stage_one.clear();
        self.drain = Drain::default();
        self.release = Release::default();
        self.outstanding = 0;
        self.prefer_replay = false;
        self.recovery = None;
        self.held_changed = false;
    }

    /// Whether [`Core::finish_recovery`] is still to come.
    pub fn is_recovering(&self) -> bool {
        self.recovery.is_some()
    }

    /// A device that has just been attached takes what is its own, and the answers that may not
    /// have been written are to be written.
    pub fn claim(&mut self, number: u32) {
        let (Some(mut recovery), Some(device)) =
            (self.recovery.take(), self.devices.get_mut(number))
        else {
            return;
        };
        let index = device.channel;
        let channel = self.channels.get(index).map(|slot| slot.number);
        let dev_id = device.dev_id;
        let own = |group: &SavedGroup| Some(group.channel) == channel && group.dev_id == dev_id;
        for (at, group) in recovery.groups.iter().filter(|(_, group)| own(group)) {
            self.channels.install(*at, group, index);
            self.outstanding = self.outstanding.saturating_add(group.records);
        }
        for (stag, fault) in &recovery.faults {
            let of_group = self.channels.group(fault.group);
            if of_group.channel != index || of_group.dev_id != dev_id {
                continue;
            }
            let page_request = of_group.page_request;
            let mut owners = Owners {
                device: &mut device.faults,
                group: &mut self.channels.group_mut(fault.group).faults,
            };
            let whose = (number, device.vsid);
            self.faults
                .install(*stag, fault, whose, page_request, &mut owners);
        }
        if recovery.held.contains(&number) && !device.held {
            if let Some(slot) = self.channels.get_mut(index).filter(|slot| slot.kernel) {
                device.held = true;
                slot.held += 1;
            }
        }
        for (at, _) in recovery.groups.iter().filter(|(_, group)| own(group)) {
            self.channels.queue_answer_if_complete(*at);
        }
        recovery.groups.retain(|(_, group)| !own(group));
        let faults = &self.faults;
        recovery
            .faults
            .retain(|(stag, _)| faults.saved(*stag).is_none());
        self.recovery = Some(recovery);
    }

    /// Every device has been attached: what is left belongs to none, and is answered INVALID if its
    /// channel is open. Then the channels are read again.
    pub fn finish_recovery(&mut self, now_ns: u64) {
        let Some(recovery) = self.recovery.take() else {
            return;
        };
        let mut dropped = 0;
        let waiting: BTreeSet<u32> = recovery.faults.iter().map(|(_, of)| of.group).collect();
        for (at, mut group) in recovery.groups {
            if waiting.contains(&at) || group.open {
                dropped += 1;
                group.refused |= group.open;
                group.code = ResponseCode::Invalid;
            }
            match self.channels.find(group.channel) {
                Some(index) => {
                    self.channels.install(at, &group, index);
                    self.outstanding = self.outstanding.saturating_add(group.records);
                    self.channels.queue_answer_if_complete(at);
                }
                None => self.channels.give_up(at),
            }
        }
        for (stag, _) in &recovery.faults {
            self.faults.give_up(*stag);
        }
        self.faults.sort();
        self.held_changed = true;
        let channels: Vec<u32> = self.channels.iter().map(|(index, _)| index).collect();
        let mut answers = 0;
        for index in channels {
            answers += self
                .channels
                .get(index)
                .map_or(0, |slot| slot.answers_len());
            self.channels.want_read(index);
        }
        self.observe(
            now_ns,
            Observation::Recovered {
                faults: self.faults.capacity() - self.faults.free_len(),
                unsent: self.faults.backlog_len(),
                answers,
                dropped,
            },
        );
    }

    /// Forgets what has not been claimed.
    pub(super) fn drop_recovery(&mut self) {
        if let Some(recovery) = self.recovery.take() {
            for (at, _) in recovery.groups {
                self.channels.give_up(at);
            }
            for (stag, _) in recovery.faults {
                self.faults.give_up(stag);
            }
        }
    }
}
