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
//! While it lives the process only writes the area. What it has written it knows itself; so whoever
//! else writes there changes nothing but what a later process finds, which believes none of it.

pub mod area;
pub mod error;
pub mod image;
pub mod inbox;
pub mod journal;
pub mod layout;
#[cfg(test)]
mod tests;

/// A place at which the process can be made to end, for tests; nothing in an ordinary build.
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
        atomic::{AtomicU64, Ordering},
        OnceLock,
    };

    /// The environment variable that says where: `name:n`, or `*:n` for any place.
    #[cfg(not(test))]
    const VARIABLE: &str = "VSVA_FAIL_AT";

    #[cfg(test)]
    thread_local! {
        /// Places that are still passed before the one that panics.
        pub static LEFT: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
    }

    /// Whoever comes here for the n-th time is killed.
    #[cfg(not(test))]
    pub fn point(name: &'static str) {
        static WHERE: OnceLock<Option<(String, u64)>> = OnceLock::new();
        static PASSED: AtomicU64 = AtomicU64::new(0);
        let at = WHERE.get_or_init(|| {
            let value = std::env::var(VARIABLE).ok()?;
            let (name, number) = value.split_once(':')?;
            Some((name.to_owned(), number.parse().ok()?))
        });
        let Some((wanted, number)) = at else { return };
        if (wanted == "*" || wanted == name)
            && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *number
        {
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
            std::process::abort();
        }
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
