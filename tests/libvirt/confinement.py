# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""AppArmor enforced, by Debian's own kernel: on libvirtd, on the domain's QEMU, and on its
back-end.
"""

import re

from libvirt_vsva import LONG_DEADLINE, LibvirtTest, logs
from libvirt_vsva.domain import UUID
from libvirt_vsva.host import QEMU

ABSTRACTION = "/etc/apparmor.d/abstractions/libvirt-qemu.d/vhost-user-vsva"
LOCAL = "/etc/apparmor.d/local/usr.sbin.libvirtd"
BACKEND = "/usr/libexec/vhost-user-vsva/vhost-user-vsva"
SAVED = "/var/lib/libvirt/qemu/save/guest.saved"


class Confinement(LibvirtTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,libvirt,apparmor
    """

    timeout = 1800

    def assert_confined(self, host, program, profile):
        pid = host.run("pgrep", "--exact", "--full", f"{re.escape(program)}( .*)?").stdout.strip()
        self.assertEqual(
            host.run("cat", f"/proc/{pid}/attr/apparmor/current").stdout.strip(),
            f"{profile} (enforce)",
        )

    def assert_denied(self, host, profile, name):
        denials = host.denials()
        self.assertTrue(
            any(f'profile="{profile}"' in line and f'name="{name}"' in line for line in denials),
            denials,
        )

    def assert_backend_is_denied(self, host, name, *options):
        """Started with these options in its profile it fails for want of the right to a file."""
        profile = "vhost-user-vsva"
        confined = ("aa-exec", "--profile", profile, "--", BACKEND)
        self.assert_command_fails("Permission denied", host.run, *confined, *options)
        self.assert_denied(host, profile, name)

    @staticmethod
    def sockets_are_mediated(host):
        """Not before Linux 6.17, but in Ubuntu's kernels."""
        return (
            host.run(
                "sh",
                "-c",
                "ls /sys/kernel/security/apparmor/features/network*/af_unix",
                check=False,
            ).returncode
            == 0
        )

    @staticmethod
    def allow_libvirtd(host, rule):
        host.run("tee", LOCAL, text=rule)
        host.run("systemctl", "reload", "apparmor")

    @staticmethod
    def check_apparmor(host):
        lines = host.run("vsva-check-host", check=False).stdout.splitlines()
        return next(line for line in lines if "  AppArmor: " in line)

    def test_domain_with_faults_and_submissions_is_saved_and_restored_without_a_denial(self):
        machine = self.new_machine()
        self.assertIn("ok  ", self.check_apparmor(machine))
        domain = self.new_domain(machine).define(options=LONG_DEADLINE).start()
        self.assert_confined(machine, "/usr/sbin/libvirtd", "libvirtd")
        self.assert_confined(machine, QEMU, f"libvirt-{UUID}")
        self.assert_confined(machine, BACKEND, "vhost-user-vsva")
        self.hold_faults(domain, 8)
        domain.guest.cmd("load 0 start rate=50 total=200")
        domain.guest.release_faults()
        domain.virsh("save", SAVED)
        machine.virsh("restore", SAVED)
        domain.connect()
        self.assert_confined(machine, BACKEND, "vhost-user-vsva")
        domain.guest.wait("completed=208", 300)
        self.assert_all_done(domain, 208)
        domain.virsh("destroy")
        self.assertEqual(machine.denials(), [])

    def test_event_log_and_trace_are_written_in_the_log_folder_of_the_domain_and_nowhere_else(self):
        machine = self.new_machine()
        domain = self.new_domain(machine).define()
        logs.enable(domain)
        domain.start()
        domain.guest.cmd("dma 0 4 src=fresh dst=fresh")
        self.assert_all_done(domain, 4)
        domain.virsh("destroy")
        report = machine.run(
            BACKEND, "report", "--output=/root/timeline.svg", f"{logs.FOLDER}/events.jsonl"
        ).stdout
        self.assertRegex(report, r"faults: [1-9]\d* read")
        self.assertNotEqual(
            machine.run("stat", "--format=%s", f"{logs.FOLDER}/vsva.perfetto-trace").stdout.strip(),
            "0",
        )
        self.assertEqual(machine.denials(), [])

        of_another = machine.run("realpath", f"{logs.FOLDER}/of-another.jsonl").stdout.strip()
        for path in (of_another, "/var/log/elsewhere.jsonl"):
            machine.run("install", "-m", "666", "-o", "nobody", "/dev/null", path)
            socket = "--socket-path=/run/vhost-user-vsva/x.sock"
            self.assert_backend_is_denied(machine, path, socket, f"--event-log={path}")

    def test_what_the_profiles_do_not_allow_is_denied(self):
        machine = self.new_machine()
        domain = self.new_domain(machine).define()
        elsewhere = "/var/tmp/elsewhere.sock"
        self.assert_backend_is_denied(machine, elsewhere, "--socket-path", elsewhere)

        rule = machine.run("cat", LOCAL).stdout
        self.allow_libvirtd(machine, "")
        self.assertRegex(
            self.check_apparmor(machine), f"FAIL .* libvirtd does not let it execute {QEMU}"
        )
        self.assert_denied(machine, "libvirtd", QEMU)
        self.allow_libvirtd(machine, rule)
        self.assertIn("ok  ", self.check_apparmor(machine))

        if self.sockets_are_mediated(machine):
            machine.run("sed", "--in-place", "/[.]sock /d", ABSTRACTION)
            self.assert_command_fails("Permission denied", domain.virsh, "start")
            self.assert_denied(machine, f"libvirt-{UUID}", f"/run/vhost-user-vsva/{UUID}.sock")
        machine.run("rm", ABSTRACTION)
        self.assertRegex(self.check_apparmor(machine), f"FAIL .* {ABSTRACTION} is missing")
        self.assert_command_fails("Permission denied", domain.virsh, "start")
        self.assert_denied(machine, f"libvirt-{UUID}", QEMU)
