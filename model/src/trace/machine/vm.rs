// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VM: its run state, and how it is saved and loaded.

use super::super::qemu::{Loaded, VmStep};
use super::{same, Machine};
use crate::front_end::{violation, FrontEnd, Phase, Rules, Saved, Violation, Vm};

/// A state that was saved, and what was to be replayed then.
#[derive(Clone, Debug)]
pub struct SavedState {
    pub id: String,
    pub time: String,
    pub front: Saved,
    pub pending: Vec<(u64, u32)>,
}

impl SavedState {
    /// Whether it can be the one that was loaded.
    pub fn fits(&self, id: &str, loaded: &Loaded, time: &str) -> bool {
        let saved = (self.front.generation, self.front.next_ticket);
        self.id == id && saved == (loaded.generation, loaded.next) && self.time.as_str() <= time
    }
}

impl Machine {
    pub fn vm_step(&mut self, step: &VmStep) -> Result<(), Violation> {
        let vm = self.front.vm();
        if matches!(step, VmStep::RunState { .. } | VmStep::Notify { .. }) {
            self.check_shown()?;
        }
        match step {
            VmStep::RunState { from, to } => {
                if from == "running" && to != "running" && vm == Vm::Running {
                    match to.as_str() {
                        "finish-migrate" => self.stops(true)?,
                        "save-vm" => self.stops(false)?,
                        _ => {}
                    }
                    self.front.vm_is(Vm::Stopping);
                } else if to == "running" && vm == Vm::Stopping {
                    self.front.vm_is(Vm::Running);
                }
            }
            VmStep::Notify { running: true, .. } => {
                self.loaded = false;
                self.front.vm_is(Vm::Running);
            }
            VmStep::Notify { running: false, .. } => self.front.vm_is(Vm::Stopped),
            VmStep::LastPass => self.front.last_pass()?,
            VmStep::SaveEnds if vm == Vm::Saving => self.front.vm_is(Vm::Stopped),
            VmStep::SaveEnds => {}
            VmStep::LoadSetup => self.loaded = false,
            // It may be another one's, after this one has been loaded.
            VmStep::LoadBegins if self.loaded => {}
            VmStep::LoadBegins => self.front.begin_load(),
            VmStep::Asked => self.asked = true,
            VmStep::AskedNoMore => self.asked = false,
        }
        Ok(())
    }

    /// F2: the VM is stopped for a migration, or for a save that somebody has asked to be ready
    /// for.
    fn stops(&self, migration: bool) -> Result<(), Violation> {
        let phase = self.front.phase();
        let needed = self.drains && !self.clients.is_empty() && self.front.connected();
        if needed && (migration || self.asked) && phase != Phase::Drained {
            return violation("F2", format!("the VM is stopped in {phase:?}"));
        }
        Ok(())
    }

    /// What is saved now.
    pub fn saved(&self, id: &str, time: &str) -> SavedState {
        SavedState {
            id: id.to_owned(),
            time: time.to_owned(),
            front: self.front.save(),
            pending: self.front.copies().held().collect(),
        }
    }

    /// F9: the state that was saved, loaded here. Without the back-end's part nothing was queued.
    pub fn load(&mut self, loaded: &Loaded, saved: Option<&SavedState>) -> Result<(), Violation> {
        self.loaded = true;
        let Some(saved) = saved.filter(|_| loaded.backend) else {
            self.front.vm_is(Vm::Stopped);
            self.front.goes_on_from(loaded.generation);
            let own = self.front.generation();
            return same("F1", "generation", loaded.generation, own);
        };
        let devices = self
            .clients
            .keys()
            .fold(0, |bits, device| bits | (1 << device));
        let credit = (self.max_pending, 0);
        let front = FrontEnd::load(Rules::ALL, credit, devices, &saved.front, &saved.pending);
        match front {
            Ok(front) => self.front = front,
            Err(error) => return violation("F9", error.to_string()),
        }
        same("F9", "replayed", loaded.replayed, saved.front.replayed)?;
        for client in self.clients.values_mut() {
            client.trapped = loaded.trapped;
        }
        self.shown = Phase::Loaded;
        Ok(())
    }
}
