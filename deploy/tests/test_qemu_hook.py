# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import io
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from .loader import load

sys.dont_write_bytecode = True
hook = load("qemu-hook")

UUID = "5a0c1f4e-6a52-4d0f-9c7b-3f1c7c2e8a10"
OTHER = "0b9bdc2e-3c61-4b06-8a4e-9f7f2b5a2f11"


def domain(*arguments, uuid=UUID):
    words = "".join(f"<q:arg value='{argument}'/>" for argument in arguments)
    return (
        f"<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><uuid>{uuid}</uuid>"
        f"<q:commandline>{words}</q:commandline></domain>"
    ).encode()


WITH_DEVICE = domain("-chardev", f"socket,id=c,path=/run/vhost-user-vsva/{UUID}.sock")
SERVICE = f"vhost-user-vsva@{UUID}.service"
SOCKET = f"vhost-user-vsva@{UUID}.socket"
START = [["stop", SOCKET, SERVICE], ["reset-failed", SOCKET, SERVICE], ["start", SERVICE]]


class Hook(unittest.TestCase):
    def run_hook(self, operation, phase, xml, status=0, of="start"):
        """What the hook had systemctl do, one of which ends like that, and what it ended with."""
        with mock.patch.object(hook.subprocess, "run") as run:
            run.side_effect = lambda words, **_: mock.Mock(returncode=status if of in words else 0)
            ended = self.run_with(operation, phase, xml)
        self.assertTrue(
            all(0 < call.kwargs["timeout"] <= hook.LIMIT for call in run.call_args_list)
        )
        return [call.args[0][2:] for call in run.call_args_list], ended

    def run_with(self, operation, phase, xml):
        """What the hook ended with."""
        ended, output = None, io.StringIO()
        with (
            mock.patch.object(sys, "argv", ["hook", "guest", operation, phase, "-"]),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(xml))),
            mock.patch.object(sys, "stdout", output),
            mock.patch.object(sys, "stderr", sys.__stderr__),
        ):
            try:
                hook.main()
            except SystemExit as error:
                ended = error.code
        self.assertEqual(output.getvalue(), "", "libvirt would take it for the domain's XML")
        return ended

    def test_prepare_with_device_starts_a_new_backend(self):
        self.assertEqual(self.run_hook("prepare", "begin", WITH_DEVICE), (START, None))

    def test_prepare_nothing_to_forget_starts_it_all_the_same(self):
        self.assertEqual(
            self.run_hook("prepare", "begin", WITH_DEVICE, status=1, of="reset-failed"),
            (START, None),
        )

    def test_release_with_device_stops_the_backend(self):
        self.assertEqual(
            self.run_hook("release", "end", WITH_DEVICE), ([["stop", SOCKET, SERVICE]], None)
        )

    def test_prepare_backend_does_not_start_fails_and_leaves_nothing(self):
        calls, ended = self.run_hook("prepare", "begin", WITH_DEVICE, status=1)
        self.assertEqual(calls, [*START, ["stop", "--no-block", SOCKET, SERVICE]])
        self.assertIn(f"journalctl -u {SERVICE}", ended)

    def test_domain_without_the_device_is_left_alone(self):
        for xml in (
            domain(),
            domain("-chardev", "socket,id=c,path=/run/other.sock"),
            f"<domain><uuid>{UUID}</uuid></domain>".encode(),
        ):
            with self.subTest(xml):
                self.assertEqual(self.run_hook("prepare", "begin", xml), ([], None))

    def test_prepare_of_a_clone_with_the_socket_of_the_original_fails_naming_it(self):
        for arguments in (
            (f"socket,path=/run/vhost-user-vsva/{OTHER}.sock",),
            (f'{{"path": "/run/vhost-user-vsva/{OTHER.upper()}.sock"}}',),
            (f"path=/run/vhost-user-vsva/{UUID}.sock", f"path=/run/vhost-user-vsva/{OTHER}.sock"),
        ):
            with self.subTest(arguments):
                calls, ended = self.run_hook("prepare", "begin", domain("-chardev", *arguments))
                self.assertEqual(calls, [])
                self.assertIn(f"the domain is {UUID}", ended)
                self.assertIn(f"has the socket of domain {OTHER}", ended)
                self.assertIn("vsva-domain add", ended)

    def test_release_of_a_clone_leaves_the_original_alone(self):
        xml = domain("-chardev", f"socket,path=/run/vhost-user-vsva/{OTHER}.sock")
        self.assertEqual(self.run_hook("release", "end", xml), ([], None))

    def test_systemctl_that_never_ends_is_given_up(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "systemctl"
            path.write_text("#!/bin/sh\nexec sleep 1000\n", encoding="utf-8")
            path.chmod(0o755)
            for operation, text in (
                (("prepare", "begin"), f"did not start within 1 s; see: journalctl -u {SERVICE}"),
                (("release", "end"), "has not ended the back-end within 1 s"),
            ):
                with (
                    self.subTest(operation),
                    mock.patch.object(hook, "SYSTEMCTL", (str(path),)),
                    mock.patch.multiple(hook, LIMIT=1, TIDY=0),
                ):
                    self.assertIn(text, self.run_with(*operation, WITH_DEVICE))

    def test_systemctl_missing_fails(self):
        with mock.patch.object(hook, "SYSTEMCTL", ("/nonexistent",)):
            self.assertIn(
                "systemctl cannot be executed", self.run_with("prepare", "begin", WITH_DEVICE)
            )

    def test_other_operations_do_nothing(self):
        for operation in (
            ("start", "begin"),
            ("started", "begin"),
            ("stopped", "end"),
            ("migrate", "begin"),
            ("restore", "begin"),
            ("reconnect", "begin"),
            ("attach", "begin"),
        ):
            with self.subTest(operation):
                self.assertEqual(self.run_hook(*operation, WITH_DEVICE), ([], None))

    def test_standard_input_that_is_closed_is_no_domain(self):
        done = subprocess.run(
            [sys.executable, "-I", Path(hook.__file__), "guest", "prepare", "begin", "-"],
            preexec_fn=lambda: os.close(0),
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn("hook: this is not the XML of a domain", done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1)

    def test_xml_not_understood_fails(self):
        for xml in (
            b"",
            b"<domain>",
            domain(uuid="x; reboot"),
            b"\0",
            b"\xff\xfe<",
            b"<?xml version='1.0' encoding='ebcdic'?><domain/>",
            b"<domain/>",
            b"<a>" * 100_000,
        ):
            with self.subTest(xml):
                calls, ended = self.run_hook("prepare", "begin", xml)
                self.assertEqual(calls, [])
                self.assertIn("not the XML of a domain", ended)


if __name__ == "__main__":
    unittest.main()
