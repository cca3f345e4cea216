// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Recordings of the folder traces/, and what a test changes in a copy of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use vsva_model::trace::{replay, BackEndLog, Inputs, Summary, TraceError};

pub const ALL: [&str; 6] = [
    "migration",
    "expired",
    "taken-back",
    "failed",
    "lost",
    "reset",
];

pub struct Recording {
    files: BTreeMap<String, Vec<String>>,
    back_ends: bool,
    without_drain: bool,
}

impl Recording {
    pub fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
        let read = |entry: fs::DirEntry| {
            let text = fs::read_to_string(entry.path()).unwrap();
            let lines = text.lines().map(str::to_owned).collect();
            (entry.file_name().into_string().unwrap(), lines)
        };
        let entries = fs::read_dir(folder.join(name)).unwrap();
        Self {
            files: entries.map(|entry| read(entry.unwrap())).collect(),
            back_ends: true,
            without_drain: false,
        }
    }

    pub fn without_back_ends(mut self) -> Self {
        self.back_ends = false;
        self
    }

    /// The VMs may be stopped undrained.
    pub fn without_drain(mut self) -> Self {
        self.without_drain = true;
        self
    }

    /// Only this one of the QEMUs.
    pub fn only(&mut self, trace: &str) -> &mut Self {
        self.files.retain(|name, _| name == trace);
        self
    }

    pub fn traces(&self) -> Vec<String> {
        let names = self.files.keys().filter(|name| name.ends_with(".log"));
        names.cloned().collect()
    }

    pub fn lines(&self, file: &str) -> &[String] {
        &self.files[file]
    }

    fn edit(&mut self, file: &str) -> &mut Vec<String> {
        self.files.get_mut(file).unwrap()
    }

    /// The line that has this text; there must be one alone.
    #[track_caller]
    pub fn find(&self, file: &str, text: &str) -> usize {
        let lines = self.lines(file).iter().enumerate();
        let found: Vec<usize> = lines
            .filter(|(_, line)| line.contains(text))
            .map(|(index, _)| index)
            .collect();
        assert_eq!(found.len(), 1, "{file} has {text:?} in lines {found:?}");
        found[0]
    }

    pub fn cut(&mut self, file: &str, lines: usize) -> &mut Self {
        self.edit(file).truncate(lines);
        self
    }

    pub fn remove_line(&mut self, file: &str, index: usize) -> &mut Self {
        self.edit(file).remove(index);
        self
    }

    #[track_caller]
    pub fn remove(&mut self, file: &str, text: &str) -> &mut Self {
        let index = self.find(file, text);
        self.remove_line(file, index)
    }

    pub fn repeat_line(&mut self, file: &str, index: usize) -> &mut Self {
        let line = self.lines(file)[index].clone();
        self.edit(file).insert(index, line);
        self
    }

    #[track_caller]
    pub fn repeat(&mut self, file: &str, text: &str) -> &mut Self {
        let index = self.find(file, text);
        self.repeat_line(file, index)
    }

    #[track_caller]
    pub fn swap(&mut self, file: &str, one: &str, other: &str) -> &mut Self {
        let (one, other) = (self.find(file, one), self.find(file, other));
        self.edit(file).swap(one, other);
        self
    }

    /// Moves a line to right after another one.
    #[track_caller]
    pub fn move_after(&mut self, file: &str, text: &str, after: &str) -> &mut Self {
        let from = self.find(file, text);
        let line = self.edit(file).remove(from);
        let to = self.find(file, after);
        self.edit(file).insert(to + 1, line);
        self
    }

    /// Moves a line to the place of another one, further on.
    #[track_caller]
    pub fn move_line(&mut self, file: &str, text: &str, to: usize) -> &mut Self {
        let from = self.find(file, text);
        let line = self.edit(file).remove(from);
        self.edit(file).insert(to, line);
        self
    }

    /// Puts a line of an event log after another one.
    #[track_caller]
    pub fn insert_line(&mut self, file: &str, line: &str, after: &str) -> &mut Self {
        let to = self.find(file, after);
        self.edit(file).insert(to + 1, line.to_owned());
        self
    }

    /// Puts a line of a trace after another one, with its time stamp.
    #[track_caller]
    pub fn insert_after(&mut self, file: &str, line: &str, after: &str) -> &mut Self {
        let to = self.find(file, after);
        let time = self.lines(file)[to].split(' ').next().unwrap().to_owned();
        self.edit(file).insert(to + 1, format!("{time} {line}"));
        self
    }

    #[track_caller]
    pub fn replace(&mut self, file: &str, text: &str, by: &str) -> &mut Self {
        let index = self.find(file, text);
        let line = &mut self.edit(file)[index];
        *line = line.replace(text, by);
        self
    }

    fn write(&self) -> PathBuf {
        static FOLDERS: AtomicU32 = AtomicU32::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("replay-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for (name, lines) in &self.files {
            let mut text = lines.join("\n");
            text.push('\n');
            fs::write(folder.join(name), text).unwrap();
        }
        folder
    }

    pub fn replay(&self) -> Result<Summary, TraceError> {
        let folder = self.write();
        let mut inputs = Inputs {
            without_drain: self.without_drain,
            ..Inputs::default()
        };
        for name in self.traces() {
            let trace = folder.join(&name);
            if self.back_ends {
                inputs.back_ends.push(BackEndLog {
                    events: trace.with_extension("jsonl"),
                    trace: trace.clone(),
                    id: None,
                });
            }
            inputs.traces.push(trace);
        }
        let result = replay(&inputs);
        fs::remove_dir_all(folder).unwrap();
        result
    }

    /// The rule that is broken, and the text of the line that breaks it.
    #[track_caller]
    pub fn broken(&self) -> (&'static str, String) {
        match self.replay() {
            Err(TraceError::Illegal {
                violation, text, ..
            }) => (violation.rule, text),
            other => panic!("no rule is broken: {other:?}"),
        }
    }

    #[track_caller]
    pub fn breaks(&self, rule: &str, line: &str) {
        let (broken, text) = self.broken();
        assert!(broken == rule && text.contains(line), "{broken}: {text}");
    }
}
