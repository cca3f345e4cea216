// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A client of the status socket: what it has said, and what it is still to be told.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::PollFlags,
    io::Errno,
    net::{recv, send, RecvFlags, SendFlags},
};

use super::http::{parse, Parsed, Wanted, REQUEST_MAX};

/// From the connection to the last byte of the answer.
const LIMIT: Duration = Duration::from_secs(5);

/// From the connection until it has to make room for others, if they need it.
const GRACE: Duration = Duration::from_millis(40);

/// What is to be done about a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for it, or answer it if it is known what it wants.
    Wait,
    /// Hang up.
    End,
}

pub struct Client {
    socket: OwnedFd,
    deadline: Instant,
    request: Vec<u8>,
    wanted: Option<Wanted>,
    answer: Vec<u8>,
    sent: usize,
}

impl Client {
    pub fn new(socket: OwnedFd, now: Instant) -> Self {
        Client {
            socket,
            deadline: now + LIMIT,
            request: Vec::new(),
            wanted: None,
            answer: Vec::new(),
            sent: 0,
        }
    }

    /// Whether it has had the time to ask.
    pub fn may_go(&self, now: Instant) -> bool {
        self.wanted.is_none() && now + LIMIT >= self.deadline + GRACE
    }

    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What it waits for.
    pub fn wanted(&self) -> Option<Wanted> {
        self.wanted
    }

    /// Whether it has said nothing yet.
    pub fn is_idle(&self) -> bool {
        self.request.is_empty()
    }

    pub fn interest(&self) -> PollFlags {
        match self.wanted {
            Some(_) => PollFlags::empty(),
            None if self.waiting() => PollFlags::OUT,
            None => PollFlags::IN,
        }
    }

    /// Whether it has not taken all of its answer.
    fn waiting(&self) -> bool {
        self.answer.len() > self.sent
    }

    /// Goes on, after its socket has become ready.
    pub fn go_on(&mut self) -> Next {
        match self.wanted {
            Some(_) => Next::Wait,
            None if self.waiting() => self.write(),
            None => self.read(),
        }
    }

    /// Gives it its answer.
    pub fn tell(&mut self, answer: Vec<u8>) -> Next {
        self.wanted = None;
        self.answer = answer;
        self.write()
    }

    fn read(&mut self) -> Next {
        let mut bytes = [0; 1024];
        let room = (REQUEST_MAX - self.request.len()).min(bytes.len());
        match recv(&self.socket, &mut bytes[..room], RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => return Next::Wait,
            Ok((_, count)) if count > 0 => {
                self.request.extend_from_slice(&bytes[..count]);
            }
            _ => return Next::End,
        }
        match parse(&self.request) {
            Parsed::Partial => Next::Wait,
            Parsed::Request(wanted) => {
                self.wanted = Some(wanted);
                Next::Wait
            }
            Parsed::Refused(status) => {
                self.answer = super::http::refusal(status);
                self.write()
            }
        }
    }

    fn write(&mut self) -> Next {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match send(&self.socket, &self.answer[self.sent..], flags) {
            Ok(count) => self.sent += count,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return Next::End,
        }
        if self.waiting() {
            Next::Wait
        } else {
            Next::End
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
