// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Attached devices.

use super::fault_table::{FaultTable, BY_DEVICE};
use super::index::Index;
use super::table::{List, NIL};
use crate::wire::LostReason;

/// A device to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attachment {
    /// Number chosen by the front end, below `max_devices`.
    pub device: u32,
    /// SID as the guest knows it.
    pub vsid: u32,
    /// `dev_id` in the records of the fault channel.
    pub dev_id: u32,
    /// The fault channel, a number chosen by the front end.
    pub channel: u32,
    /// Limit of outstanding faults, 0 for the share that is the default.
    pub max_outstanding: u32,
    /// Whether the device is answered by CMD_PRI_RESP.
    pub pri: bool,
}

/// What is known of a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Device {
    pub(super) vsid: u32,
    pub(super) dev_id: u32,
    /// Index of its fault channel, [`NIL`] if it is lost.
    pub(super) channel: u32,
    pub(super) max_outstanding: u32,
    pub(super) pri: bool,
    /// It said so for the generation that drains.
    pub(super) quiesced: bool,
    /// The front end is changing its page table.
    pub(super) held: bool,
    pub(super) faults: List<BY_DEVICE>,
    /// Why it is lost.
    pub(super) lost: Option<LostReason>,
    /// DEVICE_LOST is still to be sent on this connection.
    lost_due: bool,
}

impl Device {
    pub(super) fn new(desc: &Attachment, channel: u32) -> Self {
        Self {
            vsid: desc.vsid,
            dev_id: desc.dev_id,
            channel,
            max_outstanding: desc.max_outstanding,
            pri: desc.pri,
            quiesced: false,
            held: false,
            faults: List::new(),
            lost: None,
            lost_due: false,
        }
    }

    /// Most faults it can have outstanding.
    pub(super) fn limit(&self, table: &FaultTable, share: u32) -> u32 {
        match self.max_outstanding {
            0 => share.min(table.capacity()),
            limit => limit.min(table.capacity()),
        }
    }

    /// Faults it may still raise. It can have more than its limit: a share shrinks when devices are
    /// attached.
    pub(super) fn room(&self, table: &FaultTable, share: u32) -> u32 {
        let of_limit = self.limit(table, share).saturating_sub(self.faults.len());
        of_limit.min(table.free_len())
    }
}

fn dev_id_key(channel: u32, dev_id: u32) -> u64 {
    (u64::from(channel) << 32) | u64::from(dev_id)
}

/// The devices, by number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Devices {
    slots: Box<[Option<Device>]>,
    sids: Index,
    /// By channel and `dev_id`; of those that have not lost their channel.
    dev_ids: Index,
    attached: u32,
    /// Devices with [`Device::lost_due`].
    lost_due: u32,
}

impl Devices {
    pub(super) fn new(max_devices: u32) -> Self {
        Self {
            slots: (0..max_devices).map(|_| None).collect(),
            sids: Index::new(max_devices),
            dev_ids: Index::new(max_devices),
            attached: 0,
            lost_due: 0,
        }
    }

    pub(super) fn get(&self, number: u32) -> Option<&Device> {
        self.slots.get(number as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Device> {
        self.slots.get_mut(number as usize)?.as_mut()
    }

    /// How many are attached.
    pub(super) fn len(&self) -> u32 {
        self.attached
    }

    /// Puts a device in its place, if its number is not too large.
    pub(super) fn insert(&mut self, number: u32, device: Device) {
        self.remove(number);
        if let Some(slot) = self.slots.get_mut(number as usize) {
            self.sids.insert(device.vsid.into(), number);
            self.dev_ids
                .insert(dev_id_key(device.channel, device.dev_id), number);
            *slot = Some(device);
            self.attached += 1;
        }
    }

    /// The device has lost its channel.
    pub(super) fn lose_channel(&mut self, number: u32) {
        if let Some(device) = self.slots.get_mut(number as usize).and_then(Option::as_mut) {
            let channel = std::mem::replace(&mut device.channel, NIL);
            self.dev_ids
                .remove(dev_id_key(channel, device.dev_id), number);
        }
    }

    /// How many devices are to be reported as lost.
    pub(super) fn lost_due_len(&self) -> u32 {
        self.lost_due
    }

    /// The next device that is to be reported as lost, and why it is.
    pub(super) fn next_lost(&self) -> Option<(u32, LostReason)> {
        if self.lost_due == 0 {
            return None;
        }
        self.iter()
            .filter(|(_, device)| device.lost_due)
            .find_map(|(number, device)| Some((number, device.lost?)))
    }

    /// Says whether a device, which is lost, is to be reported.
    pub(super) fn set_lost_due(&mut self, number: u32, due: bool) {
        if let Some(device) = self.get_mut(number) {
            let was = std::mem::replace(&mut device.lost_due, due);
            self.lost_due = self.lost_due + u32::from(due) - u32::from(was);
        }
    }

    pub(super) fn remove(&mut self, number: u32) {
        self.set_lost_due(number, false);
        self.lose_channel(number);
        let slot = self.slots.get_mut(number as usize);
        if let Some(device) = slot.and_then(Option::take) {
            self.sids.remove(device.vsid.into(), number);
            self.attached -= 1;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Device)> {
        (0..)
            .zip(self.slots.iter())
            .filter_map(|(number, slot)| Some((number, slot.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Device)> {
        (0..)
            .zip(self.slots.iter_mut())
            .filter_map(|(number, slot)| Some((number, slot.as_mut()?)))
    }

    pub(super) fn by_sid(&self, sid: u32) -> Option<u32> {
        self.sids.get(sid.into())
    }

    /// The device that has `dev_id` in the records of the channel with index `channel`.
    pub(super) fn by_dev_id(&self, channel: u32, dev_id: u32) -> Option<u32> {
        self.dev_ids.get(dev_id_key(channel, dev_id))
    }

    pub(super) fn on_channel(&self, channel: u32) -> impl Iterator<Item = (u32, &Device)> {
        debug_assert_ne!(channel, NIL);
        self.iter()
            .filter(move |(_, device)| device.channel == channel)
    }
}
