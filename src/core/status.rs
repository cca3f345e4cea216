// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the core tells of itself.

use super::fault_table::OldestFault;
use super::{Core, Observer};
use crate::state::{STATE_COMPAT, STATE_VERSION};
use crate::wire::{
    ConfigSpace, Figures, StatusBlock, CONFIG_MAGIC, PROTOCOL_VERSION, U16, U32, U64,
};

/// What a device has of what all of them have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFigures {
    /// Faults that the guest has not answered.
    pub unanswered: u32,
    /// The most of them: its own limit, or the share.
    pub fault_limit: u32,
    /// Its own limit, as it was attached; 0: none.
    pub max_outstanding: u32,
    /// Its submissions in the queue.
    pub pending: u32,
}

impl<O: Observer> Core<O> {
    /// What a device has, if it is attached.
    pub fn device_figures(&self, number: u32) -> Option<DeviceFigures> {
        let device = self.devices.get(number)?;
        Some(DeviceFigures {
            unanswered: device.faults.len(),
            fault_limit: device.limit(&self.faults, self.fault_share()),
            max_outstanding: device.max_outstanding,
            pending: self.pending.of_device(number),
        })
    }

    /// What GET_CONFIG answers.
    pub fn config_space(&self, now_ns: u64) -> ConfigSpace {
        let oldest = self.faults.oldest(now_ns);
        ConfigSpace {
            magic: U32::new(CONFIG_MAGIC),
            version: U16::new(PROTOCOL_VERSION),
            state_version: U16::new(STATE_VERSION),
            state_compat: U16::new(STATE_COMPAT),
            recovery_room: U16::ZERO,
            phase: U32::new(self.drain.phase as u32),
            max_devices: U32::new(self.limits.max_devices),
            max_pending: U32::new(self.limits.max_pending),
            max_faults: U32::new(self.limits.max_faults),
            figures: self.figures(&oldest),
            oldest_age_ms: U32::new(oldest.age_ms),
            oldest_flags: U32::new(oldest.flags),
        }
    }

    /// What the status block says after a step at `now_ns`. Its `seq` and `size` belong to whoever
    /// writes it.
    pub fn status(&self, now_ns: u64) -> StatusBlock {
        let oldest = self.faults.oldest(now_ns);
        StatusBlock {
            seq: U32::ZERO,
            size: U32::ZERO,
            heartbeat_ns: U64::new(now_ns),
            generation: U64::new(self.drain.generation),
            phase: U32::new(self.drain.phase as u32),
            figures: self.figures(&oldest),
            oldest_read_ns: U64::new(oldest.read_ns),
            oldest_flags: U32::new(oldest.flags),
            devices: U32::new(self.devices.len()),
            fault_share: U32::new(self.fault_share()),
            blocked: U32::new(self.channels.blocked_len()),
        }
    }

    fn figures(&self, oldest: &OldestFault) -> Figures {
        let counters = &self.counters;
        Figures {
            outstanding: U32::new(self.outstanding),
            pending: U32::new(self.pending.len()),
            backlog: U32::new(self.faults.backlog_len() + self.stage_one.len()),
            faults_read: U64::new(counters.faults_read),
            faults_answered: U64::new(counters.faults_answered),
            answers_aborted: U64::new(counters.answers_aborted),
            unknown_answers: U64::new(counters.unknown_answers),
            submissions: U64::new(counters.submissions),
            replays: U64::new(counters.replays),
            drains: U64::new(counters.drains),
            drains_failed: U64::new(counters.drains_failed),
            oldest_sid: U32::new(oldest.sid),
            oldest_ssid: U32::new(oldest.ssid),
            oldest_addr: U64::new(oldest.addr),
        }
    }
}
