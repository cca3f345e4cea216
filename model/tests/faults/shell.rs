// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The threads of the shell. Each makes steps of the core and does what the core wants then, and
//! nothing else; between two parts of a job the other one can do anything.

use vhost_user_vsva::core::Job;

use super::core::number;
use super::{Action, World, DEVICES};

pub const PORTAL: usize = 0;
pub const ENGINE: usize = 1;

/// What a thread has been told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Doing {
    Write(usize),
    Read(usize),
    Close(usize),
    Records,
}

impl From<Job> for Doing {
    fn from(job: Job) -> Self {
        match job {
            Job::Write(channel) => Self::Write(channel as usize),
            Job::Read(channel) => Self::Read(channel as usize),
            Job::Close(channel) => Self::Close(channel as usize),
            Job::ReadRecords => Self::Records,
        }
    }
}

/// The thread that makes the step; the kernel and the device are none.
pub fn thread_of(action: Action) -> Option<usize> {
    match action {
        Action::Faults { .. } | Action::Replaces { .. } => None,
        Action::Works { thread } | Action::Emits { thread } => Some(thread),
        Action::Reads { .. }
        | Action::EventComes { .. }
        | Action::Loses { .. }
        | Action::DeadlineComes => Some(ENGINE),
        _ => Some(PORTAL),
    }
}

impl World {
    pub fn is_idle(&self, thread: usize) -> bool {
        self.threads[thread].is_none()
    }

    pub fn all_idle(&self) -> bool {
        self.threads.iter().all(Option::is_none)
    }

    /// The thread has made a step.
    pub fn follows(&mut self, thread: usize) {
        self.takes_job(thread);
        while !self.setup.threads && !self.is_idle(thread) && self.notes.bad.is_none() {
            self.works(thread);
        }
    }

    /// A part of what the thread has been told to do.
    pub fn works(&mut self, thread: usize) {
        let goes_on = match self.threads[thread] {
            Some(Doing::Write(channel)) if self.rules.writes => {
                self.open[channel] && self.writes_answer(channel)
            }
            Some(Doing::Read(channel)) if self.rules.reads => {
                self.reads(channel);
                false
            }
            Some(Doing::Close(channel)) if self.rules.closes => {
                self.open[channel] = self.in_use(channel);
                false
            }
            _ => false,
        };
        if !goes_on {
            self.takes_job(thread);
        }
    }

    fn takes_job(&mut self, thread: usize) {
        let job = self.core.wants().job;
        self.threads[thread] = job.map(Doing::from);
        let Some(job) = job else {
            return self.rests_after(thread);
        };
        if self.core.clone().wants().job == Some(job) {
            self.fail(format!("{job:?} is given out twice"));
        }
        if !self.has_purpose(Doing::from(job)) {
            self.fail(format!("{job:?} is given out to no purpose"));
        }
    }

    /// Whether the job changes anything, if it is done at once.
    fn has_purpose(&self, job: Doing) -> bool {
        let mut then = self.clone();
        match job {
            Doing::Write(channel) => then.writes_answer(channel),
            Doing::Read(channel) => {
                then.reads(channel);
                then.core.canonical() != self.core.clone().canonical()
            }
            Doing::Close(channel) => !self.in_use(channel),
            Doing::Records => true,
        }
    }

    /// Everything that the core wanted has been done: a request is answered.
    fn rests_after(&mut self, thread: usize) {
        if thread == PORTAL {
            if self.owes_answer() {
                self.fail("a command has taken effect before its answer is written");
            }
            if let Some(device) = self.leaves.take() {
                // VFIO lets go of it when DETACH has been answered.
                self.kernel_aborts(device);
                self.forget_closed();
            }
        }
    }

    /// Whether the guest's answer to a group could be written, and has not been. What is refused is
    /// the engine's.
    fn owes_answer(&self) -> bool {
        self.groups.iter().flatten().any(|group| {
            let device = usize::from(group.device);
            let channel = self.channel_of(device);
            let whole = group.waiting() == 0 && group.taken() as usize == group.records.len();
            let held = (0..DEVICES)
                .any(|other| self.devices[other].held && self.channel_of(other) == channel);
            whole && !group.refused && self.in_use(channel) && !held
        })
    }

    /// Reads the channel to its end, as far as there is room. Without room it is not waited for any
    /// more.
    pub fn reads(&mut self, channel: usize) {
        if !self.open[channel] {
            return;
        }
        self.offers(channel);
        while self.files[channel].buffer.is_empty()
            && self.wants_read(channel)
            && self.notes.bad.is_none()
        {
            if self.files[channel].queue.is_empty() {
                self.watched[channel] = true;
                return self.core.channel_empty(number(channel), 0);
            }
            while let Some(group) = self.files[channel].queue.pop_front() {
                self.gives(channel, group);
            }
            self.offers(channel);
        }
        self.watched[channel] = false;
    }

    /// With nothing left to do.
    pub fn look_at_rest(&mut self) {
        for channel in 0..DEVICES {
            if self.open[channel] != self.in_use(channel) {
                self.fail("a channel that nobody uses is left open");
            }
        }
    }
}
