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

    def test_upgrade_with_faults_and_submissions_domain_goes_on_and_migrates_to_the_new_program(
        self,
    ):
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

    def test_upgrade_by_one_command_with_faults_and_submissions_domain_runs_on_with_the_new_program(
        self,
    ):
        new = self.new_program()
        domain = self.new_loaded()
        since, host = len(domain.events), domain.host
        self.assertIn("ok    guest: it runs this program already", host.run("vsva-upgrade").stdout)
        host.upgrade(new)
        self.assertEqual(
            host.run("vsva-upgrade", "--check").stdout, "ok    guest: it can be upgraded\n"
        )
        self.assertEqual(domain.backend_digest(), self.digest(self.environment.backend))
        said = host.run("vsva-upgrade").stdout
        pause = self.assert_recovered(domain, since)
        self.assertEqual(said, f"ok    guest: upgraded; {pause} ms without a back-end\n")
        self.log.info("the pause of the upgrade: %d ms", pause)
        self.assertEqual(domain.backend_digest(), self.digest(new))
        self.assertGreaterEqual(domain.query()["outstanding"], 8)
        domain.guest.release_faults()
        self.assert_load_done(domain)
        self.assert_never_paused(domain, since)

    def test_upgrade_to_a_program_with_another_layout_is_refused_before_the_old_one_is_ended(self):
        other = self.scratch / "other-vhost-user-vsva"
        other.write_text(
            "#!/bin/sh\necho '{\"type\": \"vsva\", \"recovery-layout\": 2}'\n", encoding="utf-8"
        )
        other.chmod(0o755)
        domain = self.new_running()
        host, pid = domain.host, domain.backend_pid()
        host.upgrade(other)
        done = host.run("vsva-upgrade", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(
            "FAIL  guest: the program that runs keeps its tables in layout 1, "
            "the installed one reads layout 2",
            done.stdout,
        )
        self.assertEqual((domain.backend_pid(), domain.query()["recoveries"]), (pid, 0))
        domain.guest.cmd("dma 0 20 src=fresh dst=fresh")
        self.assert_all_done(domain, 20)

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
