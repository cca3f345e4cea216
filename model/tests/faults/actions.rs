// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can happen, one step at a time.

use vhost_user_vsva::core::{Core, Phase};
use vhost_user_vsva::wire::{DrainRequest, MessageType, SmmuCommand, DEVICE_NONE, U32, U64};

use super::core::number;
use super::kernel::Group;
use super::shell::{thread_of, ENGINE, PORTAL};
use super::steps::{generation, sid};
use super::{seen, Drain, World, DEVICES};
use crate::checker::{self, Notes};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The device's DMA faults: the kernel queues a group.
    Faults {
        device: usize,
    },
    /// A channel is readable, and the shell has found that out.
    Reads {
        channel: usize,
    },
    /// A thread puts the next message into the event ring.
    Emits {
        thread: usize,
    },
    /// One stall, by CMD_RESUME.
    Answers {
        event: usize,
        invalid: bool,
    },
    /// A page request, by CMD_PRI_RESP.
    AnswersGroup {
        group: usize,
        invalid: bool,
    },
    Terminates {
        device: usize,
    },
    Resets {
        device: usize,
    },
    Holds {
        device: usize,
    },
    Replaces {
        device: usize,
    },
    Unholds {
        device: usize,
    },
    /// A record of the device's vEVENTQ.
    EventComes {
        device: usize,
    },
    Attaches {
        device: usize,
    },
    Detaches {
        device: usize,
    },
    Loses {
        channel: usize,
    },
    /// A thread goes on with its job.
    Works {
        thread: usize,
    },
    Drains,
    Quiesces {
        device: usize,
    },
    Releases,
    DeadlineComes,
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
        let left = &self.left;
        let draining = self.drain == Drain::Begun;
        let idle = |action| thread_of(action).is_none_or(|thread| self.is_idle(thread));
        for thread in [PORTAL, ENGINE] {
            if !self.is_idle(thread) {
                out.push(Works { thread });
            }
        }
        let mut can = |condition: bool, action: Action| {
            if condition && idle(action) {
                out.push(action);
            }
        };
        for thread in [PORTAL, ENGINE] {
            let either = self.setup.threads || thread == ENGINE;
            can(self.core.has_event() && either, Emits { thread });
        }
        can(left.drains > 0 && self.drain == Drain::None, Drains);
        can(self.drain != Drain::None, Releases);
        let deadline = self.core.deadline().is_some();
        can(left.deadlines > 0 && deadline, DeadlineComes);
        for device in 0..DEVICES {
            let state = &self.devices[device];
            let room = self.groups.iter().any(Option::is_none);
            let faults = left.faults[device] > 0 && state.attached;
            let may = !state.quiesced || !self.rules.quiesced_at_rest;
            can(faults && may && room, Faults { device });
            can(left.resets > 0 && state.attached, Resets { device });
            let pri = self.setup.pri && device == 0;
            can(
                left.terms > 0 && state.attached && !pri,
                Terminates { device },
            );
            let holds = left.holds > 0 && state.attached && !state.held;
            can(holds && self.rules.holds, Holds { device });
            can(holds && !self.rules.holds, Replaces { device });
            can(state.held && !state.replaced, Replaces { device });
            can(state.held, Unholds { device });
            can(left.events > 0 && state.attached, EventComes { device });
            can(left.attaches > 0 && !state.attached, Attaches { device });
            let there = state.attached || state.lost;
            can(
                left.detaches > 0 && there && !state.held,
                Detaches { device },
            );
            let rests = self.rests(device) || !self.rules.quiesced_at_rest;
            can(
                draining && there && !state.quiesced && rests,
                Quiesces { device },
            );
        }
        for channel in 0..DEVICES {
            let readable = !self.files[channel].queue.is_empty();
            let watched = self.open[channel] && self.watched[channel];
            can(readable && watched, Reads { channel });
            let lost = left.losses > 0 && self.open[channel] && self.in_use(channel);
            can(lost, Loses { channel });
        }
        for (event, of) in self.guest.iter().enumerate() {
            let group = &self.groups[usize::from(of.group)];
            if self.setup.pri && group.as_ref().is_some_and(|group| group.device == 0) {
                continue;
            }
            can(
                true,
                Answers {
                    event,
                    invalid: false,
                },
            );
            can(
                left.invalid > 0,
                Answers {
                    event,
                    invalid: true,
                },
            );
        }
        for (group, of) in self.groups.iter().enumerate() {
            if of.as_ref().is_some_and(|of| self.is_whole(group, of)) {
                can(
                    true,
                    AnswersGroup {
                        group,
                        invalid: false,
                    },
                );
                can(
                    left.invalid > 0,
                    AnswersGroup {
                        group,
                        invalid: true,
                    },
                );
            }
        }
    }

    fn step(&mut self, action: Action) {
        let before = self.core.phase();
        match action {
            Action::Faults { device } => self.faults(device),
            Action::Reads { channel } => self.reads(channel),
            Action::Works { thread } => self.works(thread),
            Action::Emits { .. } => self.emits(),
            Action::Answers { event, invalid } => self.answers(event, invalid),
            Action::AnswersGroup { group, invalid } => self.answers_group(group, invalid),
            Action::Terminates { device } => {
                self.left.terms -= 1;
                self.aborts(device);
                self.command(SmmuCommand::StallTerm { sid: sid(device) });
            }
            Action::Resets { device } => {
                self.left.resets -= 1;
                self.gone(device);
                self.message(MessageType::Reset, number(device), &[0u8; 0]);
            }
            Action::Holds { device } => {
                self.left.holds -= 1;
                self.devices[device].held = true;
                if self.drain == Drain::Begun {
                    self.notes.seen |= seen::HELD_DRAINING;
                }
                if let Err(error) = self.core.hold(number(device), 0) {
                    self.fail(format!("HOLD is refused: {error}"));
                }
            }
            Action::Replaces { device } => {
                if self.devices[device].held {
                    self.devices[device].replaced = true;
                } else {
                    self.left.holds -= 1;
                }
                self.notes.seen |= seen::REPLACED;
                self.kernel_aborts(device);
            }
            Action::Unholds { device } => self.unholds(device),
            Action::EventComes { device } => self.event_comes(device),
            Action::Attaches { device } => {
                self.left.attaches -= 1;
                self.attaches(device);
            }
            Action::Detaches { device } => self.detaches(device),
            Action::Loses { channel } => self.loses(channel),
            Action::Drains => {
                self.left.drains -= 1;
                self.generation += 1;
                self.drain = Drain::Begun;
                let request = DrainRequest {
                    generation: U64::new(self.generation),
                    timeout_ms: U32::new(1),
                    reserved: U32::ZERO,
                };
                self.message(MessageType::Drain, DEVICE_NONE, &request);
            }
            Action::Quiesces { device } => {
                self.devices[device].quiesced = true;
                let payload = generation(self.generation);
                self.message(MessageType::DeviceQuiesced, number(device), &payload);
            }
            Action::Releases => {
                self.drain = Drain::None;
                for device in &mut self.devices {
                    device.quiesced = false;
                }
                let payload = generation(self.generation);
                self.message(MessageType::Release, DEVICE_NONE, &payload);
            }
            Action::DeadlineComes => {
                self.left.deadlines -= 1;
                let deadline = self.core.deadline().unwrap_or(0);
                self.core.tick(deadline);
            }
        }
        if let Some(thread) = thread_of(action).filter(|_| !matches!(action, Action::Works { .. }))
        {
            self.follows(thread);
        }
        let again = before == Phase::Drained && self.core.phase() == Phase::Draining;
        if again && action != Action::Drains {
            self.notes.seen |= seen::DISTURBED;
        }
        self.look();
    }

    fn stuck(&self) -> Option<&'static str> {
        if self.groups.iter().any(Option::is_some) || self.core.outstanding() > 0 {
            return Some("a fault is never answered");
        }
        if !self.guest.is_empty() {
            return Some("the guest has an event that nobody wants answered");
        }
        (self.drain != Drain::None).then_some("a drain never ends")
    }
}

impl World {
    /// The guest has all of a page request.
    fn is_whole(&self, index: usize, group: &Group) -> bool {
        let delivered = self
            .guest
            .iter()
            .filter(|event| usize::from(event.group) == index);
        let whole = delivered.count() == group.records.len();
        self.setup.pri && group.device == 0 && whole
    }
}
