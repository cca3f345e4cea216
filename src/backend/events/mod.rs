// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What happens in the back-end, told to all who want to know: the messages on stderr, the event
//! log, the trace, and the figures and last events that the status socket shows.
//!
//! Every event passes through [`Events::happened`], or [`Events::happened_in_core`] if it is of the
//! core, in the thread that made it. The latter is called with the core's lock held, so nothing
//! here may wait or allocate.

mod log_file;

use std::{
    io,
    sync::{atomic::Ordering::Relaxed, Arc},
    time::Instant,
};

use serde::{Deserialize, Serialize};

pub use self::log_file::EventLog;
use super::published::now_ns;
use crate::{
    core::{Observation, Observer},
    status::{board::Board, meter::Meter},
    trace::Moment,
};

/// A step that is not the state machine's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Step {
    /// The socket accepts connections.
    Listening,
    /// A front end has connected.
    Connected,
    /// The front end has gone.
    Disconnected,
    /// The state has been handed over.
    Save {
        /// Length of the stream.
        bytes: usize,
        /// Submissions in it.
        pending: usize,
    },
    /// The front end has taken all of it.
    Saved {
        /// Length of the stream.
        bytes: usize,
    },
    /// The state could not be saved.
    SaveFailed {
        /// Why.
        error: String,
    },
    /// A state begins to come.
    LoadBegin,
    /// A state has been taken over.
    Load {
        /// Length of the stream.
        bytes: usize,
        /// Submissions in it.
        pending: usize,
    },
    /// A state was refused.
    LoadFailed {
        /// Why.
        error: String,
    },
    /// Records were dropped as they came faster than they could be written.
    LogOverflow {
        /// How many.
        dropped: u64,
    },
}

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Event {
    /// A step of the state machine.
    Core(Observation),
    /// A step of the shell.
    Shell(Step),
}

/// Where events go; cheap to clone.
#[derive(Clone)]
pub struct Events {
    log: EventLog,
    trace: EventLog,
    /// Somebody is told of each step of the state machine.
    wanted: bool,
    board: Arc<Board>,
}

impl Events {
    /// Events go to `log` and `trace`, and make the figures of `board`.
    pub fn new(log: EventLog, trace: EventLog, board: Arc<Board>) -> Self {
        Events {
            wanted: log.is_on() || trace.is_on() || log::log_enabled!(log::Level::Trace),
            log,
            trace,
            board,
        }
    }

    /// Without event log.
    #[cfg(test)]
    pub fn for_tests() -> Self {
        let board = Board::new(crate::core::Limits::default(), 1);
        Events::new(EventLog::default(), EventLog::default(), Arc::new(board))
    }

    /// What the status socket shows.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// What the state machine tells its steps.
    pub fn observer(&self) -> CoreEvents {
        CoreEvents {
            events: self.clone(),
            meter: Meter::new(self.board.clone()),
        }
    }

    /// Starts the threads that write the log and the trace.
    pub fn start(&self) -> io::Result<()> {
        self.log.start("vsva-log")?;
        self.trace.start("vsva-trace")
    }

    /// Waits until the log is complete, or for the deadline. Returns whether it is.
    pub fn wait_written(&self, deadline: Instant) -> bool {
        self.log.wait_written(deadline)
    }

    /// The same of the trace.
    pub fn wait_traced(&self, deadline: Instant) -> bool {
        self.trace.wait_written(deadline)
    }

    /// Records a step of the shell.
    pub fn step(&self, step: impl FnOnce() -> Step) {
        let step = step();
        self.count(&step);
        self.happened(now_ns(), &Event::Shell(step));
    }

    fn count(&self, step: &Step) {
        let counts = &self.board.counts;
        let counter = match step {
            Step::Connected => &counts.connections,
            Step::Save { .. } => &counts.saves,
            Step::SaveFailed { .. } => &counts.saves_failed,
            Step::Load { .. } => &counts.loads,
            Step::LoadFailed { .. } => &counts.loads_failed,
            Step::Disconnected => return self.board.connected.store(false, Relaxed),
            Step::Listening | Step::Saved { .. } | Step::LoadBegin | Step::LogOverflow { .. } => {
                return
            }
        };
        counter.fetch_add(1, Relaxed);
        if matches!(step, Step::Connected) {
            self.board.connected.store(true, Relaxed);
        }
    }

    /// A step of the shell, in whichever thread.
    fn happened(&self, now_ns: u64, event: &Event) {
        self.tell(event);
        if let Some(moment) = Moment::of(now_ns, event) {
            self.board.recent.of_shell.record(&moment);
        }
    }

    /// A step of the state machine, with its lock held. Mostly nobody wants to be told of it.
    fn happened_in_core(&self, now_ns: u64, observation: &Observation) {
        if self.wanted {
            self.tell(&Event::Core(*observation));
        }
        if let Some(moment) = Moment::of_core(now_ns, observation) {
            self.board.recent.of_core.record_alone(&moment);
        }
    }

    #[cold]
    fn tell(&self, event: &Event) {
        log::trace!("{event:?}");
        self.log.write(event);
        self.trace.write(event);
    }
}

/// Takes the steps of the state machine.
pub struct CoreEvents {
    events: Events,
    meter: Meter,
}

impl Observer for CoreEvents {
    fn observe(&mut self, now_ns: u64, observation: &Observation) {
        self.meter.observe(now_ns, observation);
        self.events.happened_in_core(now_ns, observation);
    }
}
