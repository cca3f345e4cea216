// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What every thread of a connection can do to end it.

use std::{
    fmt::Display,
    sync::{
        atomic::{AtomicBool, Ordering},
        Mutex,
    },
};

use vhost_user_backend::ShutdownHandle;

use crate::{backend::state::transfer::Transfer, lock::lock};

/// The way to end a connection, and what is under way on its behalf.
#[derive(Default)]
pub struct Link {
    shutdown: Mutex<Option<ShutdownHandle>>,
    over: AtomicBool,
    request: Mutex<Option<&'static str>>,
    /// The one state transfer that there may be.
    pub transfer: Transfer,
}

impl Link {
    /// How the library ends the connection, known once it serves it.
    pub fn set_shutdown(&self, shutdown: ShutdownHandle) {
        *lock(&self.shutdown) = Some(shutdown);
        if self.is_over() {
            self.hang_up();
        }
    }

    /// Notes which request of the front end has come this far.
    pub fn request(&self, name: &'static str) {
        *lock(&self.request) = Some(name);
    }

    /// The last request that has been noted.
    pub fn last_request(&self) -> &'static str {
        lock(&self.request).unwrap_or("no request")
    }

    /// Ends the connection, and says why unless it has ended already.
    pub fn fail(&self, why: &dyn Display) {
        if self.end() {
            log::error!("{why}; closing the connection");
        }
    }

    /// Ends the connection: nothing more of it is looked at, and no thread of it waits for the
    /// front end any more. Returns whether it was still there.
    pub fn end(&self) -> bool {
        let first = !self.over.swap(true, Ordering::AcqRel);
        self.hang_up();
        self.transfer.stop();
        first
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn hang_up(&self) {
        if let Some(shutdown) = &*lock(&self.shutdown) {
            shutdown.shutdown();
        }
    }
}

/// Ends the connection when it is dropped: with the thread that it belongs to, for whatever reason.
pub struct EndsConnection(pub std::sync::Arc<Link>);

impl Drop for EndsConnection {
    fn drop(&mut self) {
        self.0.fail(&"the thread that serves the rings has ended");
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, sync::Arc, thread};

    use super::*;

    #[test]
    fn test_thread_that_panics_ends_its_connection() {
        thread_local!(static ENDS: RefCell<Option<EndsConnection>> = const { RefCell::new(None) });
        let link = Arc::new(Link::default());
        let ends = EndsConnection(link.clone());
        let thread = thread::spawn(move || {
            ENDS.with(|slot| *slot.borrow_mut() = Some(ends));
            panic!("on purpose");
        });
        thread.join().unwrap_err();
        assert!(link.is_over());
    }

    #[test]
    fn test_connection_ends_once() {
        let link = Link::default();
        assert!(link.end());
        assert!(!link.end());
        assert!(link.is_over());
    }
}
