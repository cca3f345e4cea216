// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The messages for people, on stderr.
//!
//! Whoever reads stderr may stop to: a full pipe must not hold the thread that has something to
//! say. So messages go into a bounded queue, and a thread of their own writes them. What finds no
//! room is counted, and so is what one place in the program says too often (`limit`): a hostile
//! guest, front end or device can make it repeat itself without end.

mod limit;
mod queue;

use std::{
    io::{self, Write},
    panic, thread,
    time::{Duration, Instant},
};

use env_logger::{Builder, Logger, Target};
use log::{LevelFilter, Log, Metadata, Record};

use self::{
    limit::{Limit, Suppressed, QUIET},
    queue::Queue,
};

/// How long the last messages may take to be written.
const FINISH_LIMIT: Duration = Duration::from_secs(1);

static QUEUE: Queue = Queue::new();

/// Makes `log` use the queue. Nothing is written before [`start`] or [`finish`].
pub fn init(level: LevelFilter) {
    let logger = Builder::new()
        .filter_level(level)
        .parse_default_env()
        .target(Target::Pipe(Box::new(Sender)))
        .build();
    let filter = logger.filter();
    // It fails only if there is a logger already.
    if log::set_boxed_logger(Box::new(Limited::new(logger))).is_ok() {
        log::set_max_level(filter);
    }
    panic::set_hook(Box::new(|info| {
        let name = thread::current().name().unwrap_or("?").to_owned();
        say(&format!("the thread {name} has panicked: {info}"));
        finish();
    }));
}

/// Says something that is not subject to the level.
pub fn say(text: &str) {
    QUEUE.push(format!("vhost-user-vsva: {text}\n").as_bytes());
}

/// Starts the thread that writes, which inherits what confines the caller.
pub fn start() -> io::Result<()> {
    QUEUE.start(|| thread::Builder::new().name("vsva-messages".to_owned()))
}

/// Waits until everything has been written, for a limited time.
pub fn finish() {
    log::logger().flush();
    // Without its thread nothing can be written.
    if start().is_ok() {
        QUEUE.wait_written(Instant::now() + FINISH_LIMIT);
    }
}

/// Puts what the logger has formatted into the queue.
struct Sender;

impl Write for Sender {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        QUEUE.push(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A logger that lets no place in the program repeat itself too often.
struct Limited {
    logger: Logger,
    limit: Limit,
}

impl Limited {
    fn new(logger: Logger) -> Self {
        let limit = Limit::default();
        Limited { logger, limit }
    }

    fn tell_suppressed(&self, now: Instant, quiet: Duration) {
        for Suppressed { count, first } in self.limit.quiet(now, quiet) {
            say(&format!(
                "{count} messages were suppressed, the first: {first}"
            ));
        }
    }
}

impl Log for Limited {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.logger.matches(record) {
            return;
        }
        // Whoever wants to see every step gets it.
        if record.level() <= log::Level::Info {
            let site = (record.file_static().unwrap_or(""), record.line());
            let now = Instant::now();
            let text = || record.args().to_string();
            let Some(suppressed) = self.limit.admit(site, now, text) else {
                return;
            };
            self.tell_suppressed(now, QUIET);
            if suppressed > 0 {
                // In one statement: before Rust 1.89 the text does not outlive it.
                self.logger.log(
                    &Record::builder()
                        .metadata(record.metadata().clone())
                        .module_path(record.module_path())
                        .args(format_args!(
                            "{suppressed} messages like the next one were suppressed"
                        ))
                        .build(),
                );
            }
        }
        self.logger.log(record);
    }

    /// What is left to be told.
    fn flush(&self) {
        self.tell_suppressed(Instant::now(), Duration::ZERO);
    }
}
