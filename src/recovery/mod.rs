// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What outlives the process (docs/protocol.md, section 11): the recovery area, in memory that the
//! front end keeps.
//!
//! The area holds the core's faults and groups as they are after a whole number of steps. A step
//! that changes more than one word writes what was there before into the *undo* list first, and one
//! store completes it; a reader puts back what an incomplete step has changed. So the order of the
//! stores within a step does not matter, and there is nothing in between to be thought of.
//!
//! Records go from a fault channel straight into its *inbox*, a part of the area, where they stay
//! until the step that takes them.
//!
//! While it lives the process goes by its own tables, not by the area: there it reads only what a
//! word was before it changes it, for the undo list. So whoever else writes there changes nothing
//! but what a later process finds, which believes none of it.

pub mod area;
pub mod error;
pub mod image;
pub mod inbox;
pub mod journal;
pub mod layout;
pub mod owner;
#[cfg(test)]
mod tests;

/// The places at which the process can be made to end, for tests.
pub const POINTS: [&str; 21] = [
    "store",
    "one",
    "step",
    "portal",
    "stepped",
    "read",
    "has read",
    "write",
    "has written",
    "queue read",
    "emitted",
    "taken",
    "request",
    "replying",
    "recover",
    "finish",
    "saving",
    "checking",
    "loading",
    "loaded",
    "reset",
];

/// One of [`POINTS`]; nothing in an ordinary build.
#[cfg(not(any(test, feature = "failpoints")))]
#[inline(always)]
pub fn point(_name: &'static str) {}

#[cfg(any(test, feature = "failpoints"))]
pub use fail::point;

/// Ends the process at the n-th passing of a place.
#[cfg(any(test, feature = "failpoints"))]
pub mod fail {
    #[cfg(not(test))]
    use std::sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        OnceLock,
    };

    /// The environment variable that says where: `name:n`, or `*:n` for any place. `name:n:stop`:
    /// the process is stopped, not killed, and does not count before the front end is through with
    /// the connection.
    #[cfg(not(test))]
    const VARIABLE: &str = "VSVA_FAIL_AT";

    /// Held during a call on a model of a file: as in the kernel, nothing stops the process in the
    /// middle of it.
    pub static CALLS: std::sync::Mutex<()> = std::sync::Mutex::new(());

    #[cfg(not(test))]
    struct Where {
        name: String,
        number: u64,
        stop: bool,
    }

    #[cfg(not(test))]
    impl Where {
        fn told() -> Option<Self> {
            let value = std::env::var(VARIABLE).ok()?;
            let mut parts = value.split(':');
            Some(Self {
                name: parts.next()?.to_owned(),
                number: parts.next()?.parse().ok()?,
                stop: parts.next() == Some("stop"),
            })
        }
    }

    #[cfg(test)]
    thread_local! {
        /// Places that are still passed before the one that panics.
        pub static LEFT: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
    }

    /// Whoever comes here for the n-th time is killed.
    #[cfg(not(test))]
    pub fn point(name: &'static str) {
        static WHERE: OnceLock<Option<Where>> = OnceLock::new();
        static PASSED: AtomicU64 = AtomicU64::new(0);
        static CONNECTED: AtomicBool = AtomicBool::new(false);
        debug_assert!(super::POINTS.contains(&name), "{name}");
        let Some(at) = WHERE.get_or_init(Where::told) else {
            return;
        };
        if at.stop && !CONNECTED.load(Ordering::Relaxed) {
            // The front end has said something over the portal ring.
            CONNECTED.store(name == "taken", Ordering::Relaxed);
            return;
        }
        let here = at.name == "*" || at.name == name;
        if !here || PASSED.fetch_add(1, Ordering::Relaxed) + 1 != at.number {
            return;
        }
        if at.stop {
            let _rest = crate::lock::lock(&CALLS);
            crate::sys::stop();
            return;
        }
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::process::abort();
    }

    /// The same within a test: the thread panics.
    #[cfg(test)]
    pub fn point(_name: &'static str) {
        LEFT.with(|left| match left.get() {
            Some(0) => {
                left.set(None);
                std::panic::panic_any(Killed);
            }
            Some(number) => left.set(Some(number - 1)),
            None => {}
        });
    }

    /// What the thread panics with.
    #[cfg(test)]
    pub struct Killed;
}
