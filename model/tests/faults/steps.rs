// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What happens, and what must hold then.

use vhost_user_vsva::core::{Attachment, Core, Limits};
use vhost_user_vsva::wire::{
    GenerationPayload, LostReason, Message, MessageType, Payload, ResponseCode, SmmuCommand,
    DEVICE_NONE, EVENT_RECORD_SIZE, U64,
};

use super::core::number;
use super::kernel::{File, Group, Place, Record};
use super::shell::PORTAL;
use super::{Budget, Device, Drain, Event, Rules, Setup, World, DEVICES};
use crate::checker::Notes;

pub fn sid(device: usize) -> u32 {
    0x100 + number(device)
}

pub fn generation(generation: u64) -> GenerationPayload {
    GenerationPayload {
        generation: U64::new(generation),
    }
}

fn code(invalid: bool) -> ResponseCode {
    match invalid {
        true => ResponseCode::Invalid,
        false => ResponseCode::Success,
    }
}

impl World {
    pub fn new(rules: Rules, setup: Setup, left: Budget) -> Self {
        let limits = Limits {
            max_devices: number(DEVICES),
            max_pending: 1,
            max_faults: setup.max_faults,
            max_device_faults: 0,
        };
        let mut world = Self {
            rules,
            setup,
            left,
            core: Core::new(limits, ()).unwrap(),
            files: Default::default(),
            groups: Default::default(),
            devices: Default::default(),
            threads: [None; 2],
            open: [false; DEVICES],
            watched: [false; DEVICES],
            leaves: None,
            guest: Vec::new(),
            due: Default::default(),
            drain: Drain::None,
            generation: 0,
            notes: Notes::default(),
        };
        for device in 0..DEVICES {
            world.attaches(device);
        }
        world.follows(PORTAL);
        while !world.all_idle() && world.notes.bad.is_none() {
            world.works(PORTAL);
        }
        world.core = world.core.canonical();
        world
    }

    pub fn fail(&mut self, what: impl Into<String>) {
        self.notes.fail(what);
    }

    pub fn in_use(&self, channel: usize) -> bool {
        self.core.channel_in_use(number(channel))
    }

    /// No DMA of the device waits for an answer.
    pub fn rests(&self, device: usize) -> bool {
        let mut groups = self.groups.iter().flatten();
        !groups.any(|group| usize::from(group.device) == device && group.place != Place::Over)
    }

    pub fn message<P: Payload>(&mut self, kind: MessageType, device: u32, payload: &P) {
        let mut message = Message::new(kind, device, payload);
        message.seq = U64::new(1);
        self.core = self.core.clone().canonical();
        if let Err(error) = self.core.portal(&message, 0) {
            self.fail(format!("the core refuses: {error}"));
        }
    }

    pub fn command(&mut self, command: SmmuCommand) {
        self.message(MessageType::SmmuCmd, DEVICE_NONE, &command.encode());
    }

    pub fn faults(&mut self, device: usize) {
        self.left.faults[device] -= 1;
        let Some(index) = self.groups.iter().position(Option::is_none) else {
            return;
        };
        let of = u8::try_from(device).unwrap_or(0);
        self.groups[index] = Some(Group::new(of, self.setup.records[device]));
        let channel = self.channel_of(device);
        let index = u8::try_from(index).unwrap_or(0);
        self.files[channel].queue.push_back(index);
    }

    pub fn answers(&mut self, event: usize, invalid: bool) {
        self.left.invalid -= u8::from(invalid);
        let Event {
            stag,
            group,
            record,
        } = self.guest.remove(event);
        let Some(of) = &mut self.groups[usize::from(group)] else {
            return self.fail("the guest answers what is over");
        };
        of.records[usize::from(record)] = Record::Answered { invalid };
        let sid = sid(usize::from(of.device));
        let code = code(invalid);
        self.command(SmmuCommand::Resume { sid, stag, code });
    }

    pub fn answers_group(&mut self, index: usize, invalid: bool) {
        self.left.invalid -= u8::from(invalid);
        self.guest.retain(|event| usize::from(event.group) != index);
        if let Some(group) = &mut self.groups[index] {
            for record in &mut group.records {
                if *record == Record::Waiting {
                    *record = Record::Answered { invalid };
                }
            }
        }
        self.command(SmmuCommand::PriResp {
            sid: sid(0),
            ssid: Some(1),
            group: number(index),
            code: code(invalid),
        });
    }

