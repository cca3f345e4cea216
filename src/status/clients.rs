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

/// What is to be done about a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for it.
    Wait,
    /// Answer it.
    Answer(Wanted),
    /// Hang up.
    End,
}

pub struct Client {
    socket: OwnedFd,
    deadline: Instant,
    request: Vec<u8>,
    answer: Vec<u8>,
    sent: usize,
}

impl Client {
    pub fn new(socket: OwnedFd, now: Instant) -> Self {
        Client {
            socket,
            deadline: now + LIMIT,
            request: Vec::new(),
            answer: Vec::new(),
            sent: 0,
        }
    }

    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    pub fn interest(&self) -> PollFlags {
        if self.waiting() {
            PollFlags::OUT
        } else {
            PollFlags::IN
        }
    }

    /// Whether it has not taken all of its answer.
    fn waiting(&self) -> bool {
        self.answer.len() > self.sent
    }

    /// Goes on, after its socket has become ready.
    pub fn go_on(&mut self) -> Next {
        if self.waiting() {
            self.write()
        } else {
            self.read()
        }
    }

    /// Gives it its answer.
    pub fn tell(&mut self, answer: Vec<u8>) -> Next {
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
            Parsed::Request(wanted) => Next::Answer(wanted),
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
