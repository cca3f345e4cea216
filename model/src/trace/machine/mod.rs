// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One vhost-user-vsva device of a QEMU, as its trace has it.

mod portals;
mod vm;

use std::collections::BTreeMap;

use super::lanes::{Portal, Posted, Sent};
use super::qemu::{Reason, Step};
use crate::front_end::{violation, Execution, FrontEnd, Phase, Rules, Violation, Vm};

pub use vm::SavedState;

/// A device that is attached.
#[derive(Clone, Copy, Debug)]
struct Client {
    sid: u32,
    trapped: bool,
}

/// A step that is illegal as far as is known.
#[derive(Clone, Debug)]
pub struct Suspect {
    pub line: usize,
    pub violation: Violation,
    pub state: String,
}

#[derive(Debug)]
pub struct Machine {
    front: FrontEnd,
    max_pending: u64,
    clients: BTreeMap<u32, Client>,
    /// The phase of the last vsva_state.
    shown: Phase,
    /// Of the last drain.
    timeout_ms: u64,
    /// Somebody has asked whether the VM can be stopped.
    asked: bool,
    /// A drain is needed before the VM is stopped.
    drains: bool,
    /// A state has been loaded, and the VM has not run since.
    loaded: bool,
    /// DRAINED has ended by itself.
    release_due: bool,
    /// The back-end must have gone, or this step is illegal; QEMU has not said so yet.
    pub unsaid_loss: Option<Suspect>,
    pub posted: Posted,
}

impl Machine {
    pub fn new(max_pending: u64, drains: bool) -> Self {
        let mut front = FrontEnd::new(Rules::ALL, max_pending, 0, 0);
        front.vm_is(Vm::Stopped);
        Self {
            front,
            max_pending,
            clients: BTreeMap::new(),
            shown: Phase::Running,
            timeout_ms: 0,
            asked: false,
            drains,
            loaded: false,
            release_due: false,
            unsaid_loss: None,
            posted: Posted::default(),
        }
    }

    pub fn state(&self) -> String {
        self.front.to_string()
    }

    /// One step. The back-end may have gone a moment before QEMU says so.
    pub fn step(&mut self, line: usize, step: &Step) -> Result<(), Suspect> {
        let Err(violation) = self.try_step(line, step) else {
            return Ok(());
        };
        // What is illegal has changed nothing.
        let suspect = Suspect {
            line,
            violation,
            state: self.state(),
        };
        if !self.front.connected() {
            return Err(self.unsaid_loss.take().unwrap_or(suspect));
        }
        self.front.connection_lost();
        if self.try_step(line, step).is_err() {
            return Err(suspect);
        }
        self.unsaid_loss = Some(suspect);
        Ok(())
    }

