// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices come and go.

use super::device_table::Device;
use super::fault_table::Owners;
use super::table::NIL;
use super::{AttachError, Attachment, Core, DetachError, Observation, Observer};
use crate::wire::{DrainFailedReason, LostReason};

impl<O: Observer> Core<O> {
    /// Attaches a device. Its channel is new if [`Core::channel_in_use`] said no before.
    ///
    /// A device that lost its channel may be attached again with another; its submissions stay
    /// queued.
    pub fn attach(&mut self, desc: &Attachment, now_ns: u64) -> Result<(), AttachError> {
        self.check_attach(desc)?;
        let number = desc.device;
        let channel = match self.channels.find(desc.channel) {
            Some(channel) => {
                // One without devices was not read.
                self.channels.want_read(channel);
                channel
            }
            None => self
                .channels
                .open(desc.channel)
                .ok_or(AttachError::TooManyChannels {
                    channel: desc.channel,
                })?,
        };
        if let Some(slot) = self.channels.get_mut(channel) {
            slot.devices += 1;
        }
        self.devices.insert(number, Device::new(desc, channel));
        self.observe(
            now_ns,
            Observation::Attached {
                device: number,
                sid: desc.vsid,
                channel: desc.channel,
            },
        );
        self.disturb_drained(now_ns);
        Ok(())
    }

    fn check_attach(&self, desc: &Attachment) -> Result<(), AttachError> {
        let device = desc.device;
        if device >= self.limits.max_devices {
            return Err(AttachError::DeviceNumber {
                device,
                max_devices: self.limits.max_devices,
            });
        }
        if self.devices.get(device).is_some_and(|d| d.channel != NIL) {
            return Err(AttachError::AlreadyAttached { device });
        }
        let others = || self.devices.iter().filter(|(number, _)| *number != device);
        if let Some((other, _)) = others().find(|(_, d)| d.vsid == desc.vsid) {
            return Err(AttachError::SidTaken {
                vsid: desc.vsid,
                device: other,
            });
        }
        let channel = self.channels.find(desc.channel);
        let same = |d: &Device| Some(d.channel) == channel && d.dev_id == desc.dev_id;
        if let Some((other, _)) = others().find(|(_, d)| same(d)) {
            return Err(AttachError::DevIdTaken {
                dev_id: desc.dev_id,
                device: other,
            });
        }
        Ok(())
    }

    /// Detaches a device: its outstanding faults are answered INVALID, its submissions dropped.
    pub fn detach(&mut self, device: u32, now_ns: u64) -> Result<(), DetachError> {
        let Some(gone) = self.devices.get(device) else {
            return Err(DetachError { device });
        };
        let channel = gone.channel;
        self.end_hold(device);
        let answered = self.abort_faults(device, now_ns);
        let dropped = self.pending.drop_device(device);
        self.devices.remove(device);
        // What is lost in its channel is told for another device there.
        let others = self.channels.get(channel).map(|_| channel);
        let heir = others.and_then(|channel| self.devices.on_channel(channel).next());
        let heir = heir.map(|(other, _)| other);
        self.stage_one.drop_device(device, heir);
        if let Some(slot) = self.channels.get_mut(channel) {
            slot.devices -= 1;
            if slot.devices == 0 {
                // Nobody waits for the rest of a group, and nothing reads the channel any more.
                self.channels.close_group(channel);
            } else {
                // Its last faults may have come since the channel was read.
                slot.may_have_more();
            }
            self.channels.close_if_unused(channel);
        }
        self.observe(
            now_ns,
            Observation::Detached {
                device,
                answered,
                dropped,
            },
        );
        self.end_drain_if_drained(now_ns);
        Ok(())
    }

    /// The device was reset: its outstanding faults are answered INVALID, its submissions dropped.
    pub(super) fn reset_device(&mut self, device: u32, now_ns: u64) {
        if self.devices.get(device).is_none() {
            return;
        }
        let answered = self.abort_faults(device, now_ns);
        let dropped = self.pending.drop_device(device);
        self.stage_one.drop_records(device);
        self.observe(
            now_ns,
            Observation::DeviceReset {
                device,
                answered,
                dropped,
            },
        );
    }

    /// Answers a device's outstanding faults INVALID and returns how many there were.
    fn abort_faults(&mut self, number: u32, now_ns: u64) -> u32 {
        let Some(device) = self.devices.get(number) else {
            return 0;
        };
        self.channels
            .refuse_open_group(device.channel, device.dev_id);
        self.answer_all(number, None, now_ns)
    }

    /// Whether the channel has devices, or answers to be written. When it is no longer in use the
    /// shell closes it.
    pub fn channel_in_use(&self, channel: u32) -> bool {
        self.channels.find(channel).is_some()
    }

    /// The channel ended or broke: its faults are dropped, its devices lost. The shell closes it.
    pub fn channel_lost(&mut self, channel: u32, reason: LostReason, now_ns: u64) {
        let Some(index) = self.channels.find(channel) else {
            return;
        };
        for number in 0..self.limits.max_devices {
            let on_channel = |device: &&mut Device| device.channel == index;
            if let Some(device) = self.devices.get_mut(number).filter(on_channel) {
                device.held = false;
                self.held_changed = self.channels.changes().is_on();
                device.lost = Some(reason);
                while let Some(fault) = self.faults.first(&device.faults) {
                    let mut owners = Owners {
                        device: &mut device.faults,
                        group: &mut self.channels.group_mut(fault.group).faults,
                    };
                    let stag = fault.event.stag;
                    self.faults.remove(stag, &mut owners);
                }
                self.devices.lose_channel(number);
                self.devices.set_lost_due(number, true);
            }
        }
        let dropped = self.channels.drop_channel(index);
        self.outstanding = self.outstanding.saturating_sub(dropped);
        self.observe(
            now_ns,
            Observation::ChannelLost {
                channel,
                reason,
                dropped,
            },
        );
        self.fail_drain(DrainFailedReason::FaultChannel, now_ns);
    }
}
