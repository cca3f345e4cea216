// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faults read from the channels: taken, refused, or left there until there is room.

use super::channel::{Blocked, ReadJob};
use super::device_table::Device;
use super::fault_table::{NewFault, Owners};
use super::{Core, FaultError, Observation, Observer, RefusedReason};
use crate::wire::{PgFault, PERM_WRITE, SSID_MAX};

/// What is to be done with a fault record.
enum Verdict {
    Take { device: u32, sid: u32 },
    Refuse(RefusedReason),
    Wait(Blocked),
}

impl<O: Observer> Core<O> {
    /// Takes a record that was read from a fault channel.
    pub fn fault(&mut self, channel: u32, record: &PgFault, now_ns: u64) -> Result<(), FaultError> {
        let index = self
            .channels
            .find(channel)
            .ok_or(FaultError::UnknownChannel { channel })?;
        let open = self.open_group(index, record)?;
        let verdict = match self.judge(index, open, record, now_ns) {
            Verdict::Take { .. } | Verdict::Refuse(_)
                if open.is_none() && self.group_room(index) == 0 =>
            {
                Verdict::Wait(Blocked::Groups)
            }
            verdict => verdict,
        };
        let cookie = record.cookie.get();
        let dev_id = record.dev_id.get();
        let no_room = FaultError::NoRoom { channel };
        if let Verdict::Wait(blocked) = verdict {
            self.block(index, blocked, now_ns);
            return Err(no_room);
        }
        let group = match open {
            Some(group) => group,
            None => {
                let device = match verdict {
                    Verdict::Take { device, .. } => self.devices.get(device),
                    _ => None,
                };
                let page_request = device.is_some_and(|device| device.pri);
                self.channels
                    .open_group(index, cookie, dev_id, page_request)
                    .ok_or(no_room)?
            }
        };
        let of_group = self.channels.group_mut(group);
        of_group.records = of_group.records.saturating_add(1);
        self.outstanding = self.outstanding.saturating_add(1);
        self.counters.faults_read = self.counters.faults_read.wrapping_add(1);
        if let Some(slot) = self.channels.get_mut(index) {
            slot.may_have_more();
        }
        self.channels.set_blocked(index, None);
        match verdict {
            Verdict::Take { device, sid } => {
                self.take_fault(channel, record, device, sid, group, now_ns);
            }
            Verdict::Refuse(reason) => {
                self.channels.refuse_open_group(index, dev_id);
                self.observe(
                    now_ns,
                    Observation::FaultRefused {
                        channel,
                        dev_id,
                        cookie,
                        reason,
                    },
                );
            }
            Verdict::Wait(_) => {}
        }
        if record.is_last() {
            self.channels.close_group(index);
        }
        self.disturb_drained(now_ns);
        Ok(())
    }

    /// The open group that the record belongs to, if there is one.
    fn open_group(&self, index: u32, record: &PgFault) -> Result<Option<u32>, FaultError> {
        let Some(slot) = self.channels.get(index) else {
            return Ok(None);
        };
        let (channel, kernel) = (slot.number, slot.kernel);
        let cookie = record.cookie.get();
        let Some(open) = slot.open else {
            return match self.channels.by_cookie(index, cookie) {
                None => Ok(None),
                Some(_) if kernel => Err(FaultError::Stale { channel, cookie }),
                Some(_) => Err(FaultError::DuplicateCookie { channel, cookie }),
            };
        };
        let group = self.channels.group(open);
        if group.cookie != cookie {
            return Err(FaultError::GroupInterrupted {
                channel,
                open: group.cookie,
                found: cookie,
            });
        }
        if group.dev_id != record.dev_id.get() {
            return Err(FaultError::GroupOfTwoDevices { channel, cookie });
        }
        Ok(Some(open))
    }

    fn judge(&mut self, index: u32, open: Option<u32>, record: &PgFault, now_ns: u64) -> Verdict {
        let dev_id = record.dev_id.get();
        let Some(number) = self.devices.by_dev_id(index, dev_id) else {
            return Verdict::Refuse(RefusedReason::UnknownDevice);
        };
        let Some(device) = self.devices.get(number) else {
            return Verdict::Refuse(RefusedReason::UnknownDevice);
        };
        if record.pasid().is_some_and(|pasid| pasid > SSID_MAX) {
            return Verdict::Refuse(RefusedReason::PasidTooLarge);
        }
        if open.is_some_and(|group| self.channels.group(group).refused) {
            return Verdict::Refuse(RefusedReason::GroupRefused);
        }
        if device.room(&self.faults, self.fault_share()) > 0 {
            return Verdict::Take {
                device: number,
                sid: device.vsid,
            };
        }
        if self.never_ends(device, open) {
            self.channels.refuse_open_group(index, dev_id);
            self.answer_all(number, None, now_ns);
            return Verdict::Refuse(RefusedReason::GroupRefused);
        }
        Verdict::Wait(Blocked::Faults { device: number })
    }

