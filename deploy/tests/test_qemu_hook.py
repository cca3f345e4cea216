# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import io
import sys
import unittest
from unittest import mock

from .loader import load

sys.dont_write_bytecode = True
hook = load("qemu-hook")

UUID = "5a0c1f4e-6a52-4d0f-9c7b-3f1c7c2e8a10"
OTHER = "0b9bdc2e-3c61-4b06-8a4e-9f7f2b5a2f11"


def domain(*arguments, uuid=UUID):
    words = "".join(f"<q:arg value='{argument}'/>" for argument in arguments)
    return (f"<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><uuid>{uuid}</uuid>"
            f"<q:commandline>{words}</q:commandline></domain>").encode()


WITH_DEVICE = domain("-chardev", f"socket,id=c,path=/run/vhost-user-vsva/{UUID}.sock")
SERVICE = f"vhost-user-vsva@{UUID}.service"
SOCKET = f"vhost-user-vsva@{UUID}.socket"


class Hook(unittest.TestCase):
    def run_hook(self, operation, phase, xml, status=0):
        """What the hook had systemctl do, and what it ended with."""
        ended, output = None, io.StringIO()
        with mock.patch.object(hook.subprocess, "run") as run, \
                mock.patch.object(sys, "argv", ["hook", "guest", operation, phase, "-"]), \
                mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(xml))), \
                mock.patch.object(sys, "stdout", output):
            run.side_effect = lambda words, **_: mock.Mock(returncode=status if "start" in words else 0)
            try:
                hook.main()
            except SystemExit as error:
                ended = error.code
        self.assertEqual(output.getvalue(), "", "libvirt would take it for the domain's XML")
        return [call.args[0][2:] for call in run.call_args_list], ended

    def test_prepare_with_device_starts_a_new_backend(self):
        self.assertEqual(self.run_hook("prepare", "begin", WITH_DEVICE), ([["stop", SOCKET, SERVICE], ["start", SERVICE]], None))

    def test_release_with_device_stops_the_backend(self):
        self.assertEqual(self.run_hook("release", "end", WITH_DEVICE), ([["stop", SOCKET, SERVICE]], None))

    def test_prepare_backend_does_not_start_fails_and_leaves_nothing(self):
        calls, ended = self.run_hook("prepare", "begin", WITH_DEVICE, status=1)
        self.assertEqual(calls[-1], ["stop", SOCKET, SERVICE])
        self.assertIn(f"journalctl -u {SERVICE}", ended)

    def test_domain_without_the_device_is_left_alone(self):
        for xml in (domain(), domain("-chardev", "socket,id=c,path=/run/other.sock"),
                    f"<domain><uuid>{UUID}</uuid></domain>".encode()):
            with self.subTest(xml):
                self.assertEqual(self.run_hook("prepare", "begin", xml), ([], None))

    def test_socket_of_another_domain_is_left_alone(self):
        xml = domain("-chardev", f"socket,path=/run/vhost-user-vsva/{OTHER}.sock")
        self.assertEqual(self.run_hook("release", "end", xml), ([], None))

    def test_other_operations_do_nothing(self):
        for operation in (("start", "begin"), ("started", "begin"), ("stopped", "end"), ("migrate", "begin"), ("restore", "begin"),
                          ("reconnect", "begin"), ("attach", "begin")):
            with self.subTest(operation):
                self.assertEqual(self.run_hook(*operation, WITH_DEVICE), ([], None))

    def test_xml_not_understood_fails(self):
        for xml in (b"", b"<domain>", domain(uuid="x; reboot")):
            with self.subTest(xml):
                calls, ended = self.run_hook("prepare", "begin", xml)
                self.assertEqual(calls, [])
                self.assertIn("not the XML of a domain", ended)


if __name__ == "__main__":
    unittest.main()
