// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What every thread of a connection can do to end it.

use std::{
    fmt::Display,
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::backend::transfer::Transfer;

/// The connection's socket and what is under way on its behalf.
pub struct Link {
    stream: UnixStream,
    over: AtomicBool,
    /// The one state transfer that there may be.
    pub transfer: Transfer,
}

impl Link {
    /// A connection that nothing has gone wrong with.
    pub fn new(stream: UnixStream) -> Self {
        Link {
            stream,
            over: AtomicBool::new(false),
            transfer: Transfer::default(),
        }
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Ends the connection, and says why unless it has ended already.
    pub fn fail(&self, why: &dyn Display) {
        if self.end() {
            log::error!("{why}; closing the connection");
        }
    }

    /// Ends the connection: nothing more of it is looked at, and no thread of it waits for the front
    /// end any more. Returns whether it was still there.
    pub fn end(&self) -> bool {
        let first = !self.over.swap(true, Ordering::AcqRel);
        // It fails if the front end has been faster.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.transfer.stop();
        first
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}
