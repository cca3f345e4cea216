// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a front end may do, and what its back-end may tell it. Whatever the rules forbid is a
//! [`Violation`].

use super::{violation, Execution, FrontEnd, Phase, Post, Violation, Vm};

impl FrontEnd {
    /// F1: the portals are trapped, the devices told to quiesce, DRAIN is posted.
    pub fn start_drain(&mut self) -> Result<u64, Violation> {
        self.has_back_end("DRAIN")?;
        if matches!(self.vm, Vm::Saving | Vm::Loading) {
            return violation("F5", format!("a drain begins, the VM is {:?}", self.vm));
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

    fn has_back_end(&self, what: &str) -> Result<(), Violation> {
        match self.connected {
            true => Ok(()),
            false => violation("F11", format!("{what} without a back-end")),
        }
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
        self.post(Post::Quiesced { device, generation });
        Ok(true)
    }

    /// DRAINED. Returns whether it was for this drain, else nothing happens.
    pub fn drained(&mut self, generation: u64) -> Result<bool, Violation> {
        if generation != self.generation || self.phase != Phase::Draining {
            return Ok(false);
        }
        self.has_back_end("DRAINED")?;
        if self.devices & !self.quiesced != 0 {
            return violation("F12", "DRAINED before every device had come to rest");
        }
        self.may_replay = false;
        self.phase = Phase::Drained;
        Ok(true)
    }

    /// The drain has failed: DRAIN_FAILED, or a reason of the front end's own (`generation` is its
    /// own then).
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

    /// F6: nobody has stopped the VM in time. RELEASE follows.
    pub fn expires(&mut self) -> Result<(), Violation> {
        if self.phase != Phase::Drained || self.vm != Vm::Running {
            let (phase, vm) = (self.phase, self.vm);
            return violation("F6", format!("{phase:?} ends by itself, the VM is {vm:?}"));
        }
        // Who still wants it asks again, and gets another drain.
        self.wanted = 0;
        self.expired = true;
        Ok(())
    }

    /// RELEASE is posted.
    pub fn release(&mut self) -> Result<u64, Violation> {
        self.has_back_end("RELEASE")?;
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
        match self.vm {
            Vm::Running
                if self.connected && matches!(self.phase, Phase::Failed | Phase::Loaded) =>
            {
                return violation("F7", format!("the VM runs in {:?}", self.phase));
            }
            Vm::Running | Vm::Stopping => {}
            Vm::Stopped | Vm::Saving | Vm::Loading => {
                return violation("F5", "a submission of a VM that is stopped");
            }
        }
        if self.copies.pending() >= self.max_pending {
            let max = self.max_pending;
            return violation(
                "section 3, credit",
                format!("more than {max} submissions are pending"),
            );
        }
        let ticket = self.copies.push(device);
        self.post(Post::Submit { device, ticket });
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
        if self.vm == Vm::Stopped && self.phase == Phase::Releasing && self.rules.take_back {
            let what = "the VM has stopped, and the release was not taken back";
            return violation("F4", format!("ticket {ticket} is replayed: {what}"));
        }
        if !self.may_replay {
            return violation(
                "F8",
                format!("ticket {ticket} is replayed in {:?}", self.phase),
            );
        }
        self.copies.replay(ticket)
    }

    /// F4: the VM has stopped in RELEASING. DRAIN follows.
    pub fn take_back(&self) -> Result<(), Violation> {
        if self.phase != Phase::Releasing || self.vm != Vm::Stopped {
            let (phase, vm) = (self.phase, self.vm);
            return violation("F4", format!("{phase:?} is taken back, the VM is {vm:?}"));
        }
        Ok(())
    }

    /// RELEASED. Returns whether it was for this release, else nothing happens.
    pub fn released(&mut self, generation: u64, next_ticket: u64) -> Result<bool, Violation> {
        if self.phase != Phase::Releasing || generation != self.release_generation {
            return Ok(false);
        }
        self.has_back_end("RELEASED")?;
        self.copies.skip_until(next_ticket)?;
        if self.copies.pending() == 0 {
            self.fast_path()?;
        }
        Ok(true)
    }

    /// F11: there is no back-end any more.
    pub fn connection_lost(&mut self) {
        self.connected = false;
        self.posts.clear();
    }

    /// F11: without a back-end the oldest copy is executed. Returns its ticket as well.
    pub fn execute_copy(&mut self) -> Result<(u64, Execution), Violation> {
        let ticket = self.copies.replayed();
        if self.connected || self.vm != Vm::Running {
            let (phase, vm) = (self.phase, self.vm);
            let what = format!("ticket {ticket} is executed without a REPLAY in {phase:?}, {vm:?}");
            return violation("F11", what);
        }
        match self.copies.pop() {
            Some(held) => {
                self.executed_alone = true;
                Ok((ticket, held.map_or(Execution::Dropped, Execution::Device)))
            }
            None => violation("F11", format!("ticket {ticket} is executed, there is none")),
        }
    }

    /// F11: without a back-end the portals go back to the fast path when all copies have been
    /// executed.
    pub fn recovered(&mut self) -> Result<(), Violation> {
        if self.connected || self.vm != Vm::Running {
            let (phase, vm) = (self.phase, self.vm);
            return violation(
                "F11",
                format!("{phase:?} ends without RELEASED, the VM is {vm:?}"),
            );
        }
        self.fast_path()
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

    /// The guest, or the VM, has reset this device, or all.
    pub fn reset(&mut self, device: Option<u32>) {
        let meant = |of| device.is_none_or(|device| device == of);
        self.copies.drop_devices(meant);
        self.post(Post::Reset { device });
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

    /// The VM has been stopped, started and so on.
    pub fn vm_is(&mut self, vm: Vm) {
        self.vm = vm;
    }

    /// The last pass over the VM's memory begins.
    pub fn last_pass(&mut self) -> Result<(), Violation> {
        if !matches!(self.vm, Vm::Stopped | Vm::Saving) {
            return violation("F5", format!("a VM is saved that is {:?}", self.vm));
        }
        self.vm = Vm::Saving;
        Ok(())
    }

    /// F5: whether the VM may be saved.
    pub fn check_savable(&self) -> Result<(), Violation> {
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

    /// The last pass over the VM's memory begins, and it may be saved.
    pub fn begin_save(&mut self) -> Result<(), Violation> {
        self.last_pass()?;
        self.check_savable()
    }

    /// The save is over, whether well or not.
    pub fn end_save(&mut self) {
        self.vm = Vm::Stopped;
    }

    /// A VM was loaded that had no back-end where it was saved.
    pub fn goes_on_from(&mut self, generation: u64) {
        self.generation = self.generation.max(generation);
    }

    /// The VM is going to be replaced by one that is loaded: what it has submitted is not executed
    /// any more.
    pub fn begin_load(&mut self) {
        self.vm = Vm::Loading;
        self.copies.drop_devices(|_| true);
    }
}
