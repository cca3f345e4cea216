// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Reads event logs, of whoever they may be: a line at a time, each of a bounded length.

use std::{
    borrow::Cow,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use serde::Deserialize;

use super::error::ReportError;
use crate::{
    backend::events::{Event, Step},
    core::Observation,
    printable,
};

/// Longest line; the program writes none that is a tenth as long.
const LINE_MAX: usize = 64 * 1024;
/// Of why a line is none.
const REASON_MAX: usize = 200;
/// How long who writes to a FIFO may say nothing.
const SILENCE: Duration = Duration::from_secs(10);
/// Of each record of the program.
const BEGIN: &[u8] = br#"{"t_us":"#;

/// Who does something in the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Lane {
    /// The guest's kernel and processes.
    #[serde(rename = "guest")]
    Guest,
    /// The device of the source.
    #[serde(rename = "device")]
    Device,
    /// QEMU at the source.
    #[serde(rename = "vSMMU")]
    Vsmmu,
    /// The back-end at the source.
    #[serde(rename = "backend")]
    Backend,
    /// The back-end at the destination.
    #[serde(rename = "backend destination")]
    BackendDestination,
    /// QEMU and the device at the destination.
    #[serde(rename = "QEMU destination")]
    QemuDestination,
}

/// What something has to do with, which makes its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A fault.
    Fault,
    /// A drain.
    Drain,
    /// The time in which the vCPUs stand still.
    Stop,
    /// Submissions that are queued.
    Queue,
    /// Their replay.
    Replay,
}

/// What others than the program have put into its log, so that the picture has it too.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Note {
    /// A part of the picture begins.
    Section {
        /// Its name.
        title: String,
        /// What became of it.
        #[serde(default)]
        note: String,
    },
    /// Somebody has told somebody something.
    Mark {
        /// Who.
        from: Lane,
        /// Whom.
        to: Lane,
        /// What.
        text: String,
        /// What it has to do with.
        kind: Kind,
        /// Which of the eight steps of the fault it is.
        #[serde(default)]
        step: Option<u8>,
    },
    /// Something has lasted.
    Span {
        /// What.
        text: String,
        /// What it has to do with.
        kind: Kind,
        /// When it ended.
        until_us: u64,
    },
}

/// What a line says.
#[derive(Debug)]
pub enum Entry {
    /// What the program has done.
    Event(Event),
    /// What somebody else says.
    Note(Note),
}

/// A line.
#[derive(Debug)]
pub struct Line {
    /// Since 1970.
    pub t_us: u64,
    /// What it says.
    pub entry: Entry,
}

#[derive(Deserialize)]
struct Head<'a> {
    t_us: u64,
    #[serde(borrow, default)]
    actor: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
}

/// What a log is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Lines that are events of the program or notes.
    pub events: u64,
    /// Lines that are neither, as of a later release.
    pub unknown: u64,
    /// Lines that end too early.
    pub torn: u64,
    /// The number of the last one of them.
    pub last_torn: u64,
    /// Events that the program could not write.
    pub lost: u64,
    /// Lines with an earlier time than the one before.
    pub backwards: u64,
    /// The number of the last one of them.
    pub last_backwards: u64,
    /// Times of the first and last line.
    pub first_us: u64,
    pub last_us: u64,
}

/// A log that is being read.
pub struct Log {
    path: PathBuf,
    file: BufReader<Source>,
    identity: Option<(u64, u64)>,
    number: u64,
    told: Told,
}

impl Log {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self, ReportError> {
        let failed = |source| ReportError::Open {
            path: path.to_owned(),
            source,
        };
        // Without waiting for who writes to a FIFO.
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = options.open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        let source = Source {
            file,
            silence: SILENCE,
        };
        Ok(Log {
            path: path.to_owned(),
            file: BufReader::with_capacity(LINE_MAX, source),
            identity: about.is_file().then(|| (about.dev(), about.ino())),
            number: 0,
            told: Told::default(),
        })
    }

    /// Whether both are one file.
    pub fn is(&self, other: &Log) -> bool {
        self.identity.is_some() && self.identity == other.identity
    }

    /// What has been read.
    pub fn told(&self) -> Told {
        self.told
    }

