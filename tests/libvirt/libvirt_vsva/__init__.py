# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Base class of the tests with a real libvirtd. Each test has hosts of its own, and logs are
kept if it fails.
"""

import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from avocado_vsva import VsvaTest
from avocado_vsva.environment import Environment

from .container import Container
from .domain import Domain
from .host import Background, CommandError
from .machine import Machine

__all__ = ["LONG_DEADLINE", "OUTSTANDING", "Background", "CommandError", "LibvirtTest"]

OUTSTANDING = "page fault(s) of the guest outstanding"
LONG_DEADLINE = ("--drain-timeout", "60000", "--stop-timeout", "10000")


@dataclass(frozen=True)
class LibvirtEnvironment(Environment):
    libvirt_root: Path = Path(os.environ.get("VSVA_LIBVIRT_ROOT", ""))
    deploy: Path = Path(__file__).resolve().parents[3] / "deploy"


class LibvirtTest(VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,libvirt
    """

    timeout = 600

    def setUp(self):
        super().setUp()
        self.environment = LibvirtEnvironment.load()
        if not (self.environment.libvirt_root / "usr/sbin/libvirtd").is_file():
            raise FileNotFoundError(
                "VSVA_LIBVIRT_ROOT is not a Debian with libvirt; test-vm/check libvirt makes one"
            )
        self.scratch = Path(tempfile.mkdtemp(prefix="vsva-hosts-"))
        self.hosts = []
        self.domains = []

    def tearDown(self):
        for domain in self.domains:
            domain.close()
        for host in self.hosts:
            if self.failed:
                host.keep_logs()
            host.stop()
        shutil.rmtree(self.scratch)
        super().tearDown()

    def new_host(self, name="source", **options):
        return self._added(Container(self.environment, name, self.folder, self.scratch, **options))

    def new_machine(self):
        """A host with Debian's own kernel."""
        if platform.machine() != "x86_64":
            self.cancel("the machine that is emulated is an x86_64, and needs programs for it")
        return self._added(Machine(self.environment, "machine", self.folder, self.scratch))

    def _added(self, host):
        self.hosts.append(host)
        return host

    def new_domain(self, host):
        domain = Domain(host, self.folder)
        self.domains.append(domain)
        return domain

    def new_running(self, options=LONG_DEADLINE, name="source"):
        """A running domain with the device on a host of its own."""
        return self.new_domain(self.new_host(name)).define(options=options).start()

    def assert_command_fails(self, message, command, /, *words, **options):
        with self.assertRaises(CommandError) as failed:
            command(*words, **options)
        self.assertIn(message, str(failed.exception))

    def assert_drained_before_stop(self, domain, since):
        domain.wait_event("STOP", since=since)
        names = domain.event_names(since)
        self.assertIn("VSVA_DRAIN_COMPLETED", names)
        self.assertLess(names.index("VSVA_DRAIN_COMPLETED"), names.index("STOP"), names)

    def assert_drain_given_up(self, domain, since):
        """It has ended, and the domain was not stopped for it."""
        domain.wait_event("VSVA_RELEASED", since=since)
        self.assertFalse({"VSVA_DRAIN_COMPLETED", "STOP"} & set(domain.event_names(since)))

    def assert_guest_runs(self, domain):
        """Its program answers, so its vCPUs and QEMU's main loop go on."""
        domain.guest.cmd("hello")

    def new_loaded(self, options=LONG_DEADLINE):
        """A running domain whose guest does not answer faults until it is told so, while
        submissions flow.
        """
        domain = self.new_running(options).watch_running()
        self.hold_faults(domain, 8)
        domain.guest.cmd("load 0 start rate=500 total=2000")
        return domain

    def assert_never_paused(self, domain, since):
        """Neither QEMU nor libvirt has said so, and it runs."""
        paused = [
            name
            for name in domain.event_names(since)
            if name == "STOP" or name.startswith("Suspended")
        ]
        self.assertEqual(paused, [])
        self.assertEqual(domain.state(), "running")

    def assert_recovered(self, domain, since, count=1):
        """Another back-end goes on where the one before was, and the domain ran all the time."""
        recovered = domain.wait_event("VSVA_BACKEND_RECOVERED", 60, since)
        self.assertTrue(recovered["complete"], recovered)
        query = domain.query()
        self.assertTrue(query["connected"])
        self.assertEqual(query["recoveries"], count)
        self.assert_never_paused(domain, since)
        return recovered["away-ms"]

    def assert_load_done(self, domain):
        """Nothing has been lost of what new_loaded() has started."""
        domain.guest.wait("completed=2008", 60)
        self.assert_all_done(domain, 2008)
