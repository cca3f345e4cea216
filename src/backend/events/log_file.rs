// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The event log: what happened when, one JSON object a line; and the trace, the same as packets of
//! protocol buffers.
//!
//! Threads only put plain records into a bounded buffer; a thread that does nothing else formats
//! and writes them, so that a slow disk or the reader of a FIFO holds nobody. Without a log file a
//! record costs one branch.

use std::{
    fs::File,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use super::{Event, Step};
use crate::{
    lock::{lock, wait, wait_for},
    trace::{Moment, Tracer},
};

/// Records kept until they are written; more are counted and dropped.
const CAPACITY: usize = 64 * 1024;

#[derive(Serialize)]
struct Record {
    t_us: u64,
    actor: &'static str,
    #[serde(flatten)]
    event: Event,
}

impl Record {
    fn moment(&self) -> Option<Moment> {
        Moment::of(self.t_us.saturating_mul(1000), &self.event)
    }

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
    writing: bool,
}

struct Inner {
    buffer: Mutex<Buffer>,
    changed: Condvar,
    out: Mutex<Out>,
}

struct Out {
    file: File,
    format: Format,
}

enum Format {
    Lines {
        /// The last one in the file is not whole.
        torn: bool,
    },
    Packets {
        tracer: Box<Tracer>,
        /// What is missing of the last one in the file.
        rest: Vec<u8>,
    },
}

/// A handle to the event log; cheap to clone.
#[derive(Clone, Default)]
pub struct EventLog(Option<Arc<Inner>>);

impl EventLog {
    /// A log that writes to `file`, once it has been started; `torn`: its last line has no end.
    pub fn new(file: File, torn: bool) -> Self {
        Self::with(file, Format::Lines { torn })
    }

    /// A trace that is written to `file`.
    pub fn trace(file: File, tracer: Tracer) -> Self {
        let format = Format::Packets {
            tracer: Box::new(tracer),
            rest: Vec::new(),
        };
        Self::with(file, format)
    }

    fn with(file: File, format: Format) -> Self {
        EventLog(Some(Arc::new(Inner {
            buffer: Mutex::default(),
            changed: Condvar::new(),
            out: Mutex::new(Out { file, format }),
        })))
    }

    /// Starts the thread that writes.
    pub fn start(&self, name: &str) -> io::Result<()> {
        let Some(inner) = self.0.clone() else {
            return Ok(());
        };
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || loop {
                inner.wait_for_records();
                inner.flush();
            })
            .map(drop)
    }

    /// Waits until everything has been written, or for the deadline. Returns whether it has.
    pub fn wait_written(&self, deadline: Instant) -> bool {
        self.0
            .as_ref()
            .is_none_or(|inner| inner.wait_written(deadline))
    }

    /// Whether anything is written.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Puts an event into the buffer.
    pub fn write(&self, event: &Event) {
        if let Some(inner) = &self.0 {
            inner.push(event.clone());
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        lock(&self.buffer)
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
            self.changed.notify_all();
        }
    }

    fn wait_for_records(&self) {
        let mut buffer = self.lock();
        while buffer.records.is_empty() {
            buffer = wait(&self.changed, buffer);
        }
    }

    fn wait_written(&self, deadline: Instant) -> bool {
        let mut buffer = self.lock();
        while buffer.writing || !buffer.records.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            buffer = wait_for(&self.changed, buffer, left);
        }
        true
    }

    /// Writes what has been recorded; what the file does not take counts as dropped.
    fn flush(&self) {
        let (records, dropped) = {
            let mut buffer = self.lock();
            buffer.writing = true;
            let records = std::mem::take(&mut buffer.records);
            (records, std::mem::take(&mut buffer.dropped))
        };
        let lost = dropped + records.len() as u64;
        let result = lock(&self.out).write(records, dropped);
        let mut buffer = self.lock();
        buffer.writing = false;
        if result.is_err() {
            buffer.dropped += lost;
        }
        drop(buffer);
        self.changed.notify_all();
    }
}

impl Out {
    fn write(&mut self, mut records: Vec<Record>, dropped: u64) -> io::Result<()> {
        if dropped > 0 {
            records.push(Record::new(Event::Shell(Step::LogOverflow { dropped })));
        }
        match &mut self.format {
            Format::Lines { torn } => {
                let text = lines(&records, *torn)?;
                let (done, result) = write_all(&mut self.file, &text);
                if done > 0 {
                    *torn = text[done - 1] != b'\n';
                }
                result.inspect_err(|e| log::warn!("event log: {e}"))
            }
            Format::Packets { tracer, rest } => {
                records
                    .iter()
                    .filter_map(Record::moment)
                    .for_each(|moment| tracer.add(&moment));
                let begun = rest.len();
                let mut bytes = std::mem::take(rest);
                bytes.append(&mut tracer.take());
                let (done, result) = write_all(&mut self.file, &bytes);
                if result.is_err() {
                    *rest = bytes[done..packet_end(&bytes, begun, done)].to_vec();
                    tracer.forget();
                }
                result.inspect_err(|e| log::warn!("trace: {e}"))
            }
        }
    }
}

