// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A back-end that is measured, with its front end, its guest and its devices.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use vhost::vhost_user::{
    message::{VhostUserProtocolFeatures, VhostUserSharedMsg},
    VhostUserFrontend,
};
use vhost_user_vsva::wire::{
    AttachPacket, AttachRequest, AttachType, DrainRequest, EventRecord, GenerationPayload, Message,
    MessageType, Payload, PgFault, ResponseCode, SmmuCommand, Submission, ATTACH_FLAG_PRI,
    ATTACH_PACKET_SIZE, ATTACH_UUID, DEVICE_NONE, MESSAGE_SIZE, NUM_RINGS, PAGE_RESPONSE_SIZE,
    PGFAULT_LAST_PAGE, PGFAULT_PASID_VALID, PGFAULT_SIZE, U32, U64,
};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::{
    process::Process,
    ring::{Ring, Shared},
    vhost_user::{error, Connection},
};

/// Descriptors of each ring, as QEMU has it.
pub const RING_SIZE: u16 = 256;
/// The guest's SID of device 0.
const SID: u32 = 8;
/// Longer than anything here.
const DRAIN_MS: u32 = 600_000;
/// Groups of page requests for each PASID.
const GROUPS: u32 = 512;

/// How a back-end is started.
#[derive(Clone)]
pub struct Setup {
    /// The program.
    pub backend: PathBuf,
    /// Its options, besides the socket.
    pub options: Vec<String>,
    /// Where its socket is made.
    pub folder: PathBuf,
    /// Devices, each on a channel of its own.
    pub devices: u32,
    /// They are answered by CMD_PRI_RESP.
    pub pri: bool,
}

/// A back-end and all that it serves.
pub struct Session {
    /// The back-end, if it was started for this.
    started: Option<Process>,
    /// The vhost-user connection.
    pub connection: Connection,
    _shared: Shared,
    portal: Ring,
    events: Ring,
    free: Vec<u16>,
    seq: u64,
    /// A fault channel for each device.
    pub channels: Vec<UnixStream>,
    attach: File,
    pri: bool,
    cookie: u32,
    /// The next submission's.
    pub ticket: u64,
    generation: u64,
    stopped: bool,
}

/// A message that came from the back-end, as far as it matters here.
#[derive(Clone, Copy)]
pub struct Event {
    /// Its type.
    pub kind: u16,
    /// Of SMMU_EVENT.
    pub stag: u16,
}

impl Setup {
    /// One device, and the limits as they are.
    pub fn new(backend: &Path, folder: &Path) -> Self {
        Setup {
            backend: backend.to_owned(),
            options: vec!["--log-level".to_owned(), "warn".to_owned()],
            folder: folder.to_owned(),
            devices: 1,
            pri: false,
        }
    }

    /// With options.
    pub fn with(mut self, options: &[&str]) -> Self {
        self.options
            .extend(options.iter().map(|&text| text.to_owned()));
        self
    }

    /// Starts the program on a socket.
    pub fn spawn(&self, socket: &Path) -> io::Result<Process> {
        // It may be one of a back-end that has been ended.
        let _ = fs::remove_file(socket);
        let mut command = Command::new(&self.backend);
        command.args(&self.options);
        command
            .arg("--socket-path")
            .arg(socket)
            .stdin(Stdio::null());
        let mut process = Process::start(&mut command)?;
        process.wait_until(|| socket.exists())?;
        Ok(process)
    }

