// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The checks of `vhost-user-vsva` against a real kernel.
//!
//! As process 1 of a virtual machine it runs every check in a process of its own and reports each
//! in a line on the console; `vsva-kernel-rig check NAME` is such a process. Like a VMM, a check
//! owns the devices, the nested page table and the fault queue, and hands the fault queue to a
//! back-end. It also plays the guest: it takes event records, fills in stage-1 tables and answers
//! with CMD_RESUME.

mod backend;
mod checks;
mod hardware;
mod init;
mod ioctl;
mod iommu;
mod memory;
mod session;
mod smmu;
mod tally;
mod testdev;
mod uapi;
mod vfio;
mod wait;

use std::{env, path::Path, process::ExitCode};

use checks::{Platform, ALL, ON_REQUEST};

fn main() -> ExitCode {
    if std::process::id() == 1 {
        init::run();
    }
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["check", name] => match ALL
            .iter()
            .chain([&ON_REQUEST])
            .find(|check| check.name == name)
        {
            Some(check) => {
                (check.run)(Platform::of_this_machine());
                tally::report();
                ExitCode::SUCCESS
            }
            None => usage(&format!("there is no check named {name}")),
        },
        [role @ ("owner" | "owner-without-pidfd"), socket] => {
            checks::run_owner(
                Platform::of_this_machine(),
                Path::new(socket),
                role == "owner",
            );
            ExitCode::SUCCESS
        }
        ["list"] => {
            for check in ALL {
                println!("{}", check.name);
            }
            ExitCode::SUCCESS
        }
        _ => usage("vsva-kernel-rig {list | check NAME}"),
    }
}

fn usage(text: &str) -> ExitCode {
    eprintln!("vsva-kernel-rig: {text}");
    ExitCode::from(2)
}
