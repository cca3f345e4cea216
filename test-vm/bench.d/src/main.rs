// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What vhost-user-vsva costs, beside floors and peers that are measured in the same run.
//!
//! - `vsva-bench measure BACKEND FOLDER [QUICK]` measures everything and writes
//!   `FOLDER/results.json`. With QUICK only a tenth of the rounds, to see that it works.
//! - `vsva-bench drive SOCKET KIND COUNT` does something so many times to a back-end that runs, for
//!   whoever counts meanwhile.
//! - `vsva-bench steps saved|plain BURST COUNT` makes the core's steps for so many bursts of
//!   faults, each saved in a recovery area or not, for whoever counts.
//! - `vsva-bench floor KIND` is the other side of a floor.

#![allow(missing_docs, reason = "a program")]

mod cases;
mod floor;
mod place;
mod process;
mod results;
mod ring;
mod session;
mod vhost_user;

use std::{env, io, path::Path, process::ExitCode};

fn run(words: &[&str]) -> io::Result<()> {
    match words {
        ["floor", kind] => floor::run(kind),
        ["measure", backend, folder] => cases::measure(Path::new(backend), Path::new(folder), 1),
        ["measure", backend, folder, _] => {
            cases::measure(Path::new(backend), Path::new(folder), 10)
        }
        ["drive", socket, kind, count] => cases::drive(
            Path::new(socket),
            kind,
            count.parse().map_err(io::Error::other)?,
        ),
        ["steps", kind, burst, count] => cases::steps(
            kind,
            burst.parse().map_err(io::Error::other)?,
            count.parse().map_err(io::Error::other)?,
        ),
        _ => Err(io::Error::other("see the beginning of main.rs")),
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("vsva-bench: {e}");
            ExitCode::FAILURE
        }
    }
}
