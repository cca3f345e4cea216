// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A bounded queue of text, and the thread that writes it.

use std::{
    io::{self, Write},
    sync::{Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use crate::lock::{lock, wait, wait_for};

/// Bytes kept until they are written; messages beyond are counted and dropped.
const CAPACITY: usize = 256 * 1024;
/// Before another attempt, if somebody has made stderr non-blocking.
const REST: Duration = Duration::from_millis(20);

/// Text that waits to be written.
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    text: Vec<u8>,
    dropped: u64,
    writing: bool,
    started: bool,
}

impl Queue {
    /// An empty queue, without thread.
    pub const fn new() -> Self {
        Queue {
            state: Mutex::new(State {
                text: Vec::new(),
                dropped: 0,
                writing: false,
                started: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Adds a message; it never waits for what is being written.
    pub fn push(&self, message: &[u8]) {
        let mut state = self.lock();
        if state.text.len() + message.len() > CAPACITY {
            state.dropped += 1;
            return;
        }
        state.text.extend_from_slice(message);
        drop(state);
        self.changed.notify_all();
    }

    /// Starts the thread, unless it has been started.
    pub fn start(&'static self, builder: impl FnOnce() -> thread::Builder) -> io::Result<()> {
        let mut state = self.lock();
        if !state.started {
            builder().spawn(|| loop {
                self.write_next(&mut io::stderr());
            })?;
            state.started = true;
        }
        Ok(())
    }

    /// Waits until nothing is left, or for the deadline.
    pub fn wait_written(&self, deadline: Instant) {
        let mut state = self.lock();
        while state.writing || !state.text.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = wait_for(&self.changed, state, left);
        }
    }

    /// Waits for text and writes it, and how much is missing after it.
    fn write_next(&self, out: &mut impl Write) {
        let (mut text, dropped) = {
            let mut state = self.lock();
            while state.text.is_empty() {
                state = wait(&self.changed, state);
            }
            state.writing = true;
            let text = std::mem::take(&mut state.text);
            (text, std::mem::take(&mut state.dropped))
        };
        if dropped > 0 {
            let notice = format!("vhost-user-vsva: {dropped} messages found no room here\n");
            text.extend_from_slice(notice.as_bytes());
        }
        write_all(out, &text);
        self.lock().writing = false;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn write_all(out: &mut impl Write, mut text: &[u8]) {
    while !text.is_empty() {
        match out.write(text) {
            Ok(count) if count > 0 => text = &text[count..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => thread::sleep(REST),
            // Nobody reads it any more.
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_message_beyond_capacity_is_counted_not_kept() {
        let queue = Queue::new();
        let line = [b'x'; 1024];
        for _ in 0..CAPACITY / line.len() + 3 {
            queue.push(&line);
        }
        let mut written = Vec::new();
        queue.write_next(&mut written);

        assert_eq!(written[..CAPACITY], vec![b'x'; CAPACITY]);
        let notice = "vhost-user-vsva: 3 messages found no room here\n";
        assert_eq!(&written[CAPACITY..], notice.as_bytes());
        queue.wait_written(Instant::now());
    }

    #[test]
    fn test_message_while_one_is_written_is_kept() {
        struct Slow<'a>(&'a Queue, Vec<u8>);
        impl Write for Slow<'_> {
            fn write(&mut self, text: &[u8]) -> io::Result<usize> {
                if self.1.is_empty() {
                    self.0.push(b"second\n");
                }
                self.1.extend_from_slice(text);
                Ok(text.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let queue = Queue::new();
        queue.push(b"first\n");
        let mut slow = Slow(&queue, Vec::new());
        queue.write_next(&mut slow);
        queue.write_next(&mut slow);
        assert_eq!(slow.1, b"first\nsecond\n");
    }
}