    /// Starts the program, and attaches devices.
    pub fn start(&self) -> io::Result<Session> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let socket = self.folder.join(format!("vsva{number}.sock"));
        let started = Some(self.spawn(&socket)?);
        let session = self.connect(&socket)?;
        Ok(Session { started, ..session })
    }

    /// Uses a back-end that runs.
    pub fn connect(&self, socket: &Path) -> io::Result<Session> {
        let protocol = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::SHARED_OBJECT
            | VhostUserProtocolFeatures::DEVICE_STATE
            | VhostUserProtocolFeatures::RESET_DEVICE;
        let mut connection = Connection::new(socket, NUM_RINGS as u64, protocol)?;
        let (shared, portal, events, free) = new_rings()?;
        connection.start(&shared, &[&portal, &events], &[0, 0])?;
        let attach = open_attach(&mut connection)?;
        let mut session = Session {
            started: None,
            connection,
            _shared: shared,
            portal,
            events,
            free,
            seq: 0,
            channels: Vec::new(),
            attach,
            pri: self.pri,
            cookie: 0,
            ticket: 0,
            generation: 0,
            stopped: false,
        };
        session.attach_devices(self.devices)?;
        Ok(session)
    }
}

fn new_rings() -> io::Result<(Shared, Ring, Ring, Vec<u16>)> {
    let shared = Shared::new(NUM_RINGS)?;
    let portal = Ring::new(&shared, 0, RING_SIZE, MESSAGE_SIZE)?;
    let mut events = Ring::new(&shared, 1, RING_SIZE, MESSAGE_SIZE)?;
    let length = u32::try_from(MESSAGE_SIZE).map_err(io::Error::other)?;
    for head in 0..RING_SIZE {
        portal.describe(head, length, false, None);
        events.describe(head, length, true, None);
        events.offer(head);
    }
    portal.want_calls(false);
    Ok((shared, portal, events, (0..RING_SIZE).rev().collect()))
}

fn open_attach(connection: &mut Connection) -> io::Result<File> {
    let shared = VhostUserSharedMsg {
        uuid: uuid::Uuid::from_bytes(ATTACH_UUID),
    };
    connection
        .frontend
        .get_shared_object(&shared)
        .map_err(error)
}

impl Session {
    /// The back-end's process, which was started for this.
    pub fn process(&self) -> io::Result<&Process> {
        let none = || io::Error::other("it was not started here");
        self.started.as_ref().ok_or_else(none)
    }

    fn attach_devices(&mut self, devices: u32) -> io::Result<()> {
        self.channels.clear();
        for device in 0..devices {
            let (ours, theirs) = UnixStream::pair()?;
            let request = AttachRequest {
                vsid: U32::new(SID + device),
                iommufd_dev_id: U32::new(device),
                channel: U32::new(device),
                max_outstanding: U32::ZERO,
            };
            let mut packet = AttachPacket::new(AttachType::Attach, device, &request);
            packet.seq = U32::new(device + 1);
            packet.flags = U32::new(if self.pri { ATTACH_FLAG_PRI } else { 0 });
            let socket = UnixStream::from(OwnedFd::from(self.attach.try_clone()?));
            socket
                .send_with_fd(packet.as_bytes(), theirs.as_raw_fd())
                .map_err(error)?;
            let mut reply = [0; ATTACH_PACKET_SIZE];
            self.attach.read_exact(&mut reply)?;
            let short = |_| io::Error::from(io::ErrorKind::UnexpectedEof);
            let reply = AttachPacket::read_from_bytes(&reply[..]).map_err(short)?;
            if reply.payload::<U32>().get() != 0 {
                return Err(io::Error::other(format!("not attached: {reply:?}")));
            }
            self.channels.push(ours);
        }
        Ok(())
    }

    // Messages.

    /// Puts a message on the portal ring, and kicks not.
    pub fn post<P: Payload>(
        &mut self,
        kind: MessageType,
        device: u32,
        payload: &P,
    ) -> io::Result<()> {
        let head = loop {
            while let Some(head) = self.portal.reap() {
                self.free.push(head);
            }
            if let Some(head) = self.free.pop() {
                break head;
            }
            self.portal.want_calls(true);
            let head = self.portal.wait()?;
            self.free.push(head);
            self.portal.want_calls(false);
        };
        self.seq += 1;
        let mut message = Message::new(kind, device, payload);
        message.seq = U64::new(self.seq);
        self.portal.write(head, message.as_bytes());
        self.portal.offer(head);
        Ok(())
    }

