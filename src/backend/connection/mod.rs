// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One connection of a front end. Device, faults and queue outlive it.
//!
//! The `vhost` crate reads and writes the requests; what they mean for rings and memory is here. Two
//! threads: one serves requests ([`control`]), one the rings ([`worker`]). Whatever ends one of them
//! ends the connection ([`link`]).

mod call;
mod control;
mod link;
mod memory;
mod ring;
mod rings;
mod worker;

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use rustix::net::{recv, RecvFlags};
use vhost::vhost_user::{message::FrontendReq, BackendReqHandler, Error as VhostUserError};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

pub use self::rings::{Delivered, Rings};
use self::{control::Control, link::Link, ring::Ring, worker::Worker};
use super::{wake::Wake, Backend};
use crate::{error::Error, sys, wire::EVENT_RING, wire::PORTAL_RING};

/// The largest ring.
const MAX_QUEUE_SIZE: u16 = 1024;
/// Type, flags and size of a request.
const REQUEST_HEADER: usize = 12;

/// A connection that is being served.
pub struct Connection {
    link: Arc<Link>,
    /// Set when nothing of it is left.
    pub done: Wake,
    thread: JoinHandle<()>,
}

/// What remains to be done when the thread for requests ends, in whatever way.
struct Ending {
    backend: Arc<Backend>,
    link: Arc<Link>,
    worker: Arc<Worker>,
    worker_thread: Option<JoinHandle<()>>,
    done: Wake,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.link.end();
        // Events are kept for the next connection from now on.
        self.backend.device.forget_rings();
        self.worker.stop();
        // It waits for nothing that lasts, see `guard`.
        if self.worker_thread.take().is_some_and(|t| t.join().is_err()) {
            log::error!("the ring worker has panicked");
        }
        // What is in it is the front end's, which may have gone.
        self.backend.device.share(None);
        self.link.transfer.cancel();
        self.done.set();
    }
}

impl Connection {
    /// Serves a front end that has connected.
    pub fn start(backend: &Arc<Backend>, stream: UnixStream) -> Result<Self, Error> {
        let failed = Error::system;
        // The library expects each part of a request in one piece.
        sys::read_whole(stream.as_fd()).map_err(failed("Cannot set up the connection"))?;
        let requests = stream
            .try_clone()
            .map_err(failed("Cannot set up the connection"))?;
        let done = Wake::new().map_err(failed("Cannot create an eventfd"))?;
        let finished = done
            .try_clone()
            .map_err(failed("Cannot create an eventfd"))?;
        // Both ends count the messages of a new connection's rings from 1.
        backend.device.step(|core, _| core.rings_reset());
        let link = Arc::new(Link::new(stream));
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let new_ring = || {
            Ring::new(MAX_QUEUE_SIZE)
                .map(Arc::new)
                .map_err(io::Error::other)
                .map_err(failed("Cannot make a ring"))
        };
        let ring = [new_ring()?, new_ring()?];
        let rings = Rings::new(ring.clone(), memory.clone(), link.clone());
        let worker = Worker::new(
            backend.device.clone(),
            link.clone(),
            rings.clone(),
            ring.clone(),
        );
        let worker = Arc::new(worker.map_err(failed("Cannot set up epoll"))?);
        let control = Control::new(
            backend.clone(),
            link.clone(),
            worker.clone(),
            rings.clone(),
            ring,
            memory,
        );
        backend.device.start_rings(rings);
        let mut ending = Ending {
            backend: backend.clone(),
            link: link.clone(),
            worker: worker.clone(),
            worker_thread: None,
            done: finished,
        };
        ending.worker_thread = Some(worker.spawn().map_err(failed("Cannot start a thread"))?);
        let thread = thread::Builder::new()
            .name("vsva".to_owned())
            .spawn(move || {
                let ending = ending;
                let control = Arc::new(Mutex::new(control));
                serve(&ending.link, requests, &control);
            })
            .map_err(failed("Cannot start a thread"))?;
        Ok(Connection { link, done, thread })
    }

    /// Ends it, whatever it is doing.
    pub fn end(&self) {
        self.link.end();
    }

    /// Takes its thread back, once it is done.
    pub fn join(self) {
        if self.thread.join().is_err() {
            log::error!("a connection's thread has panicked");
        }
    }
}

/// Serves requests until the connection ends.
fn serve(link: &Link, requests: UnixStream, control: &Arc<Mutex<Control>>) {
    let mut handler = BackendReqHandler::from_stream(requests, control.clone());
    while !link.is_over() {
        let request = next_request(link.stream());
        match handler.handle_request() {
            Ok(()) => {}
            Err(_) if control::take_refused(control) => {}
            Err(VhostUserError::Disconnected | VhostUserError::SocketBroken(_)) => break,
            Err(e) => {
                // The library's words about a handler's error add nothing to it.
                let reason = match &e {
                    VhostUserError::ReqHandlerError(e) => e.to_string(),
                    e => e.to_string(),
                };
                return link.fail(&format!("request {request} failed: {reason}"));
            }
        }
    }
    if link.end() {
        log::info!("the front end has disconnected");
    }
}

/// The name of the request that comes next. Waits for it, or for the end of the connection.
fn next_request(stream: &UnixStream) -> String {
    let mut header = [0; REQUEST_HEADER];
    match recv(stream, &mut header, RecvFlags::PEEK | RecvFlags::WAITALL) {
        Ok((_, REQUEST_HEADER)) => {
            let [a, b, c, d, ..] = header;
            let number = u32::from_le_bytes([a, b, c, d]);
            FrontendReq::try_from(number)
                .map_or_else(|()| number.to_string(), |known| format!("{known:?}"))
        }
        _ => "of less than a header".to_owned(),
    }
}

const _: () = assert!(PORTAL_RING == 0 && EVENT_RING == 1);
