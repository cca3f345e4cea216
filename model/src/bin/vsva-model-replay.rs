// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Replays traces of QEMU and event logs of back-ends through the front end's state machine.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use vsva_model::trace::{replay, BackEndLog, Inputs};

/// Checks traces of QEMU against the rules of docs/protocol.md, section 10.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// A trace log of QEMU; may be repeated. A state that one of them has loaded must be saved by
    /// another.
    #[arg(long = "qemu", value_name = "TRACE", required = true)]
    traces: Vec<PathBuf>,
    /// The event log of the back-end of one of these; may be repeated.
    #[arg(long = "backend", value_name = "EVENTS=TRACE[@ID]", value_parser = back_end)]
    back_ends: Vec<BackEndLog>,
    /// The VMs have x-unsafe-no-drain.
    #[arg(long)]
    without_drain: bool,
}

fn back_end(text: &str) -> Result<BackEndLog, String> {
    let (events, trace) = text
        .split_once('=')
        .ok_or("name the trace of its QEMU: EVENTS=TRACE")?;
    let (trace, id) = match trace.rsplit_once('@') {
        Some((trace, id)) => (trace, Some(id.to_owned())),
        None => (trace, None),
    };
    Ok(BackEndLog {
        events: events.into(),
        trace: trace.into(),
        id,
    })
}

fn main() -> ExitCode {
    let args = Args::parse();
    let inputs = Inputs {
        traces: args.traces,
        back_ends: args.back_ends,
        without_drain: args.without_drain,
    };
    match replay(&inputs) {
        Ok(summary) => {
            let (steps, messages) = (summary.steps, summary.messages);
            println!("{steps} steps and {messages} messages keep the rules");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("vsva-model-replay: {error}");
            ExitCode::FAILURE
        }
    }
}
