// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Process 1 of the virtual machine that stands for a host (L1). It does what a test outside of the
//! machine asks for: starts and ends programs, reads and writes files, loads modules. A request is
//! a line of JSON on a virtio-serial port, and so is the answer.

mod boot;
mod files;
mod port;
mod programs;
mod request;

use std::{
    io::{self, BufRead, BufReader},
    sync::Arc,
};

use port::Output;
use request::{Operation, Request};
use rustix::system::{reboot, RebootCommand};
use serde_json::{json, Value};

fn main() {
    if let Err(error) = serve() {
        println!("vsva-l1: failed: {error}");
    }
    rustix::fs::sync();
    // It is process 1: there is nobody to return to.
    let error = reboot(RebootCommand::PowerOff);
    panic!("power off: {error:?}");
}

/// Until the other end of the port has gone, or the machine is to be switched off.
fn serve() -> io::Result<()> {
    boot::run()?;
    let (input, output) = port::open("org.vsva.host")?;
    let output = Arc::new(output);
    output.send(&json!({"event": "ready", "kernel": kernel()}))?;
    println!("vsva-l1: ready");
    for line in BufReader::new(input).lines() {
        let request: Request = match serde_json::from_str(&line?) {
            Ok(request) => request,
            Err(error) => {
                output.send(&json!({"event": "bad-request", "error": error.to_string()}))?;
                continue;
            }
        };
        if matches!(request.operation, Operation::PowerOff) {
            return Ok(());
        }
        let mut answer = match obey(&request.operation, &output) {
            Ok(answer) => answer,
            Err(error) => json!({"ok": false, "error": error.to_string()}),
        };
        answer["id"] = request.id.into();
        output.send(&answer)?;
    }
    Ok(())
}

fn obey(operation: &Operation, output: &Arc<Output>) -> io::Result<Value> {
    match operation {
        Operation::Start { argv, log } => {
            let pid = programs::start(argv, log, output)?;
            Ok(json!({"ok": true, "pid": pid}))
        }
        Operation::Signal { pid, signal } => {
            programs::signal(*pid, *signal)?;
            Ok(json!({"ok": true}))
        }
        Operation::Read { path, offset } => {
            let (text, end) = files::read(path, *offset)?;
            Ok(json!({"ok": true, "text": text, "end": end}))
        }
        Operation::Write { path, text } => {
            files::write(path, text)?;
            Ok(json!({"ok": true}))
        }
        Operation::List { path } => Ok(json!({"ok": true, "names": files::list(path)?})),
        Operation::Link { path } => Ok(json!({"ok": true, "name": files::link(path)?})),
        Operation::Module { path, options } => {
            files::load_module(path, options)?;
            Ok(json!({"ok": true}))
        }
        // Not answered.
        Operation::PowerOff => Ok(Value::Null),
    }
}

fn kernel() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}
