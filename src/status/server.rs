// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The status socket: a thread of its own, which reads the board and takes no lock of the service.
//!
//! Whatever its clients do costs bounded memory and time: there are 16 at most, of which the oldest
//! has to go for the next one; each has 5 s in whole, a request of 4 KiB at most, and no more than
//! 200 are accepted in a second. There is one trace in a second, as that is more work.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixListener},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
    net::{accept_with, SocketFlags},
};

use super::{
    board::Board,
    clients::{Client, Next},
    document::Document,
    http::{answer, refusal, Wanted},
    metrics::{self, Source},
};
use crate::trace::Tracer;

/// Most clients at a time.
const CLIENTS: usize = 16;
/// From one client to the next.
const PAUSE: Duration = Duration::from_millis(5);
/// After the system had no descriptor for one.
const REST: Duration = Duration::from_millis(100);

/// From one trace to the next.
const TRACE_PAUSE: Duration = Duration::from_secs(1);

const UNAVAILABLE: &str = "503 Service Unavailable";
const TOO_MANY: &str = "429 Too Many Requests";

/// Serves `listener` until the process ends.
pub fn start(listener: UnixListener, board: Arc<Board>, now_ns: fn() -> u64) -> io::Result<()> {
    let server = Server {
        listener: listener.into(),
        board,
        now_ns,
        clients: Vec::with_capacity(CLIENTS),
        next_accept: Instant::now(),
        next_trace: Instant::now(),
    };
    thread::Builder::new()
        .name("vsva-status".to_owned())
        .spawn(move || server.run())
        .map(drop)
}

struct Server {
    listener: OwnedFd,
    board: Arc<Board>,
    now_ns: fn() -> u64,
    /// The oldest first.
    clients: Vec<Client>,
    next_accept: Instant,
    next_trace: Instant,
}

impl Server {
    fn run(mut self) {
        loop {
            let now = Instant::now();
            self.clients.retain(|client| client.deadline() > now);
            let accepts = now >= self.next_accept;
            match self.wait(now, accepts) {
                Ok((ready, arrived)) => {
                    self.serve(&ready);
                    if arrived {
                        self.accept();
                    }
                }
                Err(Errno::INTR) => {}
                Err(e) => {
                    log::error!("status socket: {e}");
                    thread::sleep(REST);
                }
            }
        }
    }

    /// Which clients are ready, and whether there is a new one.
    fn wait(&self, now: Instant, accepts: bool) -> Result<(Vec<bool>, bool), Errno> {
        let mut fds: Vec<_> = self
            .clients
            .iter()
            .map(|client| PollFd::new(client, client.interest()))
            .collect();
        if accepts {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        let pause = (!accepts).then_some(self.next_accept);
        let first = self.clients.iter().map(Client::deadline);
        let timeout = first.chain(pause).min().map(|until| {
            // A whole millisecond more, so that it does not wake up too early again and again.
            let left = until.saturating_duration_since(now) + Duration::from_millis(1);
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        poll(&mut fds, timeout.as_ref())?;
        let mut ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let arrived = accepts && ready.pop() == Some(true);
        Ok((ready, arrived))
    }

    fn serve(&mut self, ready: &[bool]) {
        let mut clients = std::mem::take(&mut self.clients);
        let mut ready = ready.iter();
        clients.retain_mut(|client| {
            let mut next = match ready.next() {
                Some(true) => client.go_on(),
                _ => Next::Wait,
            };
            if let Next::Answer(wanted) = next {
                next = client.tell(self.answer(wanted));
            }
            next != Next::End
        });
        self.clients = clients;
    }

    fn accept(&mut self) {
        let now = Instant::now();
        self.next_accept = now + PAUSE;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match accept_with(&self.listener, flags) {
            Ok(socket) => {
                if self.clients.len() == CLIENTS {
                    self.clients.remove(0);
                }
                self.clients.push(Client::new(socket, now));
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(e) => {
                log::warn!("status socket: cannot accept a client: {e}");
                self.next_accept = now + REST;
            }
        }
    }

    fn trace(&mut self) -> Vec<u8> {
        let now = Instant::now();
        if now < self.next_trace {
            return refusal(TOO_MANY);
        }
        self.next_trace = now + TRACE_PAUSE;
        // Traces of several hosts fit together by the time of the day.
        let now_ns = (self.now_ns)();
        let day_ns = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(now_ns, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX));
        let mut tracer = Tracer::new("vhost-user-vsva", std::process::id(), day_ns);
        for mut moment in self.board.recent.moments() {
            let ago_ns = now_ns.saturating_sub(moment.t_ns);
            moment.t_ns = day_ns.saturating_sub(ago_ns);
            tracer.add(&moment);
        }
        answer("200 OK", "application/octet-stream", &tracer.take())
    }

    fn answer(&mut self, wanted: Wanted) -> Vec<u8> {
        if wanted == Wanted::Trace {
            return self.trace();
        }
        let Some(document) = Document::new(&self.board, (self.now_ns)()) else {
            return refusal(UNAVAILABLE);
        };
        match wanted {
            Wanted::Trace => refusal(UNAVAILABLE),
            Wanted::Status => match serde_json::to_vec(&document) {
                Ok(body) => answer("200 OK", "application/json", &body),
                Err(_) => refusal(UNAVAILABLE),
            },
            Wanted::Metrics => {
                let source = Source {
                    vm: None,
                    document: Some(document),
                };
                match metrics::text(&[source]) {
                    Ok(body) => answer("200 OK", prometheus::TEXT_FORMAT, body.as_bytes()),
                    Err(_) => refusal(UNAVAILABLE),
                }
            }
        }
    }
}
