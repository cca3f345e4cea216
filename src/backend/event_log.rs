// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The event log: what happened when, one JSON object a line.
//!
//! Threads only put plain records into a bounded buffer; the engine thread formats and writes them.
//! Without a log file a record costs one branch.

use std::{
    fs::File,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use super::wake::Wake;
use crate::core::{Observation, Observer};

/// Records kept until they are written; more are counted and dropped.
const CAPACITY: usize = 64 * 1024;

/// A step that is not the state machine's.
#[derive(Clone, Debug, Serialize)]
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
    /// The state could not be saved.
    SaveFailed {
        /// Why.
        error: String,
    },
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

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Event {
    Core(Observation),
    Shell(Step),
}

#[derive(Serialize)]
struct Record {
    t_us: u64,
    actor: &'static str,
    #[serde(flatten)]
    event: Event,
}

impl Record {
    fn new(event: Event) -> Self {
        let t_us = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |t| u64::try_from(t.as_micros()).unwrap_or(u64::MAX));
        Record {
            t_us,
            actor: "backend",
            event,
        }
    }
}

#[derive(Default)]
struct Buffer {
    records: Vec<Record>,
    dropped: u64,
}

struct Inner {
    buffer: Mutex<Buffer>,
    file: Mutex<File>,
    wake: Wake,
}

/// A handle to the event log; cheap to clone.
#[derive(Clone, Default)]
pub struct EventLog(Option<Arc<Inner>>);

impl EventLog {
    /// A log that writes to `file`; `wake` tells the thread that calls [`Self::flush`].
    pub fn new(file: File, wake: Wake) -> Self {
        EventLog(Some(Arc::new(Inner {
            buffer: Mutex::default(),
            file: Mutex::new(file),
            wake,
        })))
    }

    /// Records a step of the shell.
    pub fn step(&self, step: impl FnOnce() -> Step) {
        if let Some(inner) = &self.0 {
            inner.push(Event::Shell(step()));
        }
    }

    /// Writes what has been recorded.
    pub fn flush(&self) {
        let Some(inner) = &self.0 else { return };
        if let Err(e) = inner.flush() {
            log::warn!("event log: {e}");
        }
    }
}

impl Observer for EventLog {
    fn observe(&mut self, _now_ns: u64, observation: &Observation) {
        log::trace!("{observation:?}");
        if let Some(inner) = &self.0 {
            inner.push(Event::Core(*observation));
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, event: Event) {
        let first = {
            let mut buffer = self.lock();
            if buffer.records.len() >= CAPACITY {
                buffer.dropped += 1;
                return;
            }
            buffer.records.push(Record::new(event));
            buffer.records.len() == 1
        };
        if first {
            self.wake.set();
        }
    }

    fn flush(&self) -> io::Result<()> {
        // The file's lock first, so that two threads cannot swap the order of their batches.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Buffer {
            mut records,
            dropped,
        } = std::mem::take(&mut *self.lock());
        if dropped > 0 {
            records.push(Record::new(Event::Shell(Step::LogOverflow { dropped })));
        }
        let mut text = Vec::with_capacity(records.len() * 160);
        for record in &records {
            serde_json::to_writer(&mut text, record)?;
            text.push(b'\n');
        }
        file.write_all(&text)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    fn log() -> (EventLog, File) {
        let memfd = rustix::fs::memfd_create("event-log", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(memfd);
        let log = EventLog::new(file.try_clone().unwrap(), Wake::new().unwrap());
        (log, file)
    }

    fn lines(file: &mut File) -> Vec<serde_json::Value> {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn test_flush_after_records_writes_one_object_a_line() {
        let (mut log, mut file) = log();
        log.observe(
            7,
            &Observation::Submitted {
                device: 3,
                ticket: 9,
                pending: 1,
            },
        );
        log.step(|| Step::LoadFailed {
            error: "bad \"magic\"\n".to_owned(),
        });
        log.flush();

        let lines = lines(&mut file);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["event"], "submission_queued");
        assert_eq!(lines[0]["actor"], "backend");
        assert_eq!(lines[0]["ticket"], 9);
        assert!(lines[0]["t_us"].as_u64().unwrap() > 1_600_000_000_000_000);
        assert_eq!(lines[1]["event"], "load_failed");
        assert_eq!(lines[1]["error"], "bad \"magic\"\n");
    }

    #[test]
    fn test_record_beyond_capacity_is_counted_not_kept() {
        let (log, mut file) = log();
        for _ in 0..CAPACITY + 5 {
            log.step(|| Step::Connected);
        }
        log.flush();
        let lines = lines(&mut file);
        assert_eq!(lines.len(), CAPACITY + 1);
        assert_eq!(lines[CAPACITY]["event"], "log_overflow");
        assert_eq!(lines[CAPACITY]["dropped"], 5);
    }
}