fn lines(records: &[Record], torn: bool) -> io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(records.len() * 160 + 1);
    if torn {
        text.push(b'\n');
    }
    for record in records {
        serde_json::to_writer(&mut text, record)?;
        text.push(b'\n');
    }
    Ok(text)
}

/// Writes all of it; returns how much it was.
fn write_all(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < bytes.len() {
        match file.write(&bytes[done..]) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => done += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (done, Err(e)),
        }
    }
    (done, Ok(()))
}

/// Where the packet ends that `at` is in, or `at` itself if that is between two. The first one
/// begins at `begin`, the rest of another one is before it.
fn packet_end(bytes: &[u8], begin: usize, at: usize) -> usize {
    let mut end = begin;
    while end < at {
        // A field: its key, of one byte, its length and so many bytes.
        let mut place = end + 1;
        let mut length = 0;
        for shift in (0..28).step_by(7) {
            let byte = bytes.get(place).copied().unwrap_or(0);
            place += 1;
            length |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        end = (place + length).min(bytes.len());
    }
    end
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;
    use crate::{
        backend::events::Events,
        core::{Observation, Observer},
    };

    fn log() -> (EventLog, File) {
        let memfd = rustix::fs::memfd_create("event-log", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(memfd);
        let log = EventLog::new(file.try_clone().unwrap(), false);
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
        let (log, mut file) = log();
        let events = Events::new(
            log.clone(),
            EventLog::default(),
            Events::for_tests().board().clone(),
        );
        events.observer().observe(
            7,
            &Observation::Submitted {
                device: 3,
                ticket: 9,
                pending: 1,
            },
        );
        events.step(|| Step::LoadFailed {
            error: "bad \"magic\"\n".to_owned(),
        });
        log.0.as_ref().unwrap().flush();

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
            log.write(&Event::Shell(Step::Connected));
        }
        log.0.as_ref().unwrap().flush();
        let lines = lines(&mut file);
        assert_eq!(lines.len(), CAPACITY + 1);
        assert_eq!(lines[CAPACITY]["event"], "log_overflow");
        assert_eq!(lines[CAPACITY]["dropped"], 5);
    }

    #[test]
    fn test_records_that_the_file_does_not_take_are_counted_when_it_takes_some_again() {
        let (log, mut file) = log();
        let inner = log.0.as_ref().unwrap();
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
        let working = std::mem::replace(&mut inner.out.lock().unwrap().file, full.unwrap());
        log.write(&Event::Shell(Step::Connected));
        log.write(&Event::Shell(Step::Disconnected));
        inner.flush();
        inner.out.lock().unwrap().file = working;
        log.write(&Event::Shell(Step::Listening));
        inner.flush();

        let lines = lines(&mut file);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["event"], "listening");
        assert_eq!(lines[1]["dropped"], 2);
    }

    #[test]
    fn test_line_after_a_torn_one_begins_anew() {
        let (log, mut file) = log();
        let inner = log.0.as_ref().unwrap();
        file.write_all(b"{\"t_us\": 1").unwrap();
        inner.out.lock().unwrap().format = Format::Lines { torn: true };
        log.write(&Event::Shell(Step::Listening));
        inner.flush();

        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        let last = text.lines().last().unwrap();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(last).unwrap()["event"],
            "listening"
        );
    }

    #[test]
    fn test_trace_that_a_full_disk_cuts_goes_on_with_whole_packets() {
        const LENGTH: u64 = 200;
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let trace = EventLog::trace(File::from(writer), Tracer::new("test", 1, 1));
        let inner = trace.0.as_ref().unwrap();
        // As if the disk was full in the middle of a packet.
        for _ in 0..20 {
            trace.write(&Event::Shell(Step::Connected));
        }
        let mut expected = Vec::new();
        {
            let records = std::mem::take(&mut inner.lock().records);
            let mut out = inner.out.lock().unwrap();
            let Format::Packets { tracer, rest } = &mut out.format else {
                panic!("no packets");
            };
            records
                .iter()
                .filter_map(Record::moment)
                .for_each(|moment| tracer.add(&moment));
            let bytes = tracer.take();
            let done = usize::try_from(LENGTH).unwrap();
            let end = packet_end(&bytes, 0, done);
            assert!(end > done && end < bytes.len());
            *rest = bytes[done..end].to_vec();
            expected.extend_from_slice(&bytes[..done]);
            tracer.forget();
        }
        trace.write(&Event::Shell(Step::Disconnected));
        inner.flush();
        drop(trace);
        File::from(reader).read_to_end(&mut expected).unwrap();
        let mut at = 0;
        let mut packets = 0;
        while at < expected.len() {
            assert_eq!(expected[at], 0x0a, "a packet begins at {at}");
            at = packet_end(&expected, at, at + 1);
            packets += 1;
        }
        assert_eq!(at, expected.len());
        assert!(packets > 4, "{packets}");
    }
}
