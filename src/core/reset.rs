// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A front end that begins anew.

use super::drain::{Drain, Release};
use super::{Core, Counters, Observation, Observer};

impl<O: Observer> Core<O> {
    /// Everything is as after [`Core::new`], whatever another front end has left behind.
    ///
    /// All devices are detached. What is left of them is that the answers to their faults, all
    /// INVALID, are still to be written; these are not counted.
    pub fn reset(&mut self, now_ns: u64) {
        // First, or the drain would end with its last device.
        self.drain = Drain::default();
        self.release = Release::default();
        let mut devices = 0;
        for device in 0..self.limits.max_devices {
            devices += u32::from(self.detach(device, now_ns).is_ok());
        }
        for channel in self.channels.iter_mut() {
            channel.left_over = true;
        }
        self.drop_recovery();
        self.pending.clear();
        self.counters = Counters::default();
        self.prefer_replay = false;
        self.rings_reset();
        self.observe(now_ns, Observation::Reset { devices });
    }
}
