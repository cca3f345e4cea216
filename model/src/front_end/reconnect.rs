// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A front end that connects again (F11).

use super::{violation, FrontEnd, Phase, Post, Violation, Vm};

impl FrontEnd {
    /// These were posted, and the back-end that was lost has not taken them.
    pub fn keep(&mut self, posts: impl IntoIterator<Item = Post>) {
        let again = |post: &Post| matches!(post, Post::Resume { .. } | Post::Reset { .. });
        self.untaken.extend(posts.into_iter().filter(again));
    }

    /// Whether the back-end that was lost can be gone on with.
    pub fn may_connect_again(&self) -> bool {
        !self.executed_alone || !self.rules.anew_if_executed
    }

    /// Connects again to the back-end that was lost, which has kept all that it had.
    pub fn connects_again(&mut self) -> Result<(), Violation> {
        if !self.may_connect_again() {
            return violation(
                "F11",
                "it has executed copies that the back-end has as well",
            );
        }
        self.connects()?;
        let untaken = std::mem::take(&mut self.untaken);
        if self.rules.commands_again {
            self.posts.extend(untaken);
        }
        self.restates()
    }

    /// Connects to a back-end that has nothing of this front end: another process, or after
    /// RESET_DEVICE.
    pub fn connects_anew(&mut self) -> Result<(), Violation> {
        self.connects()?;
        self.untaken.clear();
        self.executed_alone = false;
        self.copies.renumber();
        self.restates()
    }

    fn connects(&mut self) -> Result<(), Violation> {
        if self.connected || matches!(self.vm, Vm::Saving | Vm::Loading) {
            return violation("F11", format!("a connection, the VM is {:?}", self.vm));
        }
        self.connected = true;
        Ok(())
    }

    /// Says what the back-end may not have: the copies, and what the phase wants.
    fn restates(&mut self) -> Result<(), Violation> {
        let copies: Vec<_> = self.copies.all().collect();
        for (ticket, device) in copies {
            match device {
                Some(device) => self.post(Post::Submit { device, ticket }),
                None if self.rules.dropped_again => self.post(Post::SubmitNone { ticket }),
                None => {}
            }
        }
        if self.phase == Phase::Running {
            // Nothing is pending, but the back-end may still be in a drain, and nobody knows in
            // which.
            self.post(Post::Release { generation: 0 });
            return Ok(());
        }
        self.start_drain()?;
        // What it has replayed before it takes the DRAIN is on its way.
        self.may_replay = true;
        Ok(())
    }
}
