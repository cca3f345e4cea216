// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::{
    os::unix::net::{UnixListener, UnixStream},
    process::Command,
    sync::atomic::Ordering,
};

use rustix::{
    event::{eventfd, EventfdFlags},
    net::getsockname,
    process::{pidfd_open, Pid, PidfdFlags},
};

use super::*;
use crate::{
    backend::{channels::fault_file::FaultFile, events::Events, wait::wake::Wake},
    core::Limits,
    wire::{AttachReply, LostReason, ATTACH_TEXT_SIZE},
};

fn shell() -> Shell {
    Shell::new(Limits::default(), Events::for_tests(), Wake::new().unwrap()).unwrap()
}

fn desc(device: u32) -> Attachment {
    Attachment {
        device,
        vsid: 8 + device,
        dev_id: device,
        channel: 0,
        max_outstanding: 0,
        pri: false,
    }
}

fn with_faults(fd: impl Into<OwnedFd>) -> AttachFds {
    AttachFds {
        faults: Some(fd.into()),
        ..AttachFds::default()
    }
}

fn pair() -> (OwnedFd, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours.into(), theirs)
}

#[test]
fn test_attach_to_a_channel_that_is_just_being_lost_is_refused() {
    let shell = shell();
    let (fd, _peer) = pair();
    shell.attach(&desc(0), with_faults(fd)).unwrap();
    let channel = shell.channels.open().by_number[&0].clone();
    // As another thread has done when it is about to forget the channel.
    channel.faults.at_rest(|| {
        channel.open.store(false, Ordering::Relaxed);
        shell
            .core
            .step(|core, now| core.channel_lost(0, LostReason::Io, now));
    });

    let joined = shell.attach(&desc(1), AttachFds::default());

    assert!(matches!(joined, Err(AttachFailure::NoDescriptor(0))));
    assert!(!shell.core.step(|core, _| core.channel_in_use(0)));
    let (fd, _peer) = pair();
    shell.attach(&desc(0), with_faults(fd)).unwrap();
    assert!(shell.channels.open().by_number[&0].is_open());
    shell.attach(&desc(1), AttachFds::default()).unwrap();
    // The thread goes on: it must not forget the new channel.
    shell.channels.remove(&channel);
    assert!(shell.channels.open().by_number.contains_key(&0));
}

#[test]
fn test_connection_to_the_own_socket_is_no_fault_channel() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vsva.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let other = UnixListener::bind(folder.path().join("other.sock")).unwrap();
    let shell = shell();
    shell.channels.listens_at(getsockname(&listener).unwrap());
    let own = UnixStream::connect(&path).unwrap();
    let foreign = UnixStream::connect(folder.path().join("other.sock")).unwrap();

    let refused = shell.attach(&desc(0), with_faults(own)).unwrap_err();

    assert_eq!(refused.to_string(), "fault fd: it is the vhost-user socket");
    shell.attach(&desc(0), with_faults(foreign)).unwrap();
    drop(other);
}

#[test]
fn test_owner_that_is_no_pidfd_is_refused() {
    // There are systems without it, on which the tests run as well.
    let child = Command::new("sleep").arg("60").spawn().ok();
    let eventfd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let (socket, _peer) = pair();
    let open = |pid| pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let mut owners = vec![open(rustix::process::getpid())];
    owners.extend(child.iter().map(|child| open(Pid::from_child(child))));

    let refused = [eventfd, socket].map(|fd| check_pidfd(fd.as_fd()).is_err());
    let accepted = owners.iter().all(|fd| check_pidfd(fd.as_fd()).is_ok());

    if let Some(mut child) = child {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(refused, [true; 2]);
    assert!(accepted);
}

#[test]
fn test_text_of_every_refusal_fits_into_a_reply() {
    const MAX: u32 = u32::MAX;
    // Longer than any number of a device, which is below 256.
    const DEVICE: u32 = 65536;
    let refused = [
        AttachError::DeviceNumber {
            device: MAX,
            max_devices: 256,
        },
        AttachError::AlreadyAttached { device: DEVICE },
        AttachError::SidTaken {
            vsid: MAX,
            device: DEVICE,
        },
        AttachError::TooManyChannels { channel: MAX },
        AttachError::DevIdTaken {
            dev_id: MAX,
            device: DEVICE,
        },
    ];
    for error in &refused {
        // A new variant belongs into the list above.
        match error {
            AttachError::DeviceNumber { .. }
            | AttachError::AlreadyAttached { .. }
            | AttachError::SidTaken { .. }
            | AttachError::TooManyChannels { .. }
            | AttachError::DevIdTaken { .. } => {}
        }
    }
    let own_texts = [
        ChannelKind::of(std::fs::File::open("/dev/null").unwrap().as_fd()).unwrap_err(),
        ChannelKind::of(std::os::unix::net::UnixDatagram::pair().unwrap().0.as_fd()).unwrap_err(),
        FaultFile::new(Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap()))
            .err()
            .unwrap(),
        io::Error::new(io::ErrorKind::InvalidInput, "it is the vhost-user socket"),
    ];
    let mut failures: Vec<_> = refused.map(AttachFailure::Refused).into();
    failures.extend(own_texts.map(|e| AttachFailure::Descriptor(FdRole::Faults, e)));
    failures.extend((1..=200).map(|errno| {
        AttachFailure::Descriptor(FdRole::Faults, io::Error::from_raw_os_error(errno))
    }));
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let veventq = crate::backend::channels::veventq::EventQueue::new(null())
        .err()
        .unwrap();
    failures.push(AttachFailure::Descriptor(FdRole::Veventq, veventq));
    let owner = check_pidfd(null().as_fd()).unwrap_err();
    failures.push(AttachFailure::Descriptor(FdRole::Owner, owner));
    failures.extend([
        AttachFailure::NoDescriptor(MAX),
        AttachFailure::ExtraDescriptor(MAX),
        AttachFailure::NotNew(MAX),
        AttachFailure::SecondVeventq(MAX),
        AttachFailure::NotRecoverable(MAX),
    ]);
    for failure in &failures {
        match failure {
            AttachFailure::Refused(_)
            | AttachFailure::Descriptor(..)
            | AttachFailure::NoDescriptor(_)
            | AttachFailure::ExtraDescriptor(_)
            | AttachFailure::NotNew(_)
            | AttachFailure::SecondVeventq(_)
            | AttachFailure::NotRecoverable(_) => {}
        }
    }
    let holds = [
        HoldError::NotAttached { device: MAX },
        HoldError::NotKernel { device: DEVICE },
        HoldError::AlreadyHeld { device: DEVICE },
        HoldError::NotHeld { device: DEVICE },
    ];
    for hold in &holds {
        match hold {
            HoldError::NotAttached { .. }
            | HoldError::NotKernel { .. }
            | HoldError::AlreadyHeld { .. }
            | HoldError::NotHeld { .. } => {}
        }
    }
    let mut texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    texts.extend(holds.iter().map(ToString::to_string));
    texts.push(DetachError { device: MAX }.to_string());

    for text in texts {
        assert!(text.len() <= ATTACH_TEXT_SIZE, "{text}");
        assert_eq!(AttachReply::new(1, &text).text(), text);
    }
}
