// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The system calls that have no safe wrapper in the crates in use. All `unsafe` code is here.

#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    sync::atomic::{AtomicI32, AtomicU64, Ordering},
};

use vm_memory::VolatileSlice;

use rustix::{
    io::{fcntl_setfd, FdFlags},
    thread::Pid,
};

/// Takes over a descriptor that the process was started with, before any other is opened.
///
/// It works once for a descriptor, as a second owner would close what is not its own; and for two,
/// of which no other can have been opened meanwhile.
pub(crate) fn adopt_fd(fd: RawFd) -> io::Result<OwnedFd> {
    // The vhost-user socket and the status socket.
    static ADOPTED: [AtomicI32; 2] = [AtomicI32::new(-1), AtomicI32::new(-1)];
    if fd <= libc::STDERR_FILENO {
        return Err(io::Error::other("it is a standard stream"));
    }
    let mut free = false;
    for slot in &ADOPTED {
        match slot.compare_exchange(-1, fd, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => free = true,
            Err(other) if other != fd => continue,
            Err(_) => {}
        }
        break;
    }
    if !free {
        return Err(io::Error::other("it has been taken over already"));
    }
    // SAFETY: fcntl(F_GETFD) touches no memory and tells whether the number is an open descriptor.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and passed to the process for this purpose; nothing else has been opened
    // yet.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// The descriptor of an eventfd, which has no safe way to lend it.
#[cfg(feature = "frontend")]
pub fn event_fd(event: &vmm_sys_util::eventfd::EventFd) -> BorrowedFd<'_> {
    // SAFETY: the eventfd keeps its descriptor open as long as the borrow lasts.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Closes a descriptor whose last owner has given it up without closing it.
///
/// `vhost-user-backend` 0.24 does that to the consumer of each exit event, one for each connection.
pub(crate) fn close_leaked(fd: RawFd) {
    // SAFETY: the library turned the consumer into a raw number that it only put into an epoll set,
    // which is gone: nobody else closes or uses it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

/// read(2) into memory that another process can write to.
pub(crate) fn read_shared(fd: impl AsFd, memory: &VolatileSlice<'_>) -> io::Result<usize> {
    let guard = memory.ptr_guard_mut();
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the slice is mapped, and writable, as long as it is borrowed, and nobody has a
    // reference to what is in it; the descriptor is open as long as it is borrowed.
    let count = unsafe { libc::read(fd, guard.as_ptr().cast(), memory.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// recv(2) without waiting into memory that another process can write to.
pub(crate) fn recv_shared(fd: impl AsFd, memory: &VolatileSlice<'_>) -> io::Result<usize> {
    let guard = memory.ptr_guard_mut();
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: as for `read_shared`.
    let count = unsafe { libc::recv(fd, guard.as_ptr().cast(), memory.len(), libc::MSG_DONTWAIT) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// The words of memory that another process can write to; none if they are not aligned.
pub(crate) fn words<'a>(memory: &VolatileSlice<'a>) -> &'a [AtomicU64] {
    let guard = memory.ptr_guard_mut();
    let first = guard.as_ptr().cast::<AtomicU64>();
    if !first.is_aligned() {
        return &[];
    }
    // SAFETY: the slice is mapped, and writable, for 'a; it is aligned, and has as many whole
    // words. Whoever else writes there is allowed for by atomic access, and nobody has another kind
    // of reference to what is in it.
    unsafe { std::slice::from_raw_parts(first, memory.len() / size_of::<AtomicU64>()) }
}

/// A new epoll instance.
pub fn epoll_create() -> io::Result<OwnedFd> {
    let fd = epoll::create(true)?;
    // SAFETY: epoll_create1 has just made it and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The signal that interrupts a system call, and does nothing else.
fn interruption() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn do_nothing(_signal: libc::c_int) {}

/// Prepares the process for [`interrupt`].
pub(crate) fn make_interruptible() -> io::Result<()> {
    let handler: extern "C" fn(libc::c_int) = do_nothing;
    // SAFETY: the action is complete: no flags, so that calls end with EINTR, an empty mask, and a
    // handler that touches nothing; all pointers are to locals.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(interruption(), &raw const action, ptr::null_mut())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets the system call that a thread of this process is waiting in fail with EINTR.
pub(crate) fn interrupt(thread: Pid) {
    // SAFETY: the call touches no memory; the signal has a handler that does nothing, and a thread
    // that has ended meanwhile is no thread of the process any more.
    unsafe {
        libc::syscall(
            libc::SYS_tgkill,
            libc::getpid(),
            thread.as_raw_nonzero().get(),
            interruption(),
        );
    }
}

/// Stops the process, until it gets SIGCONT.
#[cfg(all(feature = "failpoints", not(test)))]
pub(crate) fn stop() {
    // SAFETY: the call touches no memory.
    unsafe {
        libc::raise(libc::SIGSTOP);
    }
}

/// Blocks signals in the calling thread and those it starts later.
pub(crate) fn block_signals(signals: &[libc::c_int]) -> io::Result<()> {
    blocked(signals).map(drop)
}

/// Whether whoever has started the process wants a signal to be ignored, as nohup(1) does.
pub(crate) fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: without a new action sigaction(2) only writes to the local, which is plain data.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let known = libc::sigaction(signal, ptr::null(), &raw mut action) == 0;
        known && action.sa_sigaction == libc::SIG_IGN
    }
}

fn blocked(signals: &[libc::c_int]) -> io::Result<libc::sigset_t> {
    // SAFETY: sigemptyset initialises the set before it is read; all pointers are to a local.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            if libc::sigaddset(&raw mut set, *signal) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let error = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        Ok(set)
    }
}

/// A descriptor that becomes readable when one of the signals arrives. They are blocked in the
/// calling thread and those it starts later, so call it first of all.
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Blocks `signals` and makes the descriptor.
    pub fn new(signals: &[libc::c_int]) -> io::Result<Self> {
        let set = blocked(signals)?;
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: signalfd only reads the set, a local.
        let fd = unsafe { libc::signalfd(-1, &raw const set, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd has just made it and nobody else knows it.
        Ok(SignalFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