    /// The next line that says something.
    pub fn next(&mut self) -> Result<Option<Line>, ReportError> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let most = LINE_MAX as u64 + 1;
            let read = (&mut self.file).take(most).read_until(b'\n', &mut bytes);
            match read {
                Ok(0) => return Ok(None),
                Ok(_) => self.number += 1,
                Err(source) => {
                    let path = self.path.clone();
                    return Err(ReportError::Read { path, source });
                }
            }
            if bytes.len() > LINE_MAX {
                return Err(self.wrong(format!("longer than {LINE_MAX} bytes")));
            }
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            // A file system may leave zeros where it had not written at a loss of power.
            let text = bytes.trim_ascii();
            let zeros = text.iter().take_while(|byte| **byte == 0).count();
            let text = &text[zeros..];
            match parse(text) {
                Ok(Some(line)) => {
                    self.count(&line);
                    return Ok(Some(line));
                }
                Ok(None) => self.told.unknown += 1,
                Err(e) if !e.is_data() && is_torn(text) => {
                    self.told.torn += 1;
                    self.told.last_torn = self.number;
                }
                Err(e) => return Err(self.wrong(reason(&e))),
            }
        }
    }

    fn count(&mut self, line: &Line) {
        if self.told.events == 0 {
            self.told.first_us = line.t_us;
        } else if line.t_us < self.told.last_us {
            self.told.backwards += 1;
            self.told.last_backwards = self.number;
        }
        self.told.events += 1;
        self.told.last_us = line.t_us;
        if let Entry::Event(Event::Shell(Step::LogOverflow { dropped })) = line.entry {
            self.told.lost = self.told.lost.saturating_add(dropped);
        }
    }

    fn wrong(&self, reason: String) -> ReportError {
        ReportError::Line {
            path: self.path.clone(),
            number: self.number,
            reason,
        }
    }
}

/// A file, or a FIFO whose writer may be slow, but not for ever.
struct Source {
    file: File,
    silence: Duration,
}

impl Read for Source {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            let limit = Timespec {
                tv_sec: i64::try_from(self.silence.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: self.silence.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&limit)) {
                Ok(0) => {
                    let limit = self.silence.as_secs();
                    let text = format!("nothing has come out of it for {limit} s");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Whether a line that is no JSON begins as each record does, and has no end: it was being written
/// when its process ended.
fn is_torn(text: &[u8]) -> bool {
    let begins = text.iter().zip(BEGIN).all(|(byte, begin)| byte == begin);
    begins && !text.ends_with(b"}")
}

/// The line of an error is the log's, not the text's.
fn reason(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let text = text
        .rsplit_once(" at line ")
        .map_or(&*text, |(text, _)| text);
    let mut text = printable::beginning(text, REASON_MAX);
    if e.column() > 0 {
        text += &format!(", column {}", e.column());
    }
    text
}

fn is_unknown(e: &serde_json::Error) -> bool {
    e.is_data() && e.to_string().starts_with("unknown variant")
}

/// `None`: it is something that this release does not know.
fn parse(bytes: &[u8]) -> Result<Option<Line>, serde_json::Error> {
    let head: Head = serde_json::from_slice(bytes)?;
    let known = match &*head.event {
        // Who writes these is told what is wrong with them.
        "section" | "mark" | "span" => Ok(Entry::Note(serde_json::from_slice(bytes)?)),
        _ if head.actor == "backend" => event(bytes).map(Entry::Event),
        _ => return Ok(None),
    };
    let t_us = head.t_us;
    match known {
        Ok(entry) => Ok(Some(Line { t_us, entry })),
        Err(e) if is_unknown(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

fn event(bytes: &[u8]) -> Result<Event, serde_json::Error> {
    match serde_json::from_slice::<Observation>(bytes) {
        Err(e) if is_unknown(&e) => serde_json::from_slice(bytes).map(Event::Shell),
        event => event.map(Event::Core),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_fifo_whose_writer_says_nothing_is_an_error_after_a_time() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        let mut source = Source {
            file: reader.into(),
            silence: Duration::ZERO,
        };
        let error = source.read(&mut [0]).unwrap_err();
        assert_eq!(error.to_string(), "nothing has come out of it for 0 s");
    }
}
