// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can happen, one step at a time. In QEMU's terms each step but the back-end's and the
//! function's holds the BQL, and between two steps anybody else can have it.

use vhost_user_vsva::core::Core;
use vsva_model::front_end::{Phase, Ready, Submitted, Timer, User, Vm};

use crate::checker::{self, Notes};

use super::world::{seen, Migration, World, MAX_PENDING, RESERVE};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A vCPU writes to the portal, or goes on with a write that has waited.
    GuestWrites {
        device: u32,
    },
    GuestAnswers,
    GuestResets {
        device: u32,
    },
    WorkBegins {
        device: u32,
    },
    DmaFaults {
        device: u32,
    },
    DmaEnds {
        device: u32,
    },
    FunctionRests {
        device: u32,
    },
    FrontEndTakes,
    FrontEndUpdates,
    TimerFires,
    BackEndTakes,
    BackEndEmits,
    BackEndReads {
        channel: u32,
    },
    BackEndDeadline,
    MigrationBegins,
    /// Without the lock.
    MigrationAsks,
    MigrationSwitches,
    MigrationBlocks,
    MigrationEnds,
    StopAsks,
    StopGivesUp,
    Stops,
    VcpusStopped,
    SaveBegins,
    SaveEnds {
        there: bool,
    },
    Continues,
    Detaches {
        device: u32,
    },
    Loses,
    Disconnects,
    Connects {
        anew: bool,
    },
}

impl checker::World for World {
    type Action = Action;

    fn core(&mut self) -> &mut Core<()> {
        &mut self.core
    }

    fn notes(&self) -> &Notes {
        &self.notes
    }

    fn notes_mut(&mut self) -> &mut Notes {
        &mut self.notes
    }

