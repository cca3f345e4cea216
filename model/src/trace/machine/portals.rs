// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The devices that are attached: their portals and events.

use super::{Client, Machine};
use crate::front_end::{violation, Phase, Violation, Vm};

impl Machine {
    pub(super) fn attach(&mut self, device: u32, sid: u32) -> Result<(), Violation> {
        if device >= u32::BITS {
            return violation("section 2", format!("device {device} is beyond the model"));
        }
        let trapped = false;
        self.clients.insert(device, Client { sid, trapped });
        self.front.attach(device);
        Ok(())
    }

    pub(super) fn attached(&self, device: u32) -> Result<(), Violation> {
        match self.clients.contains_key(&device) {
            true => Ok(()),
            false => violation("F10", format!("device {device} is not attached")),
        }
    }

    /// F1: all are trapped before the drain begins; none is let go before the queue is empty.
    pub(super) fn trap(&mut self, device: u32, on: bool) -> Result<(), Violation> {
        if !on && !self.front.connected() && self.front.trapped() {
            self.front.recovered()?;
        }
        if on != self.front.trapped() {
            let phase = self.front.phase();
            return violation("F1", format!("device {device}: trapped {on} in {phase:?}"));
        }
        match self.clients.get_mut(&device) {
            Some(client) if client.trapped != on => client.trapped = on,
            _ => {
                let what = format!("device {device}: trapped {on} already, or not attached");
                return violation("F1", what);
            }
        }
        Ok(())
    }

    pub(super) fn show(&mut self, from: u32, to: u32) -> Result<(), Violation> {
        if to == Phase::Running as u32 && !self.front.connected() && self.front.trapped() {
            self.front.recovered()?;
        }
        let phase = self.front.phase();
        if to == Phase::Loaded as u32 && self.front.vm() == Vm::Loading && self.shown as u32 == from
        {
            // What has been loaded is said at once, by vsva_loaded.
            self.shown = Phase::Loaded;
            return Ok(());
        }
        if self.shown as u32 != from || phase as u32 != to {
            let shown = self.shown;
            let what = format!("{from} -> {to}, it was {shown:?} and is to be {phase:?}");
            return violation("F1", what);
        }
        let on = self.front.trapped();
        if matches!(phase, Phase::Draining | Phase::Running) {
            let other = self.clients.iter().find(|(_, client)| client.trapped != on);
            if let Some((device, _)) = other {
                let what = format!("device {device} is not as the others in {phase:?}");
                return violation("F1", what);
            }
        }
        self.shown = phase;
        Ok(())
    }

    pub(super) fn event(
        &mut self,
        device: u32,
        sid: u32,
        delivered: bool,
    ) -> Result<(), Violation> {
        match self.clients.get(&device) {
            Some(client) if client.sid == sid => {}
            Some(client) => {
                let own = client.sid;
                let what = format!("an event of device {device} has SID {sid:#x}, not {own:#x}");
                return violation("F12", what);
            }
            None => {
                return violation("F10", format!("an event of device {device}, not attached"));
            }
        }
        if delivered && self.front.vm() == Vm::Saving {
            return violation("F5", "an event is delivered into a VM that is being saved");
        }
        Ok(())
    }
}

/// F_TRANSLATION: what every fault is told as.
const F_TRANSLATION: u32 = 0x10;

/// Stall is set exactly for a fault, which has one type.
pub(super) fn check_kind(kind: Option<(u32, bool)>) -> Result<(), Violation> {
    match kind {
        Some((kind, true)) if kind != F_TRANSLATION => {
            violation("F12", format!("an event of type {kind:#x} is a stall"))
        }
        _ => Ok(()),
    }
}
