// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can happen, one step at a time.

use super::kernel::Group;
use super::{Drain, World, DEVICES};

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
    Emits,
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
    Drains,
    Quiesces {
        device: usize,
    },
    Releases,
    DeadlineComes,
}

impl World {
    pub fn actions(&self, out: &mut Vec<Action>) {
        use Action::*;
        let left = &self.left;
        let draining = self.drain == Drain::Begun;
        let mut can = |condition: bool, action: Action| {
            if condition {
                out.push(action);
            }
        };
        can(self.core.has_event(), Emits);
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
            can(readable && self.wants_read(channel), Reads { channel });
            can(left.losses > 0 && self.in_use(channel), Loses { channel });
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
