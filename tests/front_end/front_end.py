# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""
A front end written from docs/protocol.md and the vhost-user specification, and from nothing else:
that it works is the proof that the document says enough. It shares no code with the back-end.

Its rings take it that the interpreter's stores are seen in their order, as they are on x86.
"""

import fcntl
import mmap
import os
import select
import socket
import struct
import time

LIMIT = 30

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL = 12, 13
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
GET_CONFIG, RESET_DEVICE, GET_SHARED_OBJECT = 24, 34, 41
SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE = 42, 43
VERSION, REPLY, NEED_REPLY = 1, 1 << 2, 1 << 3

# MIGRATION_BLOCKING, PROTOCOL_FEATURES, VERSION_1
FEATURES = 1 << 0 | 1 << 30 | 1 << 32
# MQ, REPLY_ACK, CONFIG, RESET_DEVICE, SHARED_OBJECT, DEVICE_STATE
PROTOCOL_FEATURES = 1 << 0 | 1 << 3 | 1 << 9 | 1 << 13 | 1 << 18 | 1 << 19
ATTACH_CHANNEL = bytes.fromhex("8d3b7b2e41f64c7e9b0a767376610001")

PORTAL, EVENTS = 0, 1
RING_SIZE = 64
MESSAGE = 64
ALL = 0xFFFF_FFFF
SMMU_CMD, SUBMIT, DEVICE_QUIESCED, DRAIN, RELEASE = range(1, 6)
SMMU_EVENT, REPLAY, DRAINED, _, RELEASED = range(0x101, 0x106)
ATTACH = 1
PHASES = "RUNNING", "DRAINING", "DRAINED", "FAILED", "LOADED", "RELEASING"


class Broken(Exception):
    """The back-end does not do what the document says."""


def deadline_left(deadline, what):
    left = deadline - time.monotonic()
    if left <= 0:
        raise Broken(f"not within {LIMIT} s: {what}")
    return left


class Ring:
    """The driver's side of a split virtqueue with a buffer of 64 bytes for each descriptor."""

    def __init__(self, memory, address, at, writable):
        self.memory = memory
        # Where the parts are in the memory; each of them is aligned as virtio wants it.
        self.descriptors, self.available, self.used = at, at + 0x1000, at + 0x2000
        self.buffers = at + 0x3000
        self.address = address
        self.kick, self.call = os.eventfd(0), os.eventfd(0, os.EFD_NONBLOCK)
        self.next_available = self.next_used = 0
        for index in range(RING_SIZE):
            buffer = address + self.buffers + MESSAGE * index
            flags = 2 if writable else 0
            at = self.descriptors + 16 * index
            struct.pack_into("<QIHH", memory, at, buffer, MESSAGE, flags, 0)
        self.free = list(range(RING_SIZE))

    def offer(self, index):
        slot = self.available + 4 + 2 * (self.next_available % RING_SIZE)
        struct.pack_into("<H", self.memory, slot, index)
        self.next_available = (self.next_available + 1) & 0xFFFF
        struct.pack_into("<H", self.memory, self.available + 2, self.next_available)
        os.eventfd_write(self.kick, 1)

    def take_used(self):
        """The next buffer that has come back and how much is in it, or None."""
        (index,) = struct.unpack_from("<H", self.memory, self.used + 2)
        if index == self.next_used:
            return None
        slot = self.used + 4 + 8 * (self.next_used % RING_SIZE)
        self.next_used = (self.next_used + 1) & 0xFFFF
        return struct.unpack_from("<II", self.memory, slot)

    def wait_used(self, what):
        deadline = time.monotonic() + LIMIT
        while (used := self.take_used()) is None:
            select.select([self.call], [], [], deadline_left(deadline, what))
            try:
                os.eventfd_read(self.call)
            except BlockingIOError:
                pass
        return used

    def buffer(self, index):
        start = self.buffers + MESSAGE * index
        return slice(start, start + MESSAGE)