    fn actions(&self, out: &mut Vec<Action>) {
        use Action::*;
        let vm = self.front.vm();
        let connected = self.front.connected();
        let there = connected || self.left.connects > 0 && !self.ended;
        let mut can = |condition: bool, action: Action| {
            if condition {
                out.push(action);
            }
        };

        // The back-end and the function, which hold no lock of the front end.
        can(connected && !self.portal.is_empty(), BackEndTakes);
        can(connected && self.core.has_event(), BackEndEmits);
        for (channel, function) in (0..).zip(&self.functions) {
            let reads = there && function.unread && self.core.wants_read(channel);
            can(reads, BackEndReads { channel });
        }
        can(there && self.core.deadline().is_some(), BackEndDeadline);

        if vm == Vm::Saving {
            // The lock is held until the save is over.
            can(!self.events.is_empty(), FrontEndTakes);
            let complete = self.portal.is_empty() && self.events.is_empty();
            can(complete, SaveEnds { there: false });
            can(complete && self.any_attached(), SaveEnds { there: true });
            return;
        }
        for (device, function) in (0..).zip(&self.functions) {
            let attached = self.attached[device as usize];
            let rests = !function.dma && !function.stalled;
            let begins = function.quiescing.is_none() && function.work && rests;
            can(vm == Vm::Running && begins, WorkBegins { device });
            let faults = function.dma && self.left.faults > 0 && there && attached;
            can(faults, DmaFaults { device });
            can(function.dma, DmaEnds { device });
            let told = function.quiescing.is_some() && function.quiescing != self.rested(device);
            can(attached && told && rests, FunctionRests { device });
        }

        can(connected && !self.events.is_empty(), FrontEndTakes);
        can(self.front.update_due(), FrontEndUpdates);
        can(self.front.timer().is_some(), TimerFires);

        let writes = match vm {
            Vm::Running => self.mid_write.is_some() || self.left.submissions > 0,
            Vm::Stopping => self.mid_write.is_some(),
            _ => false,
        };
        let begins = self.mid_write.is_none();
        let effect = begins || self.front.takes_writes() || !self.front.trapped();
        can(vm == Vm::Running && !self.guest.is_empty(), GuestAnswers);
        for device in self.devices() {
            // One vCPU.
            let its = self.mid_write.is_none_or(|of| of == device);
            can(writes && effect && its, GuestWrites { device });
            can(self.left.resets > 0, GuestResets { device });
            let detaches = self.left.detaches > 0 && vm == Vm::Running;
            can(detaches, Detaches { device });
        }
        can(connected && self.left.losses > 0, Loses);
        can(connected && self.left.disconnects > 0, Disconnects);
        let connects = !connected && self.left.connects > 0;
        let kept = !self.ended && self.front.may_connect_again();
        can(connects && kept, Connects { anew: false });
        can(connects, Connects { anew: true });

        match self.migration {
            Migration::None => {
                can(
                    vm == Vm::Running
                        && self.left.migrations > 0
                        && self.left.asks > 0
                        && connected,
                    MigrationBegins,
                );
            }
            Migration::Iterating { ready } => {
                let news = (!self.front.is_wanted_by(User::Migration) && self.left.asks > 0)
                    || (!ready && self.front.phase() == Phase::Drained)
                    || self.front.has_failed_for(User::Migration);
                can(vm == Vm::Running && news, MigrationAsks);
                let asks = self.left.asks > 0 || self.front.is_wanted_by(User::Migration);
                can(vm == Vm::Running && ready && asks, MigrationSwitches);
                can(vm == Vm::Running, MigrationBlocks);
                can(true, MigrationEnds);
            }
            Migration::Blocked | Migration::Stopping => {}
        }
        if self.waiting {
            let news = self.front.phase() == Phase::Drained
                || (!self.front.is_wanted_by(User::Stop) && self.left.asks > 0)
                || self.front.has_failed_for(User::Stop);
            can(vm == Vm::Running && news, StopAsks);
            can(vm == Vm::Running, StopGivesUp);
        } else {
            can(
                vm == Vm::Running && self.left.waits > 0 && self.left.asks > 0,
                StopAsks,
            );
        }
        can(vm == Vm::Running && self.left.stops > 0, Stops);
        // A write that waits for credit is woken, or it is given up with the lock held.
        can(vm == Vm::Stopping && begins, VcpusStopped);
        let stopped = vm == Vm::Stopped;
        let saves = self.left.saves > 0 || self.migration == Migration::Stopping;
        can(stopped && saves, SaveBegins);
        can(stopped && self.migration != Migration::Stopping, Continues);
    }

