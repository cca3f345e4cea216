# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A new back-end is installed while a domain runs."""

import hashlib
import shutil
import subprocess

from libvirt_vsva import LibvirtTest
from migration import migrate


class Upgrade(LibvirtTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,libvirt,migration
    """

    def new_program(self):
        """Another program, as it has one byte more, that does the same."""
        path = self.scratch / "new-vhost-user-vsva"
        path.write_bytes(self.environment.backend.read_bytes() + b"\n")
        path.chmod(0o755)
        return path

    @staticmethod
    def digest(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def test_upgrade_with_faults_and_submissions_domain_goes_on_and_migrates_to_the_new_program(self):
        old, new = self.environment.backend, self.new_program()
        destination = self.new_domain(self.new_host("destination"))
        source = self.new_loaded()
        since = len(source.events)
        for domain in (source, destination):
            domain.host.upgrade(new)
        self.assertEqual(source.backend_digest(), self.digest(old))
        migration = migrate(source, destination.host)
        source.wait_event("VSVA_DRAIN_STARTED", 60, since)
        source.guest.release_faults()
        self.assertIsNone(migration.finish())
        destination.connect()
        self.assertEqual(destination.backend_digest(), self.digest(new))
        self.assert_load_done(destination)
        self.assertIsNone(migrate(destination, source.host).finish())
        source.connect()
        self.assertEqual(source.backend_digest(), self.digest(new))
        source.guest.cmd("dma 0 100 src=fresh dst=fresh")
        self.assert_all_done(source, 2108)

    def test_upgrade_disk_full_changes_nothing_and_domains_start_as_before(self):
        domain = self.new_domain(self.new_host()).define()
        host, folder = domain.host, "/usr/libexec/vhost-user-vsva"
        size = self.environment.backend.stat().st_size * 3 // 2
        host.run("mount", "-t", "tmpfs", "-o", f"mode=755,size={size}", "tmpfs", folder)
        shutil.copy(self.environment.backend, host.path(folder) / "vhost-user-vsva")
        files = ("find", "/etc/apparmor.d", "/etc/libvirt", "/usr/bin", folder, "-type", "f", "-ls")
        before = host.run(*files).stdout
        with self.assertRaises(subprocess.CalledProcessError):
            host.upgrade(self.new_program())
        self.assertEqual(host.run(*files).stdout, before)
        domain.start()
        self.assertEqual(domain.backend_digest(), self.digest(self.environment.backend))

    def test_uninstall_is_refused_while_a_backend_runs_then_leaves_nothing(self):
        domain = self.new_running()
        host = domain.host
        shutil.copytree(self.environment.deploy, host.path("/root/deploy"))
        uninstall = ("/root/deploy/install", "--uninstall")
        self.assert_command_fails(domain.service, host.run, *uninstall)
        self.assertTrue(host.path("/etc/libvirt/hooks/qemu.d/vhost-user-vsva").exists())
        domain.virsh("destroy")
        host.run(*uninstall)
        host.run("systemctl", "daemon-reload")
        self.assertEqual(host.run("find", "/etc", "/usr", "-name", "*vsva*").stdout, "")

    def test_upgrade_next_start_of_the_domain_takes_the_new_program(self):
        old, new = self.environment.backend, self.new_program()
        domain = self.new_running()
        domain.host.upgrade(new)
        domain.guest.cmd("dma 0 100 src=fresh dst=fresh")
        self.assert_all_done(domain, 100)
        self.assertEqual(domain.backend_digest(), self.digest(old))
        domain.virsh("destroy")
        domain.start()
        self.assertEqual(domain.backend_digest(), self.digest(new))
        domain.guest.cmd("dma 0 100 src=fresh dst=fresh")
        self.assert_all_done(domain, 100)