    /// Kicks.
    pub fn kick(&mut self) -> io::Result<()> {
        self.portal.kick()
    }

    /// Waits until all messages have taken effect.
    pub fn completed(&mut self) -> io::Result<()> {
        self.portal.want_calls(true);
        while self.free.len() < usize::from(RING_SIZE) {
            let head = self.portal.wait()?;
            self.free.push(head);
        }
        self.portal.want_calls(false);
        Ok(())
    }

    /// Waits for the next message of the back-end.
    pub fn event(&mut self) -> io::Result<Event> {
        let head = self.events.wait()?;
        let mut message = Message::new_zeroed();
        self.events.read(head, message.as_mut_bytes());
        self.events.offer(head);
        let record = EventRecord::decode(&message.payload());
        Ok(Event {
            kind: message.kind.get(),
            stag: record.map_or(0, |record| record.stag),
        })
    }

    fn expect(&mut self, kind: MessageType) -> io::Result<Event> {
        let event = self.event()?;
        if event.kind != kind as u16 {
            let text = format!("{:#x} instead of {kind:?}", event.kind);
            return Err(io::Error::other(text));
        }
        Ok(event)
    }

    // Faults.

    /// The next fault.
    fn record(&mut self, device: u32) -> PgFault {
        self.cookie = self.cookie.wrapping_add(1);
        let mut record = PgFault::new_zeroed();
        record.flags = U32::new(PGFAULT_LAST_PAGE | PGFAULT_PASID_VALID);
        record.dev_id = U32::new(device);
        record.pasid = U32::new(self.cookie / GROUPS);
        record.grpid = U32::new(self.cookie % GROUPS);
        record.cookie = U32::new(self.cookie);
        record
    }

    /// Raises faults, by one write.
    pub fn raise(&mut self, device: u32, count: usize) -> io::Result<()> {
        let mut bytes = [0; 64 * PGFAULT_SIZE];
        for place in bytes.chunks_exact_mut(PGFAULT_SIZE).take(count) {
            place.copy_from_slice(self.record(device).as_bytes());
        }
        self.channels[device as usize].write_all(&bytes[..count * PGFAULT_SIZE])
    }

    /// The guest's answer to the fault of an event, or to the fault that was raised last.
    fn answer(&mut self, device: u32, event: Event) -> io::Result<()> {
        let sid = SID + device;
        let code = ResponseCode::Success;
        let command = match self.pri {
            true => SmmuCommand::PriResp {
                sid,
                ssid: Some(self.cookie / GROUPS),
                group: self.cookie % GROUPS,
                code,
            },
            false => SmmuCommand::Resume {
                sid,
                stag: event.stag,
                code,
            },
        };
        self.post(MessageType::SmmuCmd, DEVICE_NONE, &command.encode())
    }

