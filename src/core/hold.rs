// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What happens behind a fault channel's back: page tables are replaced, and the kernel aborts
//! faults by itself.

use super::channel::Blocked;
use super::fault_table::Owners;
use super::table::NIL;
use super::{Core, HoldError, Observation, Observer};

impl<O: Observer> Core<O> {
    /// The channel is a fault file of the kernel. It aborts the faults of a device itself when the
    /// page table of the device is replaced or taken away, and gives their cookies to other faults.
    pub fn set_kernel_channel(&mut self, channel: u32) {
        let Some(index) = self.channels.find(channel) else {
            return;
        };
        if let Some(slot) = self.channels.get_mut(index) {
            slot.kernel = true;
        }
    }

    /// The front end is about to change the page table of `device`. Until [`Core::unhold`] there
    /// are no answers for its channel, and the channel does not want to be read: a cookie that the
    /// kernel frees meanwhile is neither answered nor met again. What the guest answers is kept. A
    /// drain does not end.
    pub fn hold(&mut self, device: u32, now_ns: u64) -> Result<(), HoldError> {
        let state = self
            .devices
            .get_mut(device)
            .filter(|state| state.channel != NIL)
            .ok_or(HoldError::NotAttached { device })?;
        let slot = self
            .channels
            .get_mut(state.channel)
            .filter(|slot| slot.kernel)
            .ok_or(HoldError::NotKernel { device })?;
        if std::mem::replace(&mut state.held, true) {
            return Err(HoldError::AlreadyHeld { device });
        }
        slot.held += 1;
        slot.may_have_more();
        self.held_changed = self.channels.changes().is_on();
        self.observe(now_ns, Observation::Held { device });
        self.disturb_drained(now_ns);
        Ok(())
    }

    /// The page table of `device` has been changed. `aborted`: the kernel has aborted every fault
    /// of the device, so those that are known here are forgotten; otherwise they go on as if
    /// nothing had been.
    pub fn unhold(&mut self, device: u32, aborted: bool, now_ns: u64) -> Result<(), HoldError> {
        let state = self
            .devices
            .get(device)
            .filter(|state| state.channel != NIL)
            .ok_or(HoldError::NotAttached { device })?;
        if !state.held {
            return Err(HoldError::NotHeld { device });
        }
        let (channel, dev_id) = (state.channel, state.dev_id);
        let mut count = 0;
        if aborted {
            // One walk, however many there are.
            let mut next = self.channels.first_group(channel);
            while let Some(group) = next {
                next = self.channels.next_group(group);
                if self.channels.group(group).dev_id == dev_id {
                    self.kernel_aborted(group, now_ns);
                    count += 1;
                }
            }
            self.forget_refused(channel, device);
        }
        self.end_hold(device);
        self.observe(
            now_ns,
            Observation::Unheld {
                device,
                aborted: count,
            },
        );
        self.end_drain_if_drained(now_ns);
        Ok(())
    }

    /// A record of `device` that found no room in `channel` is gone, with what the kernel has
    /// aborted.
    fn forget_refused(&mut self, channel: u32, device: u32) {
        match self.channels.get(channel).and_then(|slot| slot.blocked) {
            Some(Blocked::Faults { device: other }) if other != device => {}
            // A record that found no group may be another device's: then it is offered again.
            _ => {
                self.channels.set_blocked(channel, None);
            }
        }
    }

    /// Forgets the group that has a cookie which came again ([`super::FaultError::Stale`]). Its
    /// answer, if it has one, must not be on its way.
    pub fn forget_stale(&mut self, channel: u32, cookie: u32, now_ns: u64) {
        let stale = self
            .channels
            .find(channel)
            .and_then(|index| self.channels.by_cookie(index, cookie));
        if let Some(group) = stale {
            self.kernel_aborted(group, now_ns);
        }
    }

    /// Whether the page table of `device` is being changed.
    pub fn is_held(&self, device: u32) -> bool {
        self.devices.get(device).is_some_and(|state| state.held)
    }

    /// Number of the channel of `device`, and the `dev_id` that it has there.
    pub fn channel_of(&self, device: u32) -> Option<(u32, u32)> {
        let state = self.devices.get(device)?;
        let channel = self.channels.get(state.channel)?;
        Some((channel.number, state.dev_id))
    }

    /// Lets go of a device, if it is held.
    pub(super) fn end_hold(&mut self, device: u32) {
        let Some(state) = self.devices.get_mut(device) else {
            return;
        };
        if !std::mem::replace(&mut state.held, false) {
            return;
        }
        let channel = state.channel;
        self.held_changed = self.channels.changes().is_on();
        if let Some(slot) = self.channels.get_mut(channel) {
            slot.held -= 1;
            slot.may_have_more();
            if slot.held == 0 {
                self.channels.want_read(channel);
                self.channels.want_write(channel);
            }
        }
    }

    /// Forgets a group that the kernel has aborted, with its faults.
    pub(super) fn kernel_aborted(&mut self, group: u32, now_ns: u64) {
        let dev_id = self.channels.group(group).dev_id;
        let channel = self.channels.group(group).channel;
        let mut gone = self.channels.abandon(group);
        let number = self.devices.by_dev_id(channel, dev_id);
        if let Some(state) = number.and_then(|number| self.devices.get_mut(number)) {
            while let Some(stag) = self.faults.first(&gone.faults).map(|f| f.event.stag) {
                let mut owners = Owners {
                    device: &mut state.faults,
                    group: &mut gone.faults,
                };
                self.faults.remove(stag, &mut owners);
            }
        }
        self.outstanding = self.outstanding.saturating_sub(gone.records);
        self.counters.answers_aborted = self.counters.answers_aborted.wrapping_add(1);
        let channel = self.channels.get(channel).map_or(NIL, |slot| slot.number);
        self.observe(
            now_ns,
            Observation::AnswerAborted {
                channel,
                cookie: gone.cookie,
                faults: gone.records,
            },
        );
    }
}
