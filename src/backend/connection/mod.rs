// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One connection of a front end, served by the vhost-user library. Device, faults and queue
//! outlive it.
//!
//! Whatever ends a thread of it ends the connection ([`Link`]), and the end waits for nothing that
//! a peer can hold for long.

mod adapter;
mod memory;

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    sync::{
        mpsc::{sync_channel, Receiver},
        Arc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use vhost::vhost_user::Error as VhostUserError;
use vhost_user_backend::VhostUserDaemon;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;

use self::adapter::{Adapter, HELLO};
use super::{
    instance::Backend, link::Link, process::listener::Socket, rings::Memory, shell::PolledPortal,
    wait::wake::Wake,
};
use crate::error::Error;

/// The worker has nothing else to do at first.
const HELLO_LIMIT: Duration = Duration::from_secs(5);

type Daemon = VhostUserDaemon<Arc<Adapter>>;

/// A connection that is being served.
pub struct Connection {
    link: Arc<Link>,
    /// Readable when nothing of it is left.
    pub done: Wake,
    thread: JoinHandle<()>,
}

/// What remains to be done when a connection ends, in whatever way.
struct Ending {
    backend: Arc<Backend>,
    link: Arc<Link>,
    daemon: Option<Daemon>,
    done: Wake,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.link.end();
        // Events are kept for the next connection from now on.
        self.backend.shell.forget_rings();
        self.backend.shell.forget_portal();
        // Ends the worker, so nothing of this connection runs when the next one starts.
        drop(self.daemon.take());
        // What is in it is the front end's, which may have gone; unless it is to be recovered.
        self.backend.shell.core.disconnected();
        self.link.transfer.cancel();
        self.done.set();
    }
}

impl Connection {
    /// Accepts the connection that is waiting.
    pub fn start(backend: &Arc<Backend>, socket: &mut Socket) -> Result<Self, Error> {
        let done = Wake::new().map_err(Error::system("Cannot create an eventfd"))?;
        let link = Arc::new(Link::default());
        let mut ending = Ending {
            backend: backend.clone(),
            link: link.clone(),
            daemon: None,
            done: done
                .try_clone()
                .map_err(Error::system("Cannot create an eventfd"))?,
        };
        let (daemon, started) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("vsva-wait".to_owned())
            .spawn(move || {
                // Nothing comes if it could not be started.
                ending.daemon = started.recv().ok();
                let result = ending.daemon.as_mut().map(Daemon::wait);
                report(&ending.link, result.unwrap_or(Ok(())));
            })
            .map_err(Error::system("Cannot start a thread"))?;
        let connection = Connection { link, done, thread };
        match serve(backend, &connection.link, socket) {
            Ok(served) => {
                // It is waited for above.
                let _ = daemon.send(served);
                Ok(connection)
            }
            Err(e) => {
                drop(daemon);
                connection.link.end();
                connection.join();
                Err(e)
            }
        }
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

fn serve(backend: &Arc<Backend>, link: &Arc<Link>, socket: &mut Socket) -> Result<Daemon, Error> {
    socket.room_for_a_connection()?;
    // Both ends count the messages of a new connection's rings from 1.
    backend.shell.core.step(|core, _| core.rings_reset());
    let (hello, greeted) = sync_channel(1);
    let adapter = Adapter::new(backend.clone(), link.clone(), hello)
        .map_err(Error::system("Cannot create an eventfd"))?;
    let memory = Memory::new(GuestMemoryMmap::new());
    let adapter = Arc::new(adapter);
    let polled: Arc<dyn PolledPortal> = adapter.clone();
    backend.shell.poll_portal_of(Arc::downgrade(&polled));
    let mut daemon = Daemon::new("vsva".to_owned(), adapter.clone(), memory)?;
    for worker in daemon.get_epoll_handlers() {
        adapter.set_worker_epoll(worker.as_raw_fd());
    }
    say_hello(&daemon, &greeted).map_err(Error::system("Cannot start the ring worker"))?;
    daemon.start(&mut socket.listener)?;
    let shutdown = daemon.shutdown_handle().ok_or_else(|| {
        Error::system("Cannot serve the connection")(io::ErrorKind::NotConnected.into())
    })?;
    link.set_shutdown(shutdown);
    Ok(daemon)
}

/// Lets the worker know which connection it serves.
fn say_hello(daemon: &Daemon, greeted: &Receiver<()>) -> io::Result<()> {
    let wake = Wake::new()?;
    wake.set();
    let fd = wake.as_fd().as_raw_fd();
    let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
    for worker in daemon.get_epoll_handlers() {
        worker.register_listener(fd, events, u64::from(HELLO))?;
        greeted
            .recv_timeout(HELLO_LIMIT)
            .map_err(|_| io::ErrorKind::TimedOut)?;
        worker.unregister_listener(fd, events, u64::from(HELLO))?;
    }
    Ok(())
}

fn report(link: &Link, result: Result<(), vhost_user_backend::Error>) {
    use vhost_user_backend::Error::HandleRequest;
    match result {
        // Said already, or wanted.
        _ if link.is_over() => {}
        Ok(()) | Err(HandleRequest(VhostUserError::Disconnected)) => {
            log::info!("the front end has disconnected");
        }
        Err(e) => {
            let request = link.last_request();
            log::error!("the connection has ended after {request}: {e}");
        }
    }
}