    fn try_step(&mut self, line: usize, step: &Step) -> Result<(), Violation> {
        if !matches!(
            step,
            Step::State { .. } | Step::PortalTrap { .. } | Step::Loaded(_)
        ) {
            self.check_shown()?;
        }
        if std::mem::take(&mut self.release_due) && !matches!(step, Step::Release { .. }) {
            return violation("F6", "DRAINED has ended, RELEASE is to follow at once");
        }
        match *step {
            Step::Connected { .. } | Step::Loaded(_) => {}
            Step::BackendGone => {
                self.unsaid_loss = None;
                self.front.connection_lost();
            }
            Step::ClientAttach { device, sid } => self.attach(device, sid)?,
            Step::ClientDetach { device } => {
                self.attached(device)?;
                self.clients.remove(&device);
                self.front.detach(device);
            }
            Step::ClientReset { device } => {
                self.attached(device)?;
                self.front.reset(Some(device));
                self.post(line, Portal::Reset { device });
            }
            Step::DrainStart {
                generation,
                timeout_ms,
            } => {
                let own = self.front.start_drain()?;
                same("F1", "generation", generation, own)?;
                self.timeout_ms = timeout_ms;
                self.post(line, Portal::Drain { generation });
            }
            Step::PortalTrap { device, on } => self.trap(device, on)?,
            Step::State { from, to } => self.show(from, to)?,
            Step::Quiesced { device, generation } => {
                let taken = self.front.device_quiesced(device, generation)?;
                current("F1", "DEVICE_QUIESCED", taken)?;
                self.post(line, Portal::Quiesced { device, generation });
            }
            Step::Drained { generation } => {
                current("F12", "DRAINED", self.front.drained(generation)?)?;
                self.receive(line, Sent::Drained { generation });
            }
            Step::DrainedExpired { generation } => {
                same("F1", "generation", generation, self.front.generation())?;
                self.front.expires()?;
                self.release_due = true;
            }
            Step::DrainFailed { generation, reason } => {
                let by_back_end = match reason {
                    Reason::Own => false,
                    Reason::BackEnd => true,
                    Reason::NotWithin { ms } => ms == self.timeout_ms,
                };
                let taken = self.front.drain_failed(generation, by_back_end);
                current("F12", "a failed drain", taken)?;
                if by_back_end {
                    self.receive(line, Sent::DrainFailed { generation });
                }
            }
            Step::Release {
                generation,
                pending,
            } => {
                same("F8", "pending", pending, self.front.copies().pending())?;
                same("F1", "generation", generation, self.front.release()?)?;
                self.post(line, Portal::Release { generation });
            }
            Step::ReleaseTakenBack => self.front.take_back()?,
            Step::Released {
                generation,
                next,
                own,
            } => self.released(line, generation, next, own)?,
            Step::Submit { device, ticket } => {
                if !self
                    .clients
                    .get(&device)
                    .is_some_and(|client| client.trapped)
                {
                    let what = format!("a submission of device {device}, which is not trapped");
                    return violation("F1", what);
                }
                same("F8", "ticket", ticket, self.front.submit(device)?)?;
                self.post(line, Portal::Submit { device, ticket });
            }
            Step::Replay {
                device,
                ticket,
                dropped,
            } => self.replay(line, device, ticket, dropped)?,
            Step::SmmuEvent {
                device,
                sid,
                delivered,
                kind,
            } => {
                self.event(device, sid, delivered)?;
                portals::check_kind(kind)?;
            }
            Step::Saved { generation, next } => {
                self.front.check_savable()?;
                same("F1", "generation", generation, self.front.generation())?;
                same("F9", "next ticket", next, self.front.copies().next_ticket())?;
            }
        }
        Ok(())
    }

    /// The phase is changed at once, with the lock held.
    fn check_shown(&self) -> Result<(), Violation> {
        let (shown, phase) = (self.shown, self.front.phase());
        match shown == phase {
            true => Ok(()),
            false => {
                let what = format!("the phase is to become {phase:?}, but is still {shown:?}");
                violation("F1", what)
            }
        }
    }

    fn post(&mut self, line: usize, message: Portal) {
        if self.front.connected() {
            self.posted.posts.push((line, message));
        }
    }

    fn receive(&mut self, line: usize, message: Sent) {
        self.posted.received.push((line, message));
    }

    fn released(
        &mut self,
        line: usize,
        generation: u64,
        next_ticket: u64,
        own: u64,
    ) -> Result<(), Violation> {
        same("F8", "own ticket", own, self.front.copies().next_ticket())?;
        let taken = self.front.released(generation, next_ticket)?;
        current("F12", "RELEASED", taken)?;
        self.receive(
            line,
            Sent::Released {
                generation,
                next_ticket,
            },
        );
        Ok(())
    }

    fn replay(
        &mut self,
        line: usize,
        device: u32,
        ticket: u64,
        dropped: bool,
    ) -> Result<(), Violation> {
        let execution = if self.front.connected() {
            let execution = self.front.replay(ticket)?;
            self.receive(line, Sent::Replay { ticket });
            execution
        } else {
            let (oldest, execution) = self.front.execute_copy()?;
            same("F11", "ticket", ticket, oldest)?;
            execution
        };
        match execution {
            Execution::Device(of) if of == device && !dropped => Ok(()),
            Execution::Dropped if dropped => Ok(()),
            Execution::Device(of) => {
                let what = format!("ticket {ticket} is of device {of}, not of {device}");
                violation("F8", format!("{what}; dropped {dropped}"))
            }
            Execution::Dropped => violation("F10", format!("ticket {ticket} was dropped")),
        }
    }
}

fn same(rule: &'static str, what: &str, is: u64, own: u64) -> Result<(), Violation> {
    match is == own {
        true => Ok(()),
        false => violation(rule, format!("{what} {is}, the rules give {own}")),
    }
}

fn current(rule: &'static str, what: &str, taken: bool) -> Result<(), Violation> {
    match taken {
        true => Ok(()),
        false => violation(
            rule,
            format!("{what} of another drain, or in another phase"),
        ),
    }
}