    /// What the core has of the device is aborted; nothing more of what it has in part reaches the
    /// guest.
    pub fn gone(&mut self, device: usize) {
        self.aborts(device);
        for group in self.groups.iter_mut().flatten() {
            let part = group.taken() > 0 && (group.taken() as usize) < group.records.len();
            group.refused |= part && usize::from(group.device) == device;
        }
        self.due.retain(|of| usize::from(*of) != device);
    }

    /// The kernel aborts all faults of the device itself.
    pub fn kernel_aborts(&mut self, device: usize) {
        for index in 0..self.groups.len() {
            let Some(group) = &mut self.groups[index] else {
                continue;
            };
            if usize::from(group.device) != device {
                continue;
            }
            match group.place {
                Place::Queued => self.forget(index),
                Place::Given(_) => group.place = Place::Over,
                Place::Over => {}
            }
        }
    }

    pub fn unholds(&mut self, device: usize) {
        let replaced = self.devices[device].replaced;
        let told = replaced && self.rules.tells_aborted;
        self.devices[device].held = false;
        self.devices[device].replaced = false;
        if told {
            for index in 0..self.groups.len() {
                let over = self.groups[index].as_ref().is_some_and(|group| {
                    usize::from(group.device) == device && group.place == Place::Over
                });
                if over {
                    self.forget(index);
                }
            }
        }
        if let Err(error) = self.core.unhold(number(device), told, 0) {
            self.fail(format!("UNHOLD is refused: {error}"));
        }
    }

    pub fn event_comes(&mut self, device: usize) {
        self.left.events -= 1;
        let mut record = [0; EVENT_RECORD_SIZE];
        record[0] = 0x04;
        record[4..8].copy_from_slice(&sid(device).to_le_bytes());
        let event = self
            .core
            .stage_one_event(number(self.channel_of(device)), Some(&record), 0, 0);
        if event.is_err() {
            self.fail("no room for an event");
        }
        self.due.push_back(u8::try_from(device).unwrap_or(0));
    }

    pub fn attaches(&mut self, device: usize) {
        let channel = self.channel_of(device);
        if !self.in_use(channel) {
            self.forget_closed();
            self.files[channel] = File::default();
            self.watched[channel] = true;
            self.open[channel] = true;
        }
        let desc = Attachment {
            device: number(device),
            vsid: sid(device),
            dev_id: 10 + number(device),
            channel: number(channel),
            max_outstanding: self.setup.max_outstanding,
            pri: self.setup.pri && device == 0,
        };
        if let Err(error) = self.core.attach(&desc, 0) {
            self.fail(format!("ATTACH is refused: {error}"));
        }
        self.core.set_kernel_channel(number(channel));
        self.devices[device] = Device {
            attached: true,
            ..Device::default()
        };
    }

    pub fn detaches(&mut self, device: usize) {
        self.left.detaches -= 1;
        self.gone(device);
        self.devices[device] = Device::default();
        if self.core.detach(number(device), 0).is_err() {
            self.fail("DETACH is refused");
        }
        self.leaves = Some(device);
    }

    pub fn loses(&mut self, channel: usize) {
        self.left.losses -= 1;
        self.open[channel] = false;
        self.core
            .channel_lost(number(channel), LostReason::Ended, 0);
        for device in 0..DEVICES {
            if self.channel_of(device) == channel && self.devices[device].attached {
                self.kernel_aborts(device);
                let quiesced = self.devices[device].quiesced;
                self.devices[device] = Device {
                    lost: true,
                    quiesced,
                    ..Device::default()
                };
            }
        }
        self.forget_closed();
    }

    /// Of a channel that is closed nothing is left.
    pub fn forget_closed(&mut self) {
        for channel in (0..DEVICES)
            .filter(|channel| !self.in_use(*channel))
            .collect::<Vec<_>>()
        {
            for index in 0..self.groups.len() {
                let here = |group: &Group| self.channel_of(usize::from(group.device)) == channel;
                if self.groups[index].as_ref().is_some_and(here) {
                    self.forget(index);
                }
            }
        }
    }
}