    fn step(&mut self, action: Action) {
        match action {
            Action::BackEndTakes => self.back_end_takes(),
            Action::BackEndEmits => self.back_end_emits(),
            Action::BackEndReads { channel } => self.back_end_reads(channel),
            Action::BackEndDeadline => {
                let deadline = self.core.deadline().unwrap_or(0);
                self.core.tick(deadline);
            }
            Action::WorkBegins { device } => {
                let function = &mut self.functions[device as usize];
                function.work = false;
                function.dma = true;
            }
            Action::DmaFaults { device } => {
                self.left.faults -= 1;
                let function = &mut self.functions[device as usize];
                function.dma = false;
                function.stalled = true;
                function.unread = true;
            }
            Action::DmaEnds { device } => self.functions[device as usize].dma = false,
            Action::FunctionRests { device } => {
                let generation = self.functions[device as usize].quiescing.unwrap_or(0);
                let rests = self.front.device_quiesced(device, generation);
                if self.check(rests) == Some(false) {
                    self.functions[device as usize].quiescing = None;
                }
            }
            Action::FrontEndTakes => self.front_end_takes(),
            Action::FrontEndUpdates => {
                let updated = self.front.update();
                if let Some(executed) = self.check(updated) {
                    self.recovered(&executed);
                }
            }
            Action::TimerFires => self.timer_fires(),
            Action::GuestWrites { device } => self.guest_writes(device),
            Action::GuestAnswers => {
                let (device, stag) = self.guest.remove(0);
                self.front.guest_answers(device, stag);
            }
            Action::GuestResets { device } => {
                self.left.resets -= 1;
                self.reset_function(device);
                self.front.reset(Some(device));
            }
            Action::Detaches { device } => {
                self.left.detaches -= 1;
                self.attached[device as usize] = false;
                self.mid_write = self.mid_write.filter(|of| *of != device);
                self.reset_function(device);
                self.front.detach(device);
                let _ = self.core.detach(device, 0);
            }
            Action::Loses => {
                self.left.losses -= 1;
                self.lose();
            }
            Action::Disconnects => {
                self.left.disconnects -= 1;
                self.disconnect();
            }
            Action::Connects { anew } => {
                self.left.connects -= 1;
                self.connect(anew);
            }
            Action::MigrationBegins => {
                self.left.migrations -= 1;
                self.migration = Migration::Iterating { ready: false };
            }
            Action::MigrationAsks => match self.ready(User::Migration) {
                Ready::Failed => self.migration_ends(),
                answer => {
                    let ready = answer == Ready::Yes;
                    self.migration = Migration::Iterating { ready };
                }
            },
            Action::MigrationSwitches => self.migration_switches(),
            Action::MigrationBlocks => self.migration = Migration::Blocked,
            Action::MigrationEnds => self.migration_ends(),
            Action::StopAsks => self.stop_asks(),
            Action::StopGivesUp => {
                self.waiting = false;
                self.front.not_wanted(User::Stop);
            }
            Action::Stops => {
                self.left.stops -= 1;
                self.stopping(false);
            }
            Action::VcpusStopped => self.vcpus_stopped(),
            Action::SaveBegins => {
                if self.migration != Migration::Stopping {
                    self.left.saves -= 1;
                }
                self.begin_save();
                if self.memory.is_none() {
                    self.migration_ends();
                }
            }
            Action::SaveEnds { there } => {
                self.end_save(there);
                self.migration_ends();
            }
            Action::Continues => {
                self.asked = false;
                self.guest.append(&mut self.deferred);
                let started = self.front.vm_started();
                if let Some(executed) = self.check(started) {
                    self.recovered(&executed);
                }
            }
        }
        self.flush();
        self.settle();
        if self.left.faults == 0 {
            // Without a fault it makes no difference.
            for function in &mut self.functions {
                function.work = false;
                function.dma = false;
            }
        }
        self.look();
    }

    fn stuck(&self) -> Option<&'static str> {
        if self.front.vm() != Vm::Running {
            return Some("the VM does not run");
        }
        if self.any_attached() && self.front.trapped() {
            return Some("a portal is trapped for ever");
        }
        if !self.queue.is_empty() || self.mid_write.is_some() {
            return Some("a submission is never executed");
        }
        if self.front.connected() && self.core.outstanding() > 0 {
            return Some("a fault is never answered");
        }
        let rests = |function: &super::world::Function| {
            !function.work && !function.dma && !function.stalled
        };
        (!self.functions.iter().all(rests)).then_some("the function never comes to rest")
    }
}

impl World {
    fn any_attached(&self) -> bool {
        self.attached.contains(&true)
    }

    /// The generation for which the front end has been told that the function rests.
    fn rested(&self, device: u32) -> Option<u64> {
        self.front
            .has_rested(device)
            .then_some(self.front.generation())
    }

    /// Nothing of before reaches the function any more.
    fn reset_function(&mut self, device: u32) {
        self.queue.retain(|(_, of)| *of != device);
        self.deferred.retain(|(of, _)| *of != device);
        let function = &self.functions[device as usize];
        let quiescing = function.quiescing;
        // Faults that are read are answered by the back-end; its answer meets nobody.
        if function.unread {
            self.back_end_reads(device);
        }
        self.functions[device as usize] = super::world::Function {
            quiescing,
            ..Default::default()
        };
    }

