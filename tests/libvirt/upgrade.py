# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A new back-end is installed while a domain runs."""

import hashlib

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