class FrontEnd:
    """A connection. What is refused or late raises Broken."""

    ADDRESS = SIZE = 0x10000

    def __init__(self, stream):
        self.socket = stream
        self.socket.settimeout(LIMIT)
        self.send(SET_OWNER)
        if self.ask_number(GET_FEATURES) & FEATURES != FEATURES:
            raise Broken("a feature is missing")
        if self.ask_number(GET_PROTOCOL_FEATURES) & PROTOCOL_FEATURES != PROTOCOL_FEATURES:
            raise Broken("a protocol feature is missing")
        self.send(SET_PROTOCOL_FEATURES, struct.pack("<Q", PROTOCOL_FEATURES))
        if self.ask_number(GET_QUEUE_NUM) != 2:
            raise Broken("it has not two rings")
        # A new VM: nothing that another front end has left.
        self.do(RESET_DEVICE)
        self.do(SET_FEATURES, struct.pack("<Q", FEATURES))
        self.config = self.get_config()
        self.attach_socket = self.open_attach_channel()
        self.attach_seq = 0

        self.memory_fd = os.memfd_create("rings", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.memory_fd, self.SIZE)
        fcntl.fcntl(self.memory_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.memory = mmap.mmap(self.memory_fd, self.SIZE)
        self.rings = [
            Ring(self.memory, self.ADDRESS, 0x8000 * number, number == EVENTS)
            for number in (PORTAL, EVENTS)
        ]
        self.bases = [0, 0]
        self.seqs = [0, 0]

    def close(self):
        self.attach_socket.close()
        self.socket.close()

    # The vhost-user socket.

    def send(self, request, body=b"", fds=(), flags=0):
        packet = struct.pack("<III", request, VERSION | flags, len(body)) + body
        socket.send_fds(self.socket, [packet], list(fds))

    def receive(self, request):
        header, fds, _, _ = socket.recv_fds(self.socket, 12, 1, socket.MSG_WAITALL)
        if len(header) != 12:
            raise Broken("the back-end has closed the connection")
        found, flags, size = struct.unpack("<III", header)
        if (found, flags) != (request, VERSION | REPLY):
            raise Broken(f"reply {found:#x} {flags:#x} to request {request}")
        body = self.socket.recv(size, socket.MSG_WAITALL) if size else b""
        return body, fds

    def ask(self, request, body=b"", fds=()):
        self.send(request, body, fds)
        return self.receive(request)

    def ask_number(self, request, body=b"", fds=()):
        return struct.unpack("<Q", self.ask(request, body, fds)[0])[0]

    def do(self, request, body=b"", fds=()):
        self.send(request, body, fds, NEED_REPLY)
        if struct.unpack("<Q", self.receive(request)[0])[0] != 0:
            raise Broken(f"request {request} has failed")

    def get_config(self):
        body, _ = self.ask(GET_CONFIG, struct.pack("<III", 0, 128, 0) + bytes(128))
        names = "magic version state_version state_compat reserved phase max_devices max_pending"
        names += " max_faults outstanding pending backlog"
        config = dict(zip(names.split(), struct.unpack_from("<IHHHHIIIIIII", body, 12)))
        if (config["magic"], config["version"]) != (0x41565356, 1):
            raise Broken("another protocol")
        config["phase"] = PHASES[config["phase"]]
        return config

    def start(self):
        region = struct.pack("<QQQQ", self.ADDRESS, self.SIZE, self.ADDRESS, 0)
        self.do(SET_MEM_TABLE, struct.pack("<II", 1, 0) + region, [self.memory_fd])
        for number, ring in enumerate(self.rings):
            parts = (self.ADDRESS + at for at in (ring.descriptors, ring.used, ring.available))
            self.do(SET_VRING_NUM, struct.pack("<II", number, RING_SIZE))
            self.do(SET_VRING_BASE, struct.pack("<II", number, self.bases[number]))
            self.do(SET_VRING_ADDR, struct.pack("<IIQQQQ", number, 0, *parts, 0))
            self.do(SET_VRING_CALL, struct.pack("<Q", number), [ring.call])
            self.do(SET_VRING_KICK, struct.pack("<Q", number), [ring.kick])
            self.do(SET_VRING_ENABLE, struct.pack("<II", number, 1))
        events = self.rings[EVENTS]
        while events.free:
            events.offer(events.free.pop())

    def stop(self):
        for number in (PORTAL, EVENTS):
            body, _ = self.ask(GET_VRING_BASE, struct.pack("<II", number, 0))
            self.bases[number] = struct.unpack("<II", body)[1]

    # The rings.

    def post(self, kind, device, payload):
        """Puts a message on the portal ring and waits until it has taken effect."""
        ring = self.rings[PORTAL]
        self.seqs[PORTAL] += 1
        index = ring.free.pop()
        header = struct.pack("<HHIQ", kind, 0, device, self.seqs[PORTAL])
        self.memory[ring.buffer(index)] = header + payload.ljust(48, b"\0")
        ring.offer(index)
        ring.free.append(ring.wait_used("a portal message has taken effect")[0])

    def next_event(self):
        """Waits for a message of the event ring: its type, device and payload."""
        ring = self.rings[EVENTS]
        index, size = ring.wait_used("an event")
        message = self.memory[ring.buffer(index)]
        ring.offer(index)
        kind, flags, device, seq = struct.unpack_from("<HHIQ", message)
        self.seqs[EVENTS] += 1
        if (size, flags, seq) != (MESSAGE, 0, self.seqs[EVENTS]):
            raise Broken(f"message {kind:#x} has size {size}, flags {flags}, seq {seq}")
        return kind, device, message[16:]

    def resume(self, sid, stag, retry=True):
        """CMD_RESUME of the SMMUv3 specification: SID in [63:32], STAG in [79:64], Ac is bit 12."""
        command = struct.pack("<QQ", 0x44 | retry << 12 | sid << 32, stag)
        self.post(SMMU_CMD, ALL, command)

    # The attach channel.

    def open_attach_channel(self):
        body, fds = self.ask(GET_SHARED_OBJECT, ATTACH_CHANNEL)
        if body or len(fds) != 1:
            raise Broken("no attach channel")
        channel = socket.socket(fileno=fds[0])
        channel.settimeout(LIMIT)
        return channel

    def attach(self, device, vsid, dev_id, channel, fault_fd):
        self.attach_seq += 1
        packet = struct.pack("<IIII", ATTACH, device, self.attach_seq, 0)
        packet += struct.pack("<IIII", vsid, dev_id, channel, 0)
        socket.send_fds(self.attach_socket, [packet.ljust(64, b"\0")], [fault_fd])
        reply = self.attach_socket.recv(64)
        kind, of, seq, _, status = struct.unpack_from("<IIIII", reply)
        if (kind, of, seq, status) != (0x101, device, self.attach_seq, 0):
            raise Broken(f"ATTACH: status {status}, {reply[20:].rstrip(bytes(1)).decode()}")

    # The state.

    def save(self):
        ours, theirs = os.pipe()
        if self.ask_number(SET_DEVICE_STATE_FD, struct.pack("<II", 0, 0), [theirs]) & 0xFF:
            raise Broken("SAVE is refused")
        os.close(theirs)
        with open(ours, "rb") as stream:
            state = stream.read()
        self.check_state("SAVE")
        return state

    def load(self, state):
        theirs, ours = os.pipe()
        if self.ask_number(SET_DEVICE_STATE_FD, struct.pack("<II", 1, 0), [theirs]) & 0xFF:
            raise Broken("LOAD is refused")
        os.close(theirs)
        with open(ours, "wb") as stream:
            stream.write(state)
        self.check_state("LOAD")

    def check_state(self, what):
        if self.ask_number(CHECK_DEVICE_STATE) != 0:
            raise Broken(f"{what} has failed")
