// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both halves as one model.

pub mod actions;
pub mod reconnect;
pub mod world;

use crate::checker;

pub use actions::Action;
pub use world::{seen, Budget, World};

impl checker::World for World {
    type Action = Action;

    fn actions(&self, out: &mut Vec<Action>) {
        self.actions(out);
    }

    fn step(&mut self, action: &Action) {
        self.step(*action);
        self.core = self.core.clone().canonical();
    }

    fn take_seen(&mut self) -> u32 {
        std::mem::take(&mut self.seen)
    }

    fn bad(&self) -> Option<&str> {
        self.bad.as_deref()
    }

    fn stuck(&self) -> Option<&'static str> {
        self.stuck()
    }
}
