// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The subcommand `status`.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{
    client::{self, ClientError},
    metrics::{self, Source},
    table::{screen, Row},
};
use crate::{output_file, printable};

/// From one screen to the next.
const INTERVAL: Duration = Duration::from_secs(1);

/// How to show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Table,
    /// An object with the name of each VM and its status document.
    Json,
    /// As Prometheus text.
    Metrics,
}

/// What to show.
#[derive(Clone, Debug)]
pub struct Status {
    /// How.
    pub format: Format,
    /// Again and again.
    pub watch: bool,
    /// The status sockets; none: those of all back-ends of this host.
    pub paths: Vec<PathBuf>,
}

/// Shows it. Returns whether all have answered.
pub fn show(status: &Status, out: &mut impl Write) -> Result<bool, ClientError> {
    let failed = |source| ClientError::Output {
        path: "stdout".into(),
        source,
    };
    output_file::limit_is_an_error().map_err(failed)?;
    loop {
        let (text, complete) = once(status)?;
        let clear = if status.watch && status.format == Format::Table {
            "\x1b[H\x1b[2J"
        } else {
            ""
        };
        let written = write!(out, "{clear}{text}").and_then(|()| out.flush());
        match written {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(complete),
            Err(source) => return Err(failed(source)),
            Ok(()) if !status.watch => return Ok(complete),
            Ok(()) => thread::sleep(INTERVAL),
        }
    }
}

/// Writes the trace of the last events of a back-end, which need not be named if it is the only
/// one.
pub fn trace(socket: Option<PathBuf>, output: &Path) -> Result<String, ClientError> {
    let socket = match socket {
        Some(socket) => socket,
        None => {
            let mut all = client::all()?;
            match (all.pop(), all.len()) {
                (Some(only), 0) => only,
                (Some(_), others) => return Err(ClientError::WhichOne(others + 1)),
                (None, _) => return Err(ClientError::Nobody),
            }
        }
    };
    let bytes = client::trace(&socket)?;
    output_file::write(output, &bytes).map_err(|source| ClientError::Output {
        path: output.to_owned(),
        source,
    })?;
    let output = printable::path(output);
    Ok(format!(
        "trace: {output} ({} B), for ui.perfetto.dev\n",
        bytes.len()
    ))
}

fn once(status: &Status) -> Result<(String, bool), ClientError> {
    let found;
    let paths = if status.paths.is_empty() {
        found = client::all()?;
        &found
    } else {
        &status.paths
    };
    let mut rows: Vec<Row> = paths.iter().map(|path| ask(path)).collect();
    tell_apart(&mut rows, paths);
    let complete = rows.iter().all(|row| row.status.is_ok());
    let text = match status.format {
        Format::Table if rows.is_empty() => format!("{}\n", ClientError::Nobody),
        Format::Table => screen(&rows),
        Format::Json => json(&rows),
        Format::Metrics => metrics(rows)?,
    };
    Ok((text, complete))
}

fn ask(path: &Path) -> Row {
    Row {
        name: client::name(path),
        status: client::document(path).map_err(|e| e.to_string()),
    }
}

/// VMs whose sockets have one name are called by their sockets' paths.
fn tell_apart(rows: &mut [Row], paths: &[PathBuf]) {
    let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    for (row, path) in rows.iter_mut().zip(paths) {
        if names.iter().filter(|name| **name == row.name).count() > 1 {
            row.name = printable::path(path);
        }
    }
}

fn json(rows: &[Row]) -> String {
    let member = |row: &Row| {
        let value = match &row.status {
            Ok(document) => serde_json::json!(document),
            Err(error) => serde_json::json!({ "error": error }),
        };
        (row.name.clone(), value)
    };
    let members: serde_json::Map<_, _> = rows.iter().map(member).collect();
    format!("{}\n", serde_json::Value::Object(members))
}

fn metrics(rows: Vec<Row>) -> Result<String, ClientError> {
    let source = |row: Row| Source {
        vm: Some(row.name),
        document: row.status.ok(),
    };
    let sources: Vec<_> = rows.into_iter().map(source).collect();
    metrics::text(&sources).map_err(|e| ClientError::Answer {
        path: "metrics".into(),
        reason: e.to_string(),
    })
}
