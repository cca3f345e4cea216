// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vhost-user requests byte by byte, as the document has them: what no library of a front end would
//! send.

use std::{
    io::{IoSlice, IoSliceMut, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::support::{retry_on_intr, Backend, HANG};

pub const GET_FEATURES: u32 = 1;
pub const SET_FEATURES: u32 = 2;
pub const SET_OWNER: u32 = 3;
pub const SET_MEM_TABLE: u32 = 5;
pub const SET_VRING_NUM: u32 = 8;
pub const SET_VRING_KICK: u32 = 12;
pub const GET_PROTOCOL_FEATURES: u32 = 15;
pub const SET_PROTOCOL_FEATURES: u32 = 16;
pub const GET_QUEUE_NUM: u32 = 17;
pub const SET_VRING_ENABLE: u32 = 18;
pub const GET_CONFIG: u32 = 24;
pub const SET_CONFIG: u32 = 25;
pub const RESET_DEVICE: u32 = 34;
pub const GET_SHARED_OBJECT: u32 = 41;
pub const SET_DEVICE_STATE_FD: u32 = 42;
pub const CHECK_DEVICE_STATE: u32 = 43;

const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// Protocol features of the document.
pub const MQ: u64 = 1 << 0;
pub const REPLY_ACK: u64 = 1 << 3;
pub const CONFIG: u64 = 1 << 9;
pub const PROTOCOL_RESET_DEVICE: u64 = 1 << 13;
pub const SHARED_OBJECT: u64 = 1 << 18;
pub const DEVICE_STATE: u64 = 1 << 19;
pub const ALL_PROTOCOL: u64 =
    MQ | REPLY_ACK | CONFIG | PROTOCOL_RESET_DEVICE | SHARED_OBJECT | DEVICE_STATE;
/// VHOST_USER_F_PROTOCOL_FEATURES and VIRTIO_F_VERSION_1.
pub const FEATURES: u64 = (1 << 30) | (1 << 32);

/// The front end's end of the socket.
pub struct Raw(UnixStream);

/// What the back-end has replied.
#[derive(Debug)]
pub struct Reply {
    pub body: Vec<u8>,
    pub fd: Option<OwnedFd>,
}

impl Reply {
    pub fn number(&self) -> u64 {
        u64::from_le_bytes(self.body[..].try_into().expect("a reply of 8 bytes"))
    }
}

impl Raw {
    pub fn new(backend: &Backend) -> Self {
        Self::over(backend.stream())
    }

    pub fn over(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(HANG)).unwrap();
        Self(stream)
    }

    /// Has acknowledged these protocol features, and the features that are required.
    pub fn negotiated(backend: &Backend, protocol: u64) -> Self {
        Self::negotiated_over(backend.stream(), protocol)
    }

    /// The same, with this connection.
    pub fn negotiated_over(stream: UnixStream, protocol: u64) -> Self {
        let mut raw = Self::over(stream);
        raw.send(SET_OWNER, &[]);
        raw.ask(GET_FEATURES, &[]);
        raw.ask(GET_PROTOCOL_FEATURES, &[]);
        raw.send(SET_PROTOCOL_FEATURES, &protocol.to_le_bytes());
        raw.send(SET_FEATURES, &FEATURES.to_le_bytes());
        raw
    }

    fn write(&mut self, code: u32, flags: u32, body: &[u8], fd: Option<BorrowedFd<'_>>) {
        let size = u32::try_from(body.len()).unwrap();
        self.write_part(code, flags, size, body, fd);
    }

    /// Sends a request of which the rest is to come.
    pub fn send_part(&mut self, code: u32, size: u32, part: &[u8]) {
        self.write_part(code, 0, size, part, None);
    }

    fn write_part(
        &mut self,
        code: u32,
        flags: u32,
        size: u32,
        body: &[u8],
        fd: Option<BorrowedFd<'_>>,
    ) {
        let header = [code, VERSION | flags, size].map(u32::to_le_bytes);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(fd) = &fd {
            control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)));
        }
        let parts = [IoSlice::new(header.as_flattened()), IoSlice::new(body)];
        sendmsg(&self.0, &parts, &mut control, SendFlags::NOSIGNAL).unwrap();
    }

    /// Sends a request that has no reply.
    pub fn send(&mut self, code: u32, body: &[u8]) {
        self.write(code, 0, body, None);
    }

    /// Sends a request that has a reply of its own.
    pub fn ask(&mut self, code: u32, body: &[u8]) -> Reply {
        self.write(code, 0, body, None);
        self.reply(code)
    }

    /// Sends a request that has none, and asks for one: 0 is "done".
    pub fn acknowledged(&mut self, code: u32, body: &[u8]) -> u64 {
        self.write(code, NEED_REPLY, body, None);
        self.reply(code).number()
    }

    /// The same, with a descriptor.
    pub fn acknowledged_with(&mut self, code: u32, body: &[u8], fd: BorrowedFd<'_>) -> u64 {
        self.write(code, NEED_REPLY, body, Some(fd));
        self.reply(code).number()
    }

    /// Sends a request with a descriptor that has a reply of its own.
    pub fn ask_with(&mut self, code: u32, body: &[u8], fd: BorrowedFd<'_>) -> Reply {
        self.write(code, 0, body, Some(fd));
        self.reply(code)
    }

    /// Sends a request with a descriptor that is not answered by "done" and ends the connection.
    pub fn assert_refused_with(mut self, code: u32, body: &[u8], fd: BorrowedFd<'_>) {
        self.write(code, NEED_REPLY, body, Some(fd));
        let mut replies = Vec::new();
        match retry_on_intr(|| self.0.read_to_end(&mut replies)) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(e) => panic!("expected the connection to be closed, not {e}"),
        }
        let answer = replies.get(12..20);
        assert_ne!(answer, Some(&[0; 8][..]), "it has been acknowledged");
    }

    /// Bytes that the back-end has not read yet.
    pub fn unread(&self) -> i32 {
        let mut count = 0;
        // SAFETY: TIOCOUTQ writes one int.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::TIOCOUTQ,
                std::ptr::from_mut(&mut count),
            )
        };
        assert_eq!(result, 0);
        count
    }

    fn reply(&mut self, code: u32) -> Reply {
        let mut header = [0; 12];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut header)];
        let flags = RecvFlags::WAITALL | RecvFlags::CMSG_CLOEXEC;
        let got = retry_on_intr(|| Ok(recvmsg(&self.0, parts, &mut control, flags)?)).unwrap();
        assert_eq!(got.bytes, header.len(), "the connection has ended");
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let word = |index: usize| u32::from_le_bytes(header[index..index + 4].try_into().unwrap());
        assert_eq!([word(0), word(4)], [code, VERSION | REPLY]);
        let mut body = vec![0; word(8) as usize];
        self.0.read_exact(&mut body).unwrap();
        Reply { body, fd }
    }

    /// Waits until the back-end has closed the connection.
    pub fn assert_ended(mut self) {
        let mut byte = [0];
        match retry_on_intr(|| self.0.read(&mut byte)) {
            Ok(0) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
            other => panic!("expected the connection to be closed, not {other:?}"),
        }
    }

    /// Sends a request that is not answered by "done" and ends the connection.
    pub fn assert_refused(mut self, code: u32, body: &[u8]) {
        self.write(code, NEED_REPLY, body, None);
        let mut bytes = Vec::new();
        match self.0.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset),
        }
        let answer: Vec<u8> = bytes.into_iter().skip(12).collect();
        assert!(
            answer.is_empty() || answer != [0; 8],
            "{code} is answered by 0"
        );
    }

    /// The connection goes on.
    pub fn assert_served(&mut self) {
        self.ask(GET_FEATURES, &[]);
    }
}

/// A body of 32-bit numbers.
pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
