# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import contextlib
import io
import json
import os
import socket
import struct
import sys
import tempfile
import threading
import unittest
from pathlib import Path
from unittest import mock

from .loader import load

sys.dont_write_bytecode = True
check_host = load("vsva-check-host")

HERE = {"qemu": "10.2.2", "state_version": 1, "state_compat": 1, "max_devices": 64, "max_pending": 4096}
FEATURES = check_host.MIGRATION_BLOCKING | check_host.PROTOCOL_FEATURES
PROTOCOL = sum(1 << bit for bit in check_host.PROTOCOL_BITS.values())
CONFIG = check_host.CONFIG_SPACE.pack(check_host.CONFIG_MAGIC, 1, 3, 2, 0, 0, 64, 4096, 1024)


class FakeBackend(threading.Thread):
    """Answers as a back-end with these features does."""

    def __init__(self, path, features=FEATURES, protocol=PROTOCOL, config=CONFIG):
        super().__init__(daemon=True)
        self._replies = {1: struct.pack("<Q", features), 15: struct.pack("<Q", protocol), 24: bytes(12) + config}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        path.chmod(0o600)
        self.start()

    def run(self):
        connection, _ = self._listener.accept()
        with connection, self._listener:
            while head := connection.recv(12, socket.MSG_WAITALL):
                code, _, size = struct.unpack("<III", head)
                if size:
                    connection.recv(size, socket.MSG_WAITALL)
                if code in self._replies:
                    reply = self._replies[code]
                    connection.sendall(struct.pack("<III", code, 5, len(reply)) + reply)