    /// One fault, from the device to the guest and back.
    pub fn relay(&mut self, device: u32) -> io::Result<()> {
        self.raise(device, 1)?;
        let event = self.event()?;
        self.answer(device, event)?;
        self.kick()?;
        let mut response = [0; PAGE_RESPONSE_SIZE];
        loop {
            match self.channels[device as usize].read_exact(&mut response) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
                result => return result,
            }
        }
    }

    /// Looks for events and responses again and again from now on, instead of waiting for them.
    pub fn poll_busily(&mut self) -> io::Result<()> {
        self.events.want_calls(false);
        self.events.busy = true;
        self.channels
            .iter()
            .try_for_each(|channel| channel.set_nonblocking(true))
    }

    /// So many faults at once, answered at once.
    pub fn burst(&mut self, count: usize) -> io::Result<()> {
        self.raise(0, count)?;
        for _ in 0..count {
            let event = self.event()?;
            self.answer(0, event)?;
        }
        self.kick()?;
        let mut responses = [0; 64 * PAGE_RESPONSE_SIZE];
        self.channels[0].read_exact(&mut responses[..count * PAGE_RESPONSE_SIZE])
    }

    /// Raises faults that nobody answers.
    pub fn leave(&mut self, count: usize) -> io::Result<()> {
        for _ in 0..count.div_ceil(64) {
            self.raise(0, 64)?;
            for _ in 0..64 {
                self.event()?;
            }
        }
        Ok(())
    }

    /// Puts commands on the portal ring that have no effect, and waits until they are completed.
    pub fn commands(&mut self, count: usize) -> io::Result<()> {
        // CMD_TLBI_NSNH_ALL
        let command: [u8; 16] = [0x30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for _ in 0..count {
            self.post(MessageType::SmmuCmd, DEVICE_NONE, &command)?;
        }
        self.kick()?;
        self.completed()
    }

    // Drains.

    /// Begins to drain.
    pub fn drain(&mut self) -> io::Result<()> {
        self.generation += 1;
        let request = DrainRequest {
            generation: U64::new(self.generation),
            timeout_ms: U32::new(DRAIN_MS),
            reserved: U32::ZERO,
        };
        self.post(MessageType::Drain, DEVICE_NONE, &request)?;
        self.kick()
    }

    /// A trapped write.
    pub fn submit(&mut self) -> io::Result<()> {
        let mut submission = Submission::new_zeroed();
        submission.size = U32::new(8);
        submission.ticket = U64::new(self.ticket);
        self.ticket += 1;
        self.post(MessageType::Submit, 0, &submission)
    }

    /// The device has come to rest.
    pub fn quiesced(&mut self) -> io::Result<()> {
        let generation = U64::new(self.generation);
        let payload = GenerationPayload { generation };
        self.post(MessageType::DeviceQuiesced, 0, &payload)?;
        self.kick()
    }

    /// Waits for DRAINED.
    pub fn drained(&mut self) -> io::Result<()> {
        self.expect(MessageType::Drained).map(|_| ())
    }

    /// Drains with so many submissions, up to DRAINED.
    pub fn drain_with(&mut self, submissions: u32) -> io::Result<()> {
        self.drain()?;
        for _ in 0..submissions {
            self.submit()?;
        }
        self.quiesced()?;
        self.expect(MessageType::Drained)?;
        self.completed()
    }

    /// A drain in which the last fault's answer ends it. `last` is told when the answer is sent,
    /// and when DRAINED has been seen.
    pub fn drain_by_answer(&mut self, mut last: impl FnMut(bool)) -> io::Result<()> {
        self.raise(0, 1)?;
        let event = self.event()?;
        self.drain()?;
        self.quiesced()?;
        self.completed()?;
        self.answer(0, event)?;
        last(false);
        self.kick()?;
        self.expect(MessageType::Drained)?;
        last(true);
        let mut response = [0; PAGE_RESPONSE_SIZE];
        self.channels[0].read_exact(&mut response)?;
        self.release(0)
    }

    /// Ends a drain, and waits until all is replayed.
    pub fn release(&mut self, submissions: u32) -> io::Result<()> {
        let generation = U64::new(self.generation);
        let payload = GenerationPayload { generation };
        self.post(MessageType::Release, DEVICE_NONE, &payload)?;
        self.kick()?;
        for _ in 0..submissions {
            self.expect(MessageType::Replay)?;
        }
        self.expect(MessageType::Released).map(|_| ())
    }

    // The state.

    /// Stops the rings.
    pub fn stop(&mut self) -> io::Result<()> {
        self.connection.stop(NUM_RINGS)?;
        self.stopped = true;
        Ok(())
    }

    /// Makes the back-end as it was, with a device, and its rings stopped.
    pub fn renew(&mut self) -> io::Result<()> {
        let devices = u32::try_from(self.channels.len()).map_err(io::Error::other)?;
        if !self.stopped {
            self.stop()?;
        }
        self.connection.reset()?;
        self.attach = open_attach(&mut self.connection)?;
        (self.seq, self.ticket) = (0, 0);
        self.attach_devices(devices)
    }
}