    /// Whether no answer can make room for the rest of the open group of `device`. The guest
    /// answers a page request only when it has seen all of it, so one that fills the device's
    /// limit, or the table together with others that are not complete, would wait for ever.
    fn never_ends(&self, device: &Device, open: Option<u32>) -> bool {
        let Some(group) = open.map(|group| self.channels.group(group)) else {
            return false;
        };
        let of_device = device.faults.len();
        let alone = group.faults.len() == of_device
            && of_device >= device.limit(&self.faults, self.fault_share());
        let full =
            self.faults.free_len() == 0 && self.channels.unanswerable() == self.faults.capacity();
        group.page_request && group.dev_id == device.dev_id && (alone || full)
    }

    /// The most faults that a device without a limit of its own may have outstanding.
    pub(super) fn fault_share(&self) -> u32 {
        self.limits.fault_share(self.devices.len())
    }

    /// Groups that the channel may still begin: as many as its devices may have faults, and one,
    /// whether they wait for the guest or for a peer that does not read its answers.
    fn group_room(&self, index: u32) -> u32 {
        let share = self.fault_share();
        let most = self
            .devices
            .on_channel(index)
            .map(|(_, device)| device.limit(&self.faults, share))
            .fold(1, u32::saturating_add);
        let of_channel = most.saturating_sub(self.channels.groups_of(index));
        of_channel.min(self.channels.free_groups())
    }

    fn block(&mut self, index: u32, blocked: Blocked, now_ns: u64) {
        let Some(slot) = self.channels.get_mut(index) else {
            return;
        };
        slot.may_have_more();
        let channel = slot.number;
        if !self.channels.set_blocked(index, Some(blocked)) {
            self.observe(now_ns, Observation::ChannelBlocked { channel });
        }
        self.disturb_drained(now_ns);
    }

    fn take_fault(
        &mut self,
        channel: u32,
        record: &PgFault,
        number: u32,
        sid: u32,
        group: u32,
        now_ns: u64,
    ) {
        let Some(device) = self.devices.get_mut(number) else {
            return;
        };
        let of_group = self.channels.group_mut(group);
        let new = NewFault {
            record,
            device: number,
            sid,
            group,
            page_request: of_group.page_request,
        };
        let mut owners = Owners {
            device: &mut device.faults,
            group: &mut of_group.faults,
        };
        let Some(stag) = self.faults.insert(&new, &mut owners, now_ns) else {
            return;
        };
        self.observe(
            now_ns,
            Observation::FaultRead {
                device: number,
                sid,
                ssid: record.pasid(),
                stag,
                addr: record.addr.get(),
                write: record.perm.get() & PERM_WRITE != 0,
                grpid: record.grpid.get(),
                channel,
                cookie: record.cookie.get(),
            },
        );
    }

    /// The channel was read until it was empty.
    pub fn channel_empty(&mut self, channel: u32, now_ns: u64) {
        let Some(index) = self.channels.find(channel) else {
            return;
        };
        if let Some(slot) = self.channels.get_mut(index) {
            slot.empty = slot.blocked.is_none();
            // With a record left that found no room, it is not to be read again for nothing.
            if slot.empty {
                slot.read = ReadJob::None;
            }
        }
        self.end_drain_if_drained(now_ns);
    }

    /// Whether the channel should be read: not after [`FaultError::NoRoom`] until there is room.
    pub fn wants_read(&self, channel: u32) -> bool {
        let index = self.channels.find(channel);
        index.is_some_and(|index| self.wants_read_at(index))
    }

    pub(super) fn wants_read_at(&self, index: u32) -> bool {
        if self.recovery.is_some() {
            return false;
        }
        let Some(slot) = self.channels.get(index) else {
            return false;
        };
        if slot.devices == 0 || slot.held > 0 {
            return false;
        }
        match slot.blocked {
            None => true,
            Some(Blocked::Groups) => self.group_room(index) > 0,
            Some(Blocked::Faults { device }) => {
                let goes_on = |device: &Device| {
                    device.room(&self.faults, self.fault_share()) > 0
                        || self.never_ends(device, slot.open)
                };
                self.devices.get(device).is_none_or(goes_on)
            }
        }
    }

    /// How many records of the channel are sure to find room now.
    #[cfg(test)]
    pub fn fault_room(&self, channel: u32) -> u32 {
        let Some(index) = self.channels.find(channel) else {
            return 0;
        };
        if self.channels.get(index).is_some_and(|slot| slot.held > 0) {
            return 0;
        }
        self.devices
            .on_channel(index)
            .map(|(_, device)| device.room(&self.faults, self.fault_share()))
            .min()
            .map_or(0, |room| room.min(self.group_room(index)))
    }
}
