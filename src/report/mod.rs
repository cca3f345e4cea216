// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the event logs of one or two hosts say: figures, a list of the last drains, and a picture.
//!
//! A log may be of any length: it is read once, and what is kept of it is bounded.

mod error;
mod faults;
mod log;
mod part;
mod picture;
mod runs;
mod story;
mod svg;
#[cfg(test)]
mod tests;
mod text;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

pub use self::error::ReportError;
use self::{
    log::{Line, Log},
    story::Story,
};
use crate::{output_file, printable};

/// What to report.
#[derive(Clone, Debug)]
pub struct Report {
    /// The event logs.
    pub logs: Vec<PathBuf>,
    /// Where to draw the picture.
    pub output: PathBuf,
    /// Only drains of this generation.
    pub generation: Option<u64>,
}

/// Draws the picture, and returns the text.
pub fn report(report: &Report) -> Result<String, ReportError> {
    let mut logs: Vec<(_, Log)> = Vec::new();
    for path in &report.logs {
        check_output(path, &report.output)?;
        let log = Log::open(path)?;
        if logs.iter().any(|(_, other)| log.is(other)) {
            return Err(ReportError::Twice(path.clone()));
        }
        logs.push((path, log));
    }
    let mut story = Story::new(logs.len(), report.generation);
    read(&mut logs, &mut story)?;
    let mut told = Vec::new();
    for (path, log) in &logs {
        if log.told().events == 0 {
            return Err(ReportError::Empty(path.to_path_buf()));
        }
        told.push((printable::path(path), log.told()));
    }
    story.finish();
    if let (Some(generation), true) = (report.generation, story.parts.is_empty()) {
        return Err(ReportError::NoDrain(generation));
    }
    let failed = |source| ReportError::Write {
        path: report.output.clone(),
        source,
    };
    output_file::write(&report.output, picture::draw(&story).as_bytes()).map_err(failed)?;
    let text = text::text(&told, &story);
    Ok(format!(
        "{text}picture: {}\n",
        printable::path(&report.output)
    ))
}

fn check_output(log: &Path, output: &Path) -> Result<(), ReportError> {
    let file = |path: &Path| fs::metadata(path).map(|it| (it.dev(), it.ino())).ok();
    if file(output).is_some_and(|output| file(log) == Some(output)) {
        return Err(ReportError::SameFile(output.to_owned()));
    }
    Ok(())
}

/// All lines of all logs, in order of time as far as each log is.
fn read(logs: &mut [(&PathBuf, Log)], story: &mut Story) -> Result<(), ReportError> {
    let mut next: Vec<Option<Line>> = Vec::new();
    for (_, log) in &mut *logs {
        next.push(log.next()?);
    }
    loop {
        let times = next
            .iter()
            .enumerate()
            .filter_map(|(log, line)| Some((line.as_ref()?.t_us, log)));
        let Some((_, log)) = times.min() else {
            return Ok(());
        };
        if let Some(line) = next[log].take() {
            story.take(log, &line);
        }
        next[log] = logs[log].1.next()?;
    }
}
