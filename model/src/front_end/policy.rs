// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a front end does of its own accord.

use super::{Execution, FrontEnd, Phase, Violation, Vm};

/// Who may want the devices to be ready for the VM to be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum User {
    /// A migration.
    Migration = 1,
    /// A command that stops the VM and can wait: QMP `stop`, `snapshot-save`.
    Stop = 2,
}

/// Whether the VM may be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ready {
    /// It may.
    Yes,
    /// Not yet.
    No,
    /// The drain has failed.
    Failed,
}

/// What became of a guest's write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Submitted {
    /// It was executed at once.
    FastPath,
    /// It was posted with this ticket.
    Queued(u64),
    /// There is no credit: the writer waits.
    Waits,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timer {
    /// The back-end has not ended a drain.
    Draining,
    /// Nobody has stopped the VM.
    Drained,
}

impl FrontEnd {
    /// Somebody asks whether the VM may be stopped, and wants it to be.
    pub fn ready(&mut self, user: User) -> Ready {
        if !self.connected {
            return Ready::Failed;
        }
        if self.wanted & user as u8 == 0 {
            if self.wanted == 0 {
                self.failed = false;
            }
            self.wanted |= user as u8;
            self.update_due = true;
        }
        match self.phase {
            _ if self.failed => Ready::Failed,
            Phase::Drained => Ready::Yes,
            _ => Ready::No,
        }
    }

    /// Somebody does not want it any more.
    pub fn not_wanted(&mut self, user: User) {
        if self.wanted & user as u8 != 0 {
            self.wanted &= !(user as u8);
            if self.wanted == 0 {
                self.failed = false;
                self.update_due = true;
            }
        }
    }

    /// Whether somebody wants it.
    pub fn is_wanted_by(&self, user: User) -> bool {
        self.wanted & user as u8 != 0
    }

    /// Whether this one is to be told of a drain that has failed.
    pub fn has_failed_for(&self, user: User) -> bool {
        self.is_wanted_by(user) && (self.failed || !self.connected)
    }

    /// The guest answers a fault: never blocked.
    pub fn guest_answers(&mut self, device: u32, stag: u16) {
        self.post(super::Post::Resume { device, stag });
    }

    /// Whether [`FrontEnd::update`] is due.
    pub fn update_due(&self) -> bool {
        self.update_due
            && self.vm == Vm::Running
            && !(self.wanted != 0 && self.expired && self.rules.expired_is_released)
    }

    /// Does what is wanted. Returns what is executed if there is no back-end any more.
    pub fn update(&mut self) -> Result<Vec<Execution>, Violation> {
        self.update_due = false;
        if !self.connected {
            return self.recover();
        }
        let wanted = self.wanted != 0 && !self.failed;
        let expired = self.expired && self.rules.expired_is_released;
        if wanted && !expired {
            if !matches!(self.phase, Phase::Draining | Phase::Drained) {
                self.start_drain()?;
            }
        } else if !matches!(self.phase, Phase::Running | Phase::Releasing) {
            self.release()?;
        }
        // When what the expired drain held has been released.
        self.update_due = wanted && expired;
        Ok(Vec::new())
    }

    /// The guest writes to a trapped portal, or to one that was trapped a moment ago.
    pub fn guest_writes(&mut self, device: u32) -> Result<Submitted, Violation> {
        if !self.trapped() {
            return Ok(Submitted::FastPath);
        }
        let reserve = match self.vm {
            Vm::Running if self.rules.reserve => self.reserve,
            _ => 0,
        };
        if self.connected && self.copies.pending() >= self.max_pending - reserve {
            if matches!(self.phase, Phase::Draining | Phase::Drained) {
                self.fail(false)?;
            }
            if self.phase != Phase::Releasing {
                self.release()?;
            }
            return Ok(Submitted::Waits);
        }
        self.submit(device).map(Submitted::Queued)
    }

    /// Whether a write of the guest has an effect now; else the writer waits for a REPLAY.
    pub fn takes_writes(&self) -> bool {
        let reserve = match self.vm {
            Vm::Running if self.rules.reserve => self.reserve,
            _ => 0,
        };
        let room = self.copies.pending() < self.max_pending - reserve;
        room || matches!(self.phase, Phase::Draining | Phase::Drained)
    }

    /// DRAIN_FAILED.
    pub fn back_end_failed(&mut self, generation: u64) -> Result<(), Violation> {
        if self.drain_failed(generation, true) {
            self.has_failed()?;
        }
        Ok(())
    }

    fn fail(&mut self, from_back_end: bool) -> Result<(), Violation> {
        if self.drain_failed(self.generation, from_back_end) {
            self.has_failed()?;
        }
        Ok(())
    }

    /// F7: the guest does not wait for whoever wanted the drain.
    fn has_failed(&mut self) -> Result<(), Violation> {
        self.failed = self.wanted != 0;
        if self.vm == Vm::Running && self.connected {
            self.release()?;
        }
        Ok(())
    }

    /// The timer that runs.
    pub fn timer(&self) -> Option<Timer> {
        match self.phase {
            Phase::Draining => Some(Timer::Draining),
            Phase::Drained if self.rules.drained_ends && self.vm == Vm::Running => {
                Some(Timer::Drained)
            }
            _ => None,
        }
    }

    /// It fires.
    pub fn timer_fires(&mut self, timer: Timer) -> Result<(), Violation> {
        match timer {
            Timer::Draining => self.fail(false),
            Timer::Drained => {
                self.expires()?;
                self.release().map(drop)
            }
        }
    }

    /// vCPUs have stopped.
    pub fn vm_stopped(&mut self) -> Result<(), Violation> {
        self.vm = Vm::Stopped;
        if self.rules.take_back && self.connected && self.phase == Phase::Releasing {
            self.start_drain()?;
        }
        Ok(())
    }

    /// vCPUs run again.
    pub fn vm_started(&mut self) -> Result<Vec<Execution>, Violation> {
        self.vm = Vm::Running;
        self.update()
    }

    /// F11: the back-end is lost. Returns what is executed.
    pub fn lost(&mut self) -> Result<Vec<Execution>, Violation> {
        self.connection_lost();
        self.fail(false)?;
        match self.vm {
            Vm::Running => self.recover(),
            _ => Ok(Vec::new()),
        }
    }

    fn recover(&mut self) -> Result<Vec<Execution>, Violation> {
        let mut executed = Vec::new();
        if self.phase == Phase::Running {
            return Ok(executed);
        }
        while self.copies.pending() > 0 {
            let copied = self.copies.has_copy() && self.rules.recovers;
            let (_, execution) = self.execute_copy()?;
            if copied && execution != Execution::Dropped {
                executed.push(execution);
            }
        }
        self.recovered()?;
        Ok(executed)
    }
}
