// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process that owns the devices ends. On the fault file itself nothing shows.

use std::{
    io::{BufRead, BufReader, Read},
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{getpid, pidfd_open, PidfdFlags};
use vhost_user_vsva::{
    frontend::{Companions, Event},
    wire::LostReason,
};

use super::{
    common::{raise, serve_one},
    Platform,
};
use crate::{
    backend::Backend,
    session::Session,
    tally,
    wait::{readable, until, LIMIT},
};

/// Faults that the owner leaves.
const LEFT: u64 = 3;

/// What the other process does: it owns a device with faults outstanding, says so, and lives until
/// its input ends.
pub fn run_owner(platform: Platform, socket: &Path, with_pidfd: bool) {
    let mut hardware = platform.hardware(1);
    let mut session = Session::over(UnixStream::connect(socket).expect("connection"));
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).expect("pidfd");
    let companions = Companions {
        owner: with_pidfd.then_some(pidfd.as_fd()),
        ..Companions::default()
    };
    session.attach_with(&*hardware, 0, companions);
    for number in 1..LEFT {
        raise(&mut *hardware, number);
        session.event();
    }
    if with_pidfd {
        // The last one is left unread.
        session.attach.hold(0).expect("HOLD");
        raise(&mut *hardware, LEFT);
        assert!(readable(hardware.fault_fd(), LIMIT));
    } else {
        raise(&mut *hardware, LEFT);
        session.event();
    }
    println!("ready");
    let mut input = Vec::new();
    std::io::stdin()
        .read_to_end(&mut input)
        .expect("standard input");
    // The kernel closes everything, as it does for a VMM that crashes.
    std::process::exit(0);
}

fn start_owner(backend: &Backend, with_pidfd: bool) -> Child {
    let mut owner = Command::new("/proc/self/exe")
        .arg(if with_pidfd {
            "owner"
        } else {
            "owner-without-pidfd"
        })
        .arg(backend.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("owner");
    let output = owner.stdout.as_mut().expect("piped");
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).expect("owner");
    assert_eq!(line, "ready\n");
    owner
}

fn check_noticed(platform: Platform, end: impl FnOnce(&mut Child)) {
    let backend = Backend::start();
    let mut owner = start_owner(&backend, true);

    end(&mut owner);
    owner.wait().expect("wait");

    tally::aborted(LEFT);
    let mut session = Session::with(backend);
    let reason = LostReason::Owner as u32;
    assert_eq!(session.message(), Event::DeviceLost { device: 0, reason });
    assert_eq!(session.config().outstanding.get(), 0);
    serve_next_owner(platform, &mut session);
}

/// Another owner takes the place of the first.
fn serve_next_owner(platform: Platform, session: &mut Session) {
    let mut hardware = platform.hardware(1);
    session.attach(&*hardware, 0);
    serve_one(&mut *hardware, session, 0);
}

pub fn test_owner_killed_with_faults_outstanding_is_noticed(platform: Platform) {
    check_noticed(platform, |owner| owner.kill().expect("kill"));
}

pub fn test_owner_exits_with_faults_outstanding_is_noticed(platform: Platform) {
    check_noticed(platform, |owner| drop(owner.stdin.take()));
}

/// A mock device lives as long as its iommufd context, which the fault file keeps: its faults are
/// not aborted.
pub fn test_owner_gone_unnoticed_makes_answers_refused() {
    let backend = Backend::start();
    let mut owner = start_owner(&backend, false);
    owner.kill().expect("kill");
    owner.wait().expect("wait");
    tally::aborted(LEFT);

    let mut session = Session::with(backend);
    let outstanding = u64::from(session.config().outstanding.get());
    assert_eq!(outstanding, LEFT, "nobody can know");
    session.attach.detach(0).expect("DETACH");

    let config = until("the refusals", || {
        let config = session.config();
        (config.outstanding.get() == 0).then_some(config)
    });
    assert_eq!(
        (config.answers_aborted.get(), config.faults_answered.get()),
        (LEFT, 0)
    );
    serve_next_owner(Platform::Nested, &mut session);
}
