// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A model of the kernel's fault file (src/backend/channels/model_file.rs): it gives the lowest
//! cookie that is free, takes an answer once, says EINVAL to one that it does not wait for, and
//! aborts the faults of a device by itself when the page table of the device is replaced.

use std::{
    collections::{BTreeMap, VecDeque},
    io::IoSliceMut,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
};

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
    net::{
        recv, recvmsg, send, socketpair, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage,
        RecvFlags, SendFlags, SocketFlags, SocketType,
    },
};
use vhost_user_vsva::wire::{PageResponse, PgFault, ResponseCode, PAGE_RESPONSE_SIZE};
use zerocopy::{FromBytes, IntoBytes};

/// The file, which the front end keeps.
pub struct KernelFile {
    fd: Arc<OwnedFd>,
    kernel: Arc<Mutex<Kernel>>,
}

/// A group that has not been answered.
struct Group {
    /// What the test calls it.
    name: u32,
    records: Vec<PgFault>,
}

struct Kernel {
    device: Arc<OwnedFd>,
    fd: Arc<OwnedFd>,
    /// Nobody has read these.
    queue: VecDeque<Group>,
    /// By cookie.
    waiting: BTreeMap<u32, Group>,
    answered: Vec<(u32, ResponseCode)>,
}

impl KernelFile {
    pub fn new() -> Self {
        let (device, fd) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let (device, fd) = (Arc::new(device), Arc::new(fd));
        let kernel = Arc::new(Mutex::new(Kernel {
            device: device.clone(),
            fd: fd.clone(),
            queue: VecDeque::new(),
            waiting: BTreeMap::new(),
            answered: Vec::new(),
        }));
        let server = Arc::downgrade(&kernel);
        thread::spawn(move || serve(&device, &server));
        Self { fd, kernel }
    }

    /// A group of faults, which the test calls `name`.
    pub fn raise(&self, name: u32, records: &[PgFault]) {
        let mut kernel = lock(&self.kernel);
        kernel.queue.push_back(Group {
            name,
            records: records.to_vec(),
        });
        if kernel.queue.len() == 1 {
            kernel.ring();
        }
    }

    /// The page table of a device is replaced: what it waits for is aborted, and what nobody has
    /// read is gone. Nobody reads meanwhile.
    pub fn abort(&self, dev_id: u32) {
        let mut kernel = lock(&self.kernel);
        kernel.take_back();
        let others = |group: &Group| group.records[0].dev_id.get() != dev_id;
        kernel.queue.retain(others);
        kernel.waiting.retain(|_, group| others(group));
        kernel.ring();
    }

    /// What has been answered since the last time.
    pub fn take_answers(&self) -> Vec<(u32, ResponseCode)> {
        std::mem::take(&mut lock(&self.kernel).answered)
    }
}

impl AsFd for KernelFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn lock(kernel: &Mutex<Kernel>) -> std::sync::MutexGuard<'_, Kernel> {
    kernel.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one back-end after the other.
fn serve(device: &OwnedFd, kernel: &Weak<Mutex<Kernel>>) {
    let mut requests: Option<OwnedFd> = None;
    let limit = Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    while let Some(kernel) = kernel.upgrade() {
        if let Some(fd) = &requests {
            if !take_requests(fd, &kernel) {
                requests = None;
                continue;
            }
        }
        if let Some(next) = next_back_end(device) {
            // First what the one before has written.
            if let Some(before) = requests.replace(next) {
                take_requests(&before, &kernel);
            }
            // What it has asked for, and not got, was not read.
            let mut kernel = lock(&kernel);
            kernel.take_back();
            kernel.ring();
            continue;
        }
        drop(kernel);
        let fds = [Some(device.as_fd()), requests.as_ref().map(AsFd::as_fd)];
        let mut fds: Vec<_> = fds
            .into_iter()
            .flatten()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let _ = poll(&mut fds, Some(&limit));
    }
}

/// Returns whether the back-end is still there.
fn take_requests(fd: &OwnedFd, kernel: &Mutex<Kernel>) -> bool {
    let mut packet = [0; 4096];
    loop {
        match recv(fd, &mut packet, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return false,
            Ok((count, _)) => {
                let mut kernel = lock(kernel);
                let result = if count == 1 {
                    kernel.read()
                } else {
                    kernel.answer(&packet[..count])
                };
                let _ = send(fd, &result.to_le_bytes(), SendFlags::NOSIGNAL);
            }
            Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
}

fn next_back_end(device: &OwnedFd) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    recvmsg(
        device,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        flags,
    )
    .ok()?;
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    fds.into_iter().next()
}

impl Kernel {
    /// Makes the file readable if there are faults.
    fn ring(&self) {
        if !self.queue.is_empty() {
            send(&self.device, &[0], SendFlags::NOSIGNAL).unwrap();
        }
    }

    /// Makes the file not readable. What has been given and not received goes back to the queue.
    fn take_back(&mut self) {
        let mut packet = [0; 4096];
        while let Ok((count @ 1.., _)) = recv(&self.fd, &mut packet, RecvFlags::DONTWAIT) {
            if let Ok((first, _)) = PgFault::read_from_prefix(&packet[..count]) {
                if let Some(group) = self.waiting.remove(&first.cookie.get()) {
                    self.queue.push_front(group);
                }
            }
        }
    }

    /// As iommufd_fault_fops_read(), of one group: it gets its cookie now.
    fn read(&mut self) -> i64 {
        self.take_back();
        let Some(mut group) = self.queue.pop_front() else {
            return 0;
        };
        let cookie = (1..).find(|cookie| !self.waiting.contains_key(cookie));
        let cookie = cookie.unwrap();
        for record in &mut group.records {
            record.cookie.set(cookie);
        }
        send(&self.device, group.records.as_bytes(), SendFlags::NOSIGNAL).unwrap();
        self.ring();
        let bytes = group.records.as_bytes().len();
        self.waiting.insert(cookie, group);
        i64::try_from(bytes).unwrap()
    }

    /// As iommufd_fault_fops_write(): it stops before the first that it does not take.
    fn answer(&mut self, bytes: &[u8]) -> i64 {
        let answers = <[PageResponse]>::ref_from_bytes(bytes).unwrap();
        let mut taken = 0;
        for answer in answers {
            let Some(group) = self.waiting.remove(&answer.cookie.get()) else {
                break;
            };
            let code = match answer.code.get() {
                0 => ResponseCode::Success,
                _ => ResponseCode::Invalid,
            };
            self.answered.push((group.name, code));
            taken += 1;
        }
        if taken == 0 {
            return -i64::from(Errno::INVAL.raw_os_error());
        }
        i64::try_from(taken * PAGE_RESPONSE_SIZE).unwrap()
    }
}
