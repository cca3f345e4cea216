// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An end to system calls that a peer can make block.
//!
//! A write to an eventfd blocks while its counter is full, and O_NONBLOCK, which prevents that, is
//! a flag of the open file: who shares the file can clear it at any time. So such a call is made
//! within [`bounded`], and the main thread, which waits for nothing else, interrupts it by a signal
//! when it has lasted from one [`tick`] to the next. While no such call is made nobody ticks.

use std::{
    cell::OnceCell,
    io,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc, Mutex, OnceLock, Weak,
    },
    time::Duration,
};

use rustix::{io::Errno, thread::Pid};

use super::wake::Wake;
use crate::{lock::lock, sys};

/// Time between two ticks.
pub const PERIOD: Duration = Duration::from_millis(100);

/// What a thread is doing.
struct Slot {
    thread: Pid,
    /// Odd within a call; never the same in two calls.
    calls: AtomicU64,
    /// As it was at the last tick.
    seen: AtomicU64,
    /// The call that has been interrupted.
    interrupted: AtomicU64,
}

/// The threads of the process that have made such a call; interrupting is a matter of the process.
static SLOTS: Mutex<Vec<Weak<Slot>>> = Mutex::new(Vec::new());
/// Nobody ticks.
static PARKED: AtomicBool = AtomicBool::new(true);
/// Wakes who ticks.
static WAKE: OnceLock<Wake> = OnceLock::new();

thread_local! {
    static SLOT: OnceCell<Arc<Slot>> = const { OnceCell::new() };
}

/// Prepares for [`tick`]; the flag is set when it is time to begin to tick.
pub fn start() -> io::Result<&'static Wake> {
    sys::make_interruptible()?;
    if WAKE.get().is_none() {
        // Whoever was faster has the same right.
        let _ = WAKE.set(Wake::new()?);
    }
    WAKE.get().ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Makes a call that may block; it fails with EINTR when it has blocked for too long.
pub fn bounded<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    SLOT.with(|slot| {
        let slot = slot.get_or_init(Slot::register);
        let this = slot.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if PARKED.load(Ordering::SeqCst) && PARKED.swap(false, Ordering::SeqCst) {
            if let Some(wake) = WAKE.get() {
                wake.set();
            }
        }
        let result = loop {
            match call() {
                Err(Errno::INTR) if slot.interrupted.load(Ordering::SeqCst) != this => {}
                result => break result,
            }
        };
        slot.calls.fetch_add(1, Ordering::SeqCst);
        result
    })
}

/// Interrupts the calls that were there at the last tick already. Returns whether to go on ticking.
pub fn tick() -> bool {
    let mut slots = lock(&SLOTS);
    slots.retain(|slot| slot.strong_count() > 0);
    let mut active = false;
    for slot in slots.iter().filter_map(Weak::upgrade) {
        let calls = slot.calls.load(Ordering::SeqCst);
        let within = calls % 2 == 1;
        let changed = slot.seen.swap(calls, Ordering::Relaxed) != calls;
        if within && !changed {
            slot.interrupted.store(calls, Ordering::SeqCst);
            sys::interrupt(slot.thread);
        }
        active |= within || changed;
    }
    if !active {
        PARKED.store(true, Ordering::SeqCst);
        // A call that has begun meanwhile may not have seen that.
        active = slots
            .iter()
            .filter_map(Weak::upgrade)
            .any(|slot| slot.calls.load(Ordering::SeqCst) % 2 == 1);
        if active {
            PARKED.store(false, Ordering::SeqCst);
        }
    }
    active
}

impl Slot {
    fn register() -> Arc<Self> {
        let slot = Arc::new(Slot {
            thread: rustix::thread::gettid(),
            calls: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            interrupted: AtomicU64::new(0),
        });
        let mut slots = lock(&SLOTS);
        slots.push(Arc::downgrade(&slot));
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::event::{eventfd, EventfdFlags};

    use super::*;

    #[test]
    fn test_call_that_blocks_is_interrupted_by_ticks() {
        start().unwrap();
        let full = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let writer = thread::spawn(move || {
            bounded(|| rustix::io::write(&full, &1u64.to_ne_bytes())).map_err(|e| e == Errno::INTR)
        });
        // As often as it takes: a signal may come before the call has begun to block.
        while !writer.is_finished() {
            tick();
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(writer.join().unwrap(), Err(true));
    }

    #[test]
    fn test_call_that_does_not_block_has_its_result() {
        start().unwrap();
        let empty = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        assert_eq!(
            bounded(|| rustix::io::write(&empty, &1u64.to_ne_bytes())),
            Ok(8)
        );
    }
}