    fn timer_fires(&mut self) {
        let Some(timer) = self.front.timer() else {
            return;
        };
        if timer == Timer::Drained {
            self.notes.seen |= seen::EXPIRED;
            self.expired = self.queue.front().map(|(ticket, _)| *ticket);
        }
        let fired = self.front.timer_fires(timer);
        self.check(fired);
    }

    fn guest_writes(&mut self, device: u32) {
        if self.mid_write.is_none() {
            self.left.submissions -= 1;
            self.mid_write = Some(device);
            // It has the lock later; what is not trapped needs none.
            if self.front.trapped() {
                return;
            }
        }
        let stopping = self.front.vm() == Vm::Stopping;
        let pending = self.front.copies().pending();
        let written = self.front.guest_writes(device);
        match self.check(written) {
            Some(Submitted::FastPath) => {
                self.mid_write = None;
                if !self.queue.is_empty() {
                    self.fail("a write overtakes those that were trapped");
                }
                self.functions[device as usize].work = true;
            }
            Some(Submitted::Queued(ticket)) => {
                self.mid_write = None;
                self.queue.push_back((ticket, device));
                if stopping && pending >= MAX_PENDING - RESERVE {
                    self.notes.seen |= seen::RESERVE_USED;
                }
            }
            Some(Submitted::Waits) | None => {}
        }
    }

    fn ready(&mut self, user: User) -> Ready {
        if !self.front.is_wanted_by(user) {
            self.left.asks = self.left.asks.saturating_sub(1);
        }
        self.front.ready(user)
    }

    fn migration_ends(&mut self) {
        if self.migration != Migration::None {
            self.migration = Migration::None;
            self.front.not_wanted(User::Migration);
        }
    }

    fn migration_switches(&mut self) {
        if self.front.rules().ready_asked_last {
            match self.ready(User::Migration) {
                Ready::Yes => {}
                Ready::No => {
                    self.notes.seen |= seen::NOT_READY_ANY_MORE;
                    self.migration = Migration::Iterating { ready: false };
                    return;
                }
                Ready::Failed => return self.migration_ends(),
            }
        }
        self.migration = Migration::Stopping;
        self.stopping(true);
    }

    fn stop_asks(&mut self) {
        if !self.waiting {
            self.left.waits -= 1;
            self.waiting = true;
        }
        match self.ready(User::Stop) {
            Ready::Yes => {
                self.waiting = false;
                self.stopping(true);
                self.front.not_wanted(User::Stop);
            }
            Ready::No => {}
            Ready::Failed => {
                self.waiting = false;
                self.front.not_wanted(User::Stop);
            }
        }
    }

    /// The VM is told to stop; `asked`: by somebody who has been told that it may.
    fn stopping(&mut self, asked: bool) {
        self.asked = asked;
        self.front.vm_is(Vm::Stopping);
    }

    fn vcpus_stopped(&mut self) {
        let before = self.front.phase();
        let undrained = before != Phase::Drained || self.core.outstanding() > 0;
        if self.asked && self.front.connected() && self.any_attached() && undrained {
            self.fail(format!("I1: stopped in {before:?} although it was ready"));
        }
        let stopped = self.front.vm_stopped();
        self.check(stopped);
        if before == Phase::Releasing && self.front.phase() == Phase::Draining {
            self.notes.seen |= seen::TAKEN_BACK;
        }
    }

    /// What must hold after every step.
    fn look(&mut self) {
        if !self.front.connected() || self.notes.bad.is_some() {
            return;
        }
        if self.core.pending() as u64 > MAX_PENDING {
            self.fail("I5: more is pending than fits");
        }
        if let Some(held) = self.expired {
            if self.queue.front().map(|(ticket, _)| *ticket) != Some(held) {
                self.expired = None;
            } else if self.front.phase() == Phase::Draining && self.running() {
                self.fail("F6: a new drain before what an expired one held was executed");
            }
        }
    }
}
