// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the front end does.

use std::collections::BTreeSet;

use super::super::rig::submission;
use super::world::{attach, channel_of, Due, Ids, World, IDS, LIMITS};
use crate::core::{AttachError, Core, Phase};
use crate::state;
use crate::wire::{DrainRequest, GenerationPayload, MessageType, DEVICE_NONE, U32, U64};

impl World {
    pub fn drain(&mut self, timeout_ms: u32) {
        self.generation += 1;
        self.begun = self.now;
        self.quiesced.clear();
        self.answered = 0;
        self.released = None;
        self.counters.drains += 1;
        let request = DrainRequest {
            generation: U64::new(self.generation),
            timeout_ms: U32::new(timeout_ms),
            reserved: U32::ZERO,
        };
        self.portal(MessageType::Drain, DEVICE_NONE, &request);
    }

    pub fn quiesce(&mut self, device: Option<u32>) {
        if self.core.phase() == Phase::Draining {
            let all = self.attached.iter().copied();
            let said = all.filter(|of| device.is_none_or(|device| device == *of));
            self.quiesced.extend(said);
        }
        let generation = U64::new(self.generation);
        let payload = GenerationPayload { generation };
        self.portal(
            MessageType::DeviceQuiesced,
            device.unwrap_or(DEVICE_NONE),
            &payload,
        );
    }

    pub fn release(&mut self, zero: bool) {
        let generation = if zero { 0 } else { self.generation };
        self.released = Some(generation);
        self.replayed = 0;
        let generation = U64::new(generation);
        let payload = GenerationPayload { generation };
        self.portal(MessageType::Release, DEVICE_NONE, &payload);
    }

    pub fn reset(&mut self, device: Option<u32>) {
        let all: Vec<u32> = self.attached.iter().copied().collect();
        for of in all
            .into_iter()
            .filter(|of| device.is_none_or(|device| device == *of))
        {
            self.forget_device(of);
        }
        self.portal(MessageType::Reset, device.unwrap_or(DEVICE_NONE), &[0u8; 0]);
    }

    /// What there is of a device is dropped, its faults are answered INVALID.
    fn forget_device(&mut self, of: u32) {
        self.abort_device(of);
        self.pending.retain(|(_, owner)| *owner != of);
        self.due.retain(|due| match due {
            Due::Record { device, .. } => *device != of,
            Due::Lost { .. } | Due::Fault { .. } => true,
        });
        for group in self.groups.values_mut().filter(|group| group.device == of) {
            let open = group.taken() > 0 && group.taken() < group.faults.len();
            group.refused |= open;
        }
    }

    /// A device gets a SID and a `dev_id`, those of another that was detached perhaps.
    pub fn attach(&mut self, device: u32, vsid: u32, dev_id: u32) {
        let ids = Ids {
            vsid: 0x100 + vsid,
            dev_id: 10 + dev_id,
        };
        let others: Vec<u32> = self.attached.iter().copied().collect();
        let taken = |same: &dyn Fn(u32, Ids) -> bool| {
            let mut others = others.iter();
            others.any(|other| same(*other, self.ids[*other as usize]))
        };
        let here = channel_of(device);
        let sid_taken = taken(&|_, of| of.vsid == ids.vsid);
        let dev_id_taken = taken(&|other, of| channel_of(other) == here && of.dev_id == ids.dev_id);
        let before = self.core.clone();
        let result = attach(&mut self.core, device, ids, self.now);
        match &result {
            Ok(()) => assert!(!others.contains(&device) && !sid_taken && !dev_id_taken),
            Err(AttachError::AlreadyAttached { .. }) => assert!(others.contains(&device)),
            Err(AttachError::SidTaken { .. }) => assert!(sid_taken),
            Err(AttachError::DevIdTaken { .. }) => assert!(dev_id_taken && !sid_taken),
            Err(error) => panic!("{error}"),
        }
        if result.is_err() {
            return assert!(self.core == before, "nothing has changed");
        }
        self.ids[device as usize] = ids;
        self.attached.insert(device);
        self.quiesced.remove(&device);
    }

    pub fn detach(&mut self, device: u32) {
        let result = self.core.detach(device, self.now);
        assert_eq!(result.is_ok(), self.attached.contains(&device));
        if result.is_err() {
            return;
        }
        // Its own HOLD has ended; that of another one of its channel goes on.
        self.held.remove(&device);
        self.forget_device(device);
        self.attached.remove(&device);
        self.quiesced.remove(&device);
        self.inherit_losses(device);
        self.taken_away(device);
    }

    /// What has been lost is told for another device of the channel, if there is one.
    fn inherit_losses(&mut self, gone: u32) {
        let mut others = self.attached.iter().copied();
        let heir = others.find(|other| channel_of(*other) == channel_of(gone));
        for due in &mut self.due {
            if let (Due::Lost { device, .. }, Some(heir)) = (due, heir) {
                if *device == gone {
                    *device = heir;
                }
            }
        }
        self.due
            .retain(|due| !matches!(due, Due::Lost { device, .. } if *device == gone));
    }

    /// The state moves to another core, on a host that has given the devices other numbers.
    pub fn load(&mut self, moved: u32) {
        let rests = self.groups.is_empty() && self.held.is_empty() && !self.core.has_event();
        let Some(saved) = self.core.snapshot().ok().filter(|_| rests) else {
            return;
        };
        let loaded = state::decode(&state::encode(&saved)[..]).unwrap();
        assert_eq!(saved, loaded);
        let mut core = Core::new(LIMITS, ()).unwrap();
        for device in self.attached.clone() {
            let old = self.ids[device as usize];
            let dev_id = 10 + (old.dev_id - 10 + moved) % IDS;
            self.ids[device as usize].dev_id = dev_id;
            attach(&mut core, device, self.ids[device as usize], self.now).unwrap();
        }
        core.restore(&loaded, self.now).unwrap();
        assert_eq!(core.phase(), Phase::Loaded);
        assert_eq!(core.generation(), self.generation);
        assert_eq!(core.next_ticket(), self.next_ticket);
        self.core = core;
        self.channels = Default::default();
        self.quiesced = BTreeSet::new();
        (self.portal_seq, self.event_seq) = (0, 0);
        (self.released, self.replayed, self.last) = (None, 0, None);
    }

    /// A new connection, on which the front end sends again what may not have arrived.
    pub fn reconnect(&mut self, resend: usize) {
        self.core.rings_reset();
        (self.portal_seq, self.event_seq) = (0, 0);
        let first = self.pending.len().saturating_sub(resend);
        let again: Vec<_> = self.pending.iter().skip(first).copied().collect();
        for (ticket, device) in again {
            self.portal(MessageType::Submit, device, &submission(ticket));
        }
    }
}
