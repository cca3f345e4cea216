// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a front end may do, and what its back-end may tell it. Whatever the rules forbid is a [`Violation`].

use super::{violation, Execution, FrontEnd, Phase, Post, Violation, Vm};

impl FrontEnd {
    /// F1: the portals are trapped, the devices told to quiesce, DRAIN is posted.
    pub fn start_drain(&mut self) -> Result<u64, Violation> {
        if !self.connected {
            return violation("F11", "a drain begins without a back-end");
        }
        if self.vm == Vm::Saving {
            return violation("F5", "a drain begins in a VM that is being saved");
        }
        if self.rules.expired_is_released && self.expired && self.vm == Vm::Running {
            return violation(
                "F6",
                "a drain begins before what the last one held is released",
            );
        }
        self.generation += 1;
        self.quiesced = 0;
        self.phase = Phase::Draining;
        let generation = self.generation;
        self.post(Post::Drain { generation });
        Ok(generation)
    }

    /// DEVICE_QUIESCED is posted. Returns whether it was for this drain, else nothing happens.
    pub fn device_quiesced(&mut self, device: u32, generation: u64) -> Result<bool, Violation> {
        if generation != self.generation || self.phase != Phase::Draining {
            return Ok(false);
        }
        if self.devices & (1 << device) == 0 {
            return violation(
                "F1",
                format!("device {device}, not attached, has come to rest"),
            );
        }
        if self.quiesced & (1 << device) != 0 {
            return violation("F1", format!("device {device} has come to rest twice"));
        }
        self.quiesced |= 1 << device;
        self.post(Post::Quiesced { generation });
        Ok(true)
    }

    /// DRAINED. Returns whether it was for this drain, else nothing happens.
    pub fn drained(&mut self, generation: u64) -> Result<bool, Violation> {
        if generation != self.generation || self.phase != Phase::Draining {
            return Ok(false);
        }
        if self.devices & !self.quiesced != 0 {
            return violation("F12", "DRAINED before every device had come to rest");
        }
        self.may_replay = false;
        self.phase = Phase::Drained;
        Ok(true)
    }

    /// The drain has failed: DRAIN_FAILED, or a reason of the front end's own (`generation` is its own then).
    pub fn drain_failed(&mut self, generation: u64, from_back_end: bool) -> bool {
        let draining = matches!(self.phase, Phase::Draining | Phase::Drained);
        if generation != self.generation || !draining {
            return false;
        }
        if from_back_end {
            self.may_replay = false;
        }
        self.phase = Phase::Failed;
        true
    }

    /// RELEASE is posted.
    pub fn release(&mut self) -> Result<u64, Violation> {
        match self.vm {
            Vm::Saving => return violation("F5", "released while being saved"),
            Vm::Stopping | Vm::Stopped if self.rules.reserve => {
                return violation("F3", "released while the VM is stopped, or being stopped")
            }
            _ => {}
        }
        if matches!(self.phase, Phase::Running | Phase::Releasing) {
            return violation("F1", format!("released in {:?}", self.phase));
        }
        let generation = match self.phase {
            Phase::Loaded => 0,
            _ => self.generation,
        };
        self.release_generation = generation;
        self.phase = Phase::Releasing;
        self.may_replay = true;
        self.post(Post::Release { generation });
        Ok(generation)
    }

    /// SUBMIT is posted.
    pub fn submit(&mut self, device: u32) -> Result<u64, Violation> {
        if !self.trapped() {
            return violation("F1", "a submission in RUNNING");
        }
        if matches!(self.vm, Vm::Stopped | Vm::Saving) {
            return violation("F5", "a submission of a VM that is stopped");
        }
        if self.copies.pending() >= self.max_pending {
            let max = self.max_pending;
            return violation(
                "section 3, credit",
                format!("more than {max} submissions are pending"),
            );
        }
        let ticket = self.copies.push(device);
        self.post(Post::Submit { ticket });
        Ok(ticket)
    }

    /// REPLAY.
    pub fn replay(&mut self, ticket: u64) -> Result<Execution, Violation> {
        if self.vm == Vm::Saving && self.rules.saved_at_rest {
            return violation(
                "F5",
                format!("ticket {ticket} is replayed into a VM that is being saved"),
            );
        }
        if !self.may_replay {
            return violation(
                "F8",
                format!("ticket {ticket} is replayed in {:?}", self.phase),
            );
        }
        self.copies.replay(ticket)
    }

    /// RELEASED. Returns whether it was for this release, else nothing happens.
    pub fn released(&mut self, generation: u64, next_ticket: u64) -> Result<bool, Violation> {
        if self.phase != Phase::Releasing || generation != self.release_generation {
            return Ok(false);
        }
        self.copies.skip_until(next_ticket)?;
        if self.copies.pending() == 0 {
            self.fast_path()?;
        }
        Ok(true)
    }

    /// The portals go back to the fast path.
    pub fn fast_path(&mut self) -> Result<(), Violation> {
        let left = self.copies.pending();
        if left != 0 {
            return violation(
                "F1",
                format!("back to the fast path with {left} submissions left"),
            );
        }
        self.phase = Phase::Running;
        self.may_replay = false;
        self.expired = false;
        Ok(())
    }

    /// The guest, or the VM, has reset these devices.
    pub fn reset(&mut self, device: impl Fn(u32) -> bool) {
        self.copies.drop_devices(device);
        self.post(Post::Reset);
    }

    /// A device is there. While a drain is under way it must come to rest as well.
    pub fn attach(&mut self, device: u32) {
        self.devices |= 1 << device;
        self.quiesced &= !(1 << device);
    }

    /// A device is gone.
    pub fn detach(&mut self, device: u32) {
        self.devices &= !(1 << device);
        self.copies.drop_devices(|of| of == device);
    }

    /// vCPUs are told to stop.
    pub fn vm_stopping(&mut self) {
        self.vm = Vm::Stopping;
    }

    /// The last pass over the VM's memory begins.
    pub fn begin_save(&mut self) -> Result<(), Violation> {
        self.vm = Vm::Saving;
        if !self.connected {
            return violation("F5", "a VM without a back-end is saved");
        }
        let at_rest = match self.phase {
            Phase::Running => self.copies.pending() == 0,
            Phase::Drained | Phase::Loaded => true,
            Phase::Draining | Phase::Releasing | Phase::Failed => false,
        };
        if self.rules.saved_at_rest && !at_rest {
            return violation("F5", format!("a VM is saved in {:?}", self.phase));
        }
        Ok(())
    }

    /// The save is over, whether well or not.
    pub fn end_save(&mut self) {
        self.vm = Vm::Stopped;
    }
}
