# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The life of a migrated VM, by a front end that was written from docs/protocol.md alone."""

import os
import socket
import struct
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import front_end as fe

ROOT = Path(__file__).resolve().parents[2]
SID, SSID, DEV_ID = 0x20, 5, 7


def program():
    built = os.environ.get("VSVA_BACKEND")
    return [built] if built else ["cargo", "run", "--quiet", "--locked", "--"]


class Vm:
    """A back-end, its front end, and an emulated device that faults."""

    def __init__(self, test, *options):
        folder = test.enterContext(tempfile.TemporaryDirectory())
        path = os.path.join(folder, "vsva.sock")
        self.process = subprocess.Popen([*program(), "--socket-path", path, *options], cwd=ROOT)
        test.addCleanup(self.process.wait)
        test.addCleanup(self.process.terminate)
        self.front_end = fe.FrontEnd(self.connect(test, path))
        test.addCleanup(self.front_end.close)
        self.device, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        test.addCleanup(self.device.close)
        self.device.settimeout(fe.LIMIT)
        self.front_end.attach(0, SID, DEV_ID, 0, theirs.fileno())
        theirs.close()

    def connect(self, test, path):
        """Waits until the program listens."""
        deadline = time.monotonic() + 10 * fe.LIMIT
        while True:
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                stream.connect(path)
                return stream
            except OSError:
                stream.close()
                test.assertIsNone(self.process.poll(), "the back-end has ended")
                test.assertLess(time.monotonic(), deadline)
                time.sleep(0.01)


def fault(cookie, address):
    """struct iommu_hwpt_pgfault: a write of one page, alone in its group, with a PASID."""
    valid, last, write = 1, 2, 2
    return struct.pack("<IIIIIIQII", valid | last, DEV_ID, SSID, 0, write, 0, address, 0, cookie)


def submission(ticket):
    data = bytes([ticket + 1]) * 8
    return struct.pack("<IIQQ16s8x", 2, 8, 0x40 * ticket, ticket, data)


class Migration(unittest.TestCase):
    def serve_fault(self, vm, cookie, address, retry):
        vm.device.sendall(fault(cookie, address))
        kind, device, payload = vm.front_end.next_event()
        self.assertEqual((kind, device), (fe.SMMU_EVENT, 0))
        words = struct.unpack_from("<QQQQ", payload)
        self.assertEqual(words[0], 0x10 | 1 << 11 | SSID << 12 | SID << 32)
        # Stall; a write is RnW clear; class IN.
        self.assertEqual(words[1] & ~0xFFFF, 1 << 31 | 2 << 40)
        self.assertEqual(words[2:], (address, 0))
        vm.front_end.resume(SID, words[1] & 0xFFFF, retry)
        answer = vm.device.recv(8, socket.MSG_WAITALL)
        self.assertEqual(struct.unpack("<II", answer), (cookie, 0 if retry else 1))

    def test_drained_vm_moves_to_another_back_end_and_its_submissions_are_replayed_there(self):
        source = Vm(self)
        self.assertEqual(source.front_end.config["phase"], "RUNNING")
        source.front_end.start()
        self.serve_fault(source, 1, 0x7F0000001000, retry=True)
        self.serve_fault(source, 1, 0x7F0000002000, retry=False)

        source.front_end.post(fe.DRAIN, fe.ALL, struct.pack("<QII", 9, 1000 * fe.LIMIT, 0))
        for ticket in range(3):
            source.front_end.post(fe.SUBMIT, 0, submission(ticket))
        self.serve_fault(source, 2, 0x7F0000003000, retry=True)
        source.front_end.post(fe.DEVICE_QUIESCED, 0, struct.pack("<Q", 9))
        kind, _, payload = source.front_end.next_event()
        generation, _, answered, pending = struct.unpack_from("<QQII", payload)
        self.assertEqual((kind, generation, answered, pending), (fe.DRAINED, 9, 1, 3))
        self.assertEqual(source.front_end.get_config()["phase"], "DRAINED")
        source.front_end.stop()
        state = source.front_end.save()

        destination = Vm(self)
        destination.front_end.load(state)
        destination.front_end.start()
        self.assertEqual(destination.front_end.get_config()["phase"], "LOADED")
        # The source's last ticket was 2.
        destination.front_end.post(fe.SUBMIT, 0, submission(3))
        destination.front_end.post(fe.RELEASE, fe.ALL, struct.pack("<Q", 0))
        for ticket in range(4):
            self.assertEqual(destination.front_end.next_event(), (fe.REPLAY, 0, submission(ticket)))
        kind, _, payload = destination.front_end.next_event()
        self.assertEqual((kind, *struct.unpack_from("<QQQ", payload)), (fe.RELEASED, 0, 4, 4))
        self.assertEqual(destination.front_end.get_config()["phase"], "RUNNING")
        self.serve_fault(destination, 1, 0x7F0000004000, retry=True)

    def test_source_whose_migration_failed_replays_itself(self):
        vm = Vm(self)
        vm.front_end.start()
        vm.front_end.post(fe.DRAIN, fe.ALL, struct.pack("<QII", 1, 1000 * fe.LIMIT, 0))
        vm.front_end.post(fe.SUBMIT, 0, submission(0))
        vm.front_end.post(fe.DEVICE_QUIESCED, 0, struct.pack("<Q", 1))
        self.assertEqual(vm.front_end.next_event()[0], fe.DRAINED)
        vm.front_end.stop()
        self.assertEqual(vm.front_end.save(), vm.front_end.save())
        vm.front_end.start()

        vm.front_end.post(fe.RELEASE, fe.ALL, struct.pack("<Q", 1))

        self.assertEqual(vm.front_end.next_event(), (fe.REPLAY, 0, submission(0)))
        kind, _, payload = vm.front_end.next_event()
        self.assertEqual((kind, *struct.unpack_from("<QQQ", payload)), (fe.RELEASED, 1, 1, 1))
