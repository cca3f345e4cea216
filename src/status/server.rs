// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The status socket: a thread of its own, which reads the board and takes no lock of the service.
//!
//! Whatever its clients do costs bounded memory and time: there are 64 at most; when
//! there are more, the oldest that has asked nothing has to go, after 40 ms. Each has 5 s in whole
//! and a request of 4 KiB at most. The thread works 200 times in a second at most: each time 16 are
//! accepted, which is little work, and one is answered. There is one trace in a second, as that is
//! more work.

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
const CLIENTS: usize = 64;
/// From one answer to the next.
const PAUSE: Duration = Duration::from_millis(5);
/// Clients that are accepted between two answers.
const ACCEPTS: usize = 16;
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
        next_turn: Instant::now(),
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
    next_turn: Instant,
    next_accept: Instant,
    next_trace: Instant,
}

impl Server {
    fn run(mut self) {
        loop {
            // Whatever they have to say waits until then.
            thread::sleep(self.next_turn.saturating_duration_since(Instant::now()));
            let now = Instant::now();
            self.clients.retain(|client| client.deadline() > now);
            let accepts = now >= self.next_accept;
            match self.wait(now, accepts) {
                Ok((ready, arrived)) => {
                    self.serve(&ready);
                    if arrived {
                        self.accept();
                    }
                    self.answer_one();
                    self.next_turn = Instant::now() + PAUSE;
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
        let asked = self.clients.iter().any(|client| client.wanted().is_some());
        let first = self.clients.iter().map(Client::deadline);
        let first = first.chain(pause).chain(asked.then_some(now));
        let timeout = first.min().map(|until| {
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
        let mut ready = ready.iter();
        self.clients.retain_mut(|client| match ready.next() {
            Some(true) => client.go_on() != Next::End,
            _ => true,
        });
    }

    /// The one that waits longest.
    fn answer_one(&mut self) {
        let asked = self.clients.iter().map(Client::wanted).enumerate();
        let Some((at, wanted)) = asked.filter_map(|(at, wanted)| Some((at, wanted?))).next() else {
            return;
        };
        let answer = self.answer(wanted);
        if self.clients[at].tell(answer) == Next::End {
            self.clients.remove(at);
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let now = Instant::now();
            let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
            if poll(&mut fds, Some(&Timespec::default())) != Ok(1) || !self.make_room(now) {
                return;
            }
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match accept_with(&self.listener, flags) {
                Ok(socket) => {
                    let mut client = Client::new(socket, now);
                    if client.go_on() == Next::Wait {
                        self.clients.push(client);
                    }
                }
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
                Err(e) => {
                    log::warn!("status socket: cannot accept a client: {e}");
                    self.next_accept = now + REST;
                    return;
                }
            }
        }
    }

    /// Whether there is room for another client. Who has asked stays until it is answered.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.clients.len() < CLIENTS {
            return true;
        }
        let old = |client: &Client| client.may_go(now);
        let position = |of: &dyn Fn(&Client) -> bool| self.clients.iter().position(of);
        let at = position(&|client| client.is_idle() && old(client)).or_else(|| position(&old));
        at.map(|at| self.clients.remove(at)).is_some()
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
