// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest does.

use super::super::rig::submission;
use super::kernel::{Fault, Group};
use super::world::{channel_of, Due, World, LIMITS, PRI};
use crate::wire::{MessageType, ResponseCode, SmmuCommand, EVENT_RECORD_SIZE};

impl World {
    pub fn resume(&mut self, pick: usize, success: bool) {
        let count = self.guest.len().max(1);
        let Some((stag, of)) = self.guest.iter().nth(pick % count) else {
            return;
        };
        let (stag, (number, index)) = (*stag, *of);
        let code = code(success);
        let sid = self.vsid(self.groups[&number].device);
        self.answer(number, index, code);
        self.command(SmmuCommand::Resume { sid, stag, code });
    }

    /// The guest answers a page request group when it has all of it.
    pub fn page_response(&mut self, pick: usize, success: bool) {
        let delivered =
            |number: &u64, index: usize| self.guest.values().any(|of| *of == (*number, index));
        let whole = |(number, group): &(&u64, &Group)| {
            let all = group.faults.iter().enumerate();
            group.device == PRI
                && group.waiting() > 0
                && all.clone().all(|(_, fault)| *fault != Fault::Unread)
                && all
                    .clone()
                    .all(|(at, fault)| *fault != Fault::Waiting || delivered(number, at))
        };
        let all: Vec<u64> = self
            .groups
            .iter()
            .filter(whole)
            .map(|(number, _)| *number)
            .collect();
        let Some(number) = all.get(pick % all.len().max(1)).copied() else {
            return;
        };
        let code = code(success);
        let group = self.groups[&number].clone();
        for (index, fault) in group.faults.iter().enumerate() {
            if *fault == Fault::Waiting {
                self.answer(number, index, code);
            }
        }
        self.command(SmmuCommand::PriResp {
            sid: self.vsid(PRI),
            ssid: group.pasid,
            group: group.grpid,
            code,
        });
    }

    pub fn page_response_guess(&mut self, device: u32, group: u32) {
        self.counters.unknown_answers += 1;
        self.command(SmmuCommand::PriResp {
            sid: self.vsid(device),
            // No group has this one.
            ssid: Some(9),
            group,
            code: ResponseCode::Success,
        });
    }

    pub fn stall_term(&mut self, device: u32) {
        let sid = self.vsid(device);
        // Its SID may be another's by now.
        let meant = self.by_sid(sid);
        if meant.is_none_or(|device| self.abort_device(device) == 0) {
            self.counters.unknown_answers += 1;
        }
        self.command(SmmuCommand::StallTerm { sid });
    }

    pub fn stage_one(&mut self, device: Option<u32>, stall: bool, lost: u32, has_record: bool) {
        let mut record = [0; EVENT_RECORD_SIZE];
        record[0] = 0x04;
        record[4..8].copy_from_slice(
            &device
                .map_or(0x999, |device| self.vsid(device))
                .to_le_bytes(),
        );
        record[11] = if stall { 0x80 } else { 0 };
        record[16..24].copy_from_slice(&self.now.to_le_bytes());
        let given = has_record.then_some(&record);
        self.core.stage_one_event(0, given, lost, self.now).unwrap();
        self.loses(lost);
        let device = device.and_then(|device| self.by_sid(self.vsid(device)));
        if let Some(device) = device.filter(|_| has_record && !stall) {
            self.due.push_back(Due::Record { device, record });
        }
    }

    /// The vEVENTQ of channel 0 has lost so many. Two losses without a record between them are one.
    fn loses(&mut self, lost: u32) {
        let mut here = self.attached.iter().filter(|of| channel_of(**of) == 0);
        let Some(device) = here.next().copied().filter(|_| lost > 0) else {
            return;
        };
        let mut others = self.due.iter_mut().rev();
        match others.find(|due| !matches!(due, Due::Fault { .. })) {
            Some(Due::Lost { device: of, count }) if *of == device => *count += lost,
            _ => self.due.push_back(Due::Lost {
                device,
                count: lost,
            }),
        }
    }

    pub fn submit(&mut self, device: u32) {
        if self.pending.len() >= LIMITS.max_pending as usize {
            return;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if self.attached.contains(&device) {
            self.pending.push_back((ticket, device));
        }
        self.counters.submissions += 1;
        self.portal(MessageType::Submit, device, &submission(ticket));
    }
}

fn code(success: bool) -> ResponseCode {
    match success {
        true => ResponseCode::Success,
        false => ResponseCode::Invalid,
    }
}