class BackendCheck(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "socket"

    def check(self, facts=None, mode=0o600, **options):
        backend = FakeBackend(self.path, **options)
        self.path.chmod(mode)
        user = mock.Mock(pw_uid=os.getuid(), pw_name="libvirt-qemu")
        with mock.patch.object(check_host, "backend", lambda: contextlib.nullcontext(self.path)), \
                mock.patch.object(check_host, "qemu_user", lambda: user):
            try:
                return check_host.check_backend(None, {} if facts is None else facts)
            finally:
                backend.join(10)

    def assert_fails(self, text, **options):
        with self.assertRaises(check_host.Failed) as failed:
            self.check(**options)
        self.assertIn(text, str(failed.exception))
        self.assertTrue(failed.exception.advice)

    def test_backend_good_gives_the_facts(self):
        facts = {}
        self.assertIn("state version 3", self.check(facts))
        self.assertEqual(facts, {"protocol": 1, "state_version": 3, "state_compat": 2, "max_devices": 64, "max_pending": 4096,
                                 "max_faults": 1024})

    def test_backend_without_migration_blocking_fails(self):
        self.assert_fails("VSVA_F_MIGRATION_BLOCKING", features=check_host.PROTOCOL_FEATURES)

    def test_backend_without_a_protocol_feature_fails_naming_it(self):
        for name, bit in check_host.PROTOCOL_BITS.items():
            with self.subTest(name):
                self.path = self.path.with_suffix(f".{bit}")
                self.assert_fails(name, protocol=PROTOCOL & ~(1 << bit))

    def test_another_backend_fails(self):
        self.assert_fails("config space begins with 0x0", config=bytes(len(CONFIG)))

    def test_socket_open_to_others_fails(self):
        self.assert_fails("mode 600", mode=0o666)


class Comparison(unittest.TestCase):
    def problems(self, **there):
        return check_host.check_against(HERE, {**HERE, **there})

    def test_same_or_newer_destination_has_no_problem(self):
        self.assertEqual(self.problems(), [])
        self.assertEqual(self.problems(qemu="11.0.0", state_version=2, max_pending=8192), [])

    def test_older_or_smaller_destination_is_named(self):
        for there, text in (({"qemu": "10.2.1"}, "10.2.1"), ({"state_version": 0}, "state version 0"),
                            ({"max_pending": 1}, "--max-pending"), ({"max_devices": 1}, "--max-devices")):
            with self.subTest(there):
                (found, advice), = self.problems(**there)
                self.assertIn(text, found)
                self.assertTrue(advice)

    def test_facts_missing_is_a_problem(self):
        for there in ({}, {**HERE, "qemu": None}, {**HERE, "qemu": "new"}, []):
            with self.subTest(there):
                self.assertIn("cannot be compared", check_host.check_against(HERE, there)[0][0])


class Emulator(unittest.TestCase):
    def emulator(self, script):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name) / "qemu"
        path.write_text(f"#!{sys.executable}\n{script}", encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    def answering(self, properties):
        answers = [{"QMP": {}}, {"return": {}}, {"return": {"qemu": {"major": 10, "minor": 2, "micro": 2}}},
                   *({"return": [{"name": name} for name in names]} if names else {"error": {}} for names in properties),
                   {"event": "SHUTDOWN"}, {"return": {}}]
        return self.emulator("print('''" + "\n".join(map(json.dumps, answers)) + "''')")

    def test_emulator_with_the_series_passes(self):
        facts = {}
        check_host.check_emulator(self.answering(check_host.DEVICE_PROPERTIES.values()), facts)
        self.assertEqual(facts["qemu"], "10.2.2")

    def test_emulator_without_the_device_or_a_property_fails_naming_it(self):
        device = check_host.DEVICE_PROPERTIES["vhost-user-vsva"]
        for properties, text in (([None, ("stall", "ssidsize")], "no vhost-user-vsva"),
                                 ([("chardev", "drain-timeout"), ("stall", "ssidsize")], "no vhost-user-vsva with stop-timeout"),
                                 ([device, ("ssidsize",)], "no arm-smmuv3 with stall")):
            with self.subTest(text), self.assertRaises(check_host.Failed) as failed:
                check_host.check_emulator(self.answering(properties), {})
            self.assertIn(text, str(failed.exception))

    def test_emulator_that_is_none_fails(self):
        for emulator in ("/nonexistent/qemu", self.emulator("print('hello')"), self.emulator("")):
            with self.subTest(emulator), self.assertRaises(check_host.Failed):
                check_host.check_emulator(emulator, {})


class Libvirt(unittest.TestCase):
    def check(self, output):
        with mock.patch.object(check_host, "run", lambda *_: mock.Mock(stdout=output, stderr="refused")):
            return check_host.check_libvirt(None, {})

    def test_libvirt_new_enough_passes(self):
        self.assertEqual(self.check("Using library: libvirt 12.0.0\nRunning against daemon: 11.3.0\n"), "libvirt 11.3.0")

    def test_libvirt_too_old_or_silent_fails(self):
        for output, text in (("Running against daemon: 9.0.0\n", "9.0.0 is older than 11.3"),
                             ("Using library: libvirt 9.0.0\n", "9.0.0 is older than 11.3"), ("", "does not answer: refused")):
            with self.subTest(output), self.assertRaises(check_host.Failed) as failed:
                self.check(output)
            self.assertIn(text, str(failed.exception))


class Program(unittest.TestCase):
    def run_program(self, *options, checks):
        output, errors = io.StringIO(), io.StringIO()
        with mock.patch.object(check_host, "CHECKS", checks), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            return check_host.main(options), output.getvalue(), errors.getvalue()

    @staticmethod
    def failing(_emulator, _facts):
        raise check_host.Failed("it is broken", "mend it")

    def test_report_has_a_line_for_each_check_and_what_to_do(self):
        status, output, _ = self.run_program(checks={"one": lambda *_: "fine", "two": self.failing})
        self.assertEqual(status, 1)
        self.assertEqual(output, "ok    one: fine\nFAIL  two: it is broken\n      mend it\n")

    def test_json_of_one_host_is_compared_on_the_other(self):
        def facts(_emulator, found):
            found.update(HERE)
            return "fine"
        status, output, errors = self.run_program("--json", checks={"one": facts})
        self.assertEqual((status, json.loads(output), errors), (0, HERE, "ok    one: fine\n"))
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({**HERE, "max_pending": 1}, file)
            file.flush()
            status, output, _ = self.run_program("--against", file.name, checks={"one": facts})
        self.assertEqual(status, 1)
        self.assertIn("FAIL  destination: --max-pending is 1 there", output)


if __name__ == "__main__":
    unittest.main()
