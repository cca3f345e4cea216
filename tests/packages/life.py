# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The Debian packages are installed, upgraded under a running domain, removed and purged, on
Debian 13 and 12.
"""

import os
from dataclasses import replace
from pathlib import Path

from libvirt_vsva import LONG_DEADLINE, LibvirtTest
from libvirt_vsva.packages import BACKEND, PROFILE, QEMU, copy_newer, copy_packages, packages

NAME = "vhost-user-vsva"
FOLDER = "/root/packages"
CHANGED = "# changed by the administrator\n"


class Life(LibvirtTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,libvirt,packages
    """

    def new_packaged(self, suite):
        """A host with both packages, by apt."""
        root = os.environ.get(f"VSVA_PACKAGE_ROOT_{suite.upper()}")
        if not root:
            self.skipTest(
                os.environ.get("VSVA_PACKAGE_HINDRANCE", f"there is no folder with Debian {suite}")
            )
        self.environment = replace(self.environment, libvirt_root=Path(root))
        host = self.new_host(suite, deployed=False, qemu=False)
        copy_packages(host, FOLDER)
        host.run("bash", "-c", f"apt-get install --yes --no-install-recommends {FOLDER}/*.deb")
        return host

    def installed_as(self, host):
        return host.run(
            "dpkg-query", "--show", "--showformat=${db:Status-Status}", NAME, check=False
        ).stdout

    def executed(self, domain):
        pid = domain.host.run(
            "systemctl", "show", "--value", "--property=MainPID", domain.service
        ).stdout.strip()
        return domain.host.run("readlink", f"/proc/{pid}/exe").stdout.strip()

    def assert_installed(self, host):
        self.assertEqual(host.run("dpkg", "--verify", *packages()).stdout, "")
        self.assertEqual(host.run("dpkg", "--audit").stdout, "")
        for emulator in (QEMU, "/usr/bin/qemu-system-aarch64"):
            self.assertIn("QEMU emulator version", host.run(emulator, "--version").stdout)
        self.assertIn("stop-timeout", host.run(QEMU, "-device", "vhost-user-vsva,help").stdout)
        self.assertIn("socket-path", host.run("bash", "-c", f"MANPAGER=cat man {NAME}").stdout)
        completed = "_completion_loader vhost-user-vsva; complete -p vhost-user-vsva"
        host.run("bash", "-c", f". /usr/share/bash-completion/bash_completion; {completed}")
        for shell, path in (
            ("zsh", "zsh/vendor-completions/_vhost-user-vsva"),
            ("fish", "fish/vendor_completions.d/vhost-user-vsva.fish"),
        ):
            host.run(shell, "-n", f"/usr/share/{path}")
        host.run("systemctl", "restart", "libvirtd")
        report = host.run("vsva-check-host", check=False).stdout
        self.assertNotIn("FAIL", report)
        self.assertIn(f"emulator: {QEMU} 10", report)

    def live(self, suite):
        host = self.new_packaged(suite)
        self.assert_installed(host)
        domain = self.new_domain(host).define(emulator=QEMU, options=LONG_DEADLINE).start()
        domain.guest.cmd("dma 0 100 src=fresh dst=fresh")
        self.assert_all_done(domain, 100)

        host.run("tee", "--append", PROFILE, text=CHANGED)
        copy_newer(host, FOLDER, self.scratch)
        host.run("bash", "-c", f"dpkg --force-confold --install {FOLDER}/{NAME}_*.deb")
        self.assertEqual(self.executed(domain), f"{BACKEND} (deleted)")
        domain.guest.cmd("dma 0 100 src=fresh dst=fresh")
        self.assert_all_done(domain, 200)
        self.assertTrue(host.path(PROFILE).read_text(encoding="utf-8").endswith(CHANGED))

        domain.watch_running()
        since = len(domain.events)
        self.hold_faults(domain, 8)
        self.assertIn("ok    guest: upgraded; ", host.run("vsva-upgrade").stdout)
        self.assertEqual(self.executed(domain), BACKEND)
        self.assert_recovered(domain, since)
        domain.guest.release_faults()
        self.assert_all_done(domain, 208)
        self.assert_never_paused(domain, since)

        self.assert_command_fails(
            "domains with the device are running", host.run, "dpkg", "--remove", NAME
        )
        self.assertEqual(self.installed_as(host), "installed")
        self.assertTrue(host.active(domain.service))
        domain.virsh("destroy")
        domain.start()
        self.assertEqual(self.executed(domain), BACKEND)
        domain.virsh("destroy")

        host.run("dpkg", "--remove", NAME)
        self.assertEqual(self.installed_as(host), "config-files")
        self.assertFalse(host.path("/usr/libexec/vhost-user-vsva").exists())
        self.assertTrue(host.path(PROFILE).exists())
        host.run(
            "mkdir",
            "-p",
            "/var/log/vhost-user-vsva",
            "/var/log/private/vhost-user-vsva/of-a-domain",
        )
        host.run("dpkg", "--purge", *packages())
        self.assertEqual(
            host.run("find", "/etc", "/usr", "/var/lib/dpkg", "/var/log", "-name", "*vsva*").stdout,
            "",
        )
        self.assertIn(
            "QEMU emulator version", host.run("/usr/bin/qemu-system-aarch64", "--version").stdout
        )

    def test_packages_on_debian_13_are_upgraded_under_a_domain_and_leave_nothing(self):
        self.live("trixie")

    def test_packages_on_debian_12_are_upgraded_under_a_domain_and_leave_nothing(self):
        self.live("bookworm")
