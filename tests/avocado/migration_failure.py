# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Drains that fail, are cancelled or disturbed: the guest goes on and nothing is lost."""

from avocado_vsva import VsvaTest, migration
from avocado_vsva.failure_bodies import FailureBodies


class MigrationFailure(FailureBodies, VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,migration,failure
    """

    def test_fault_outstanding_without_drain_fails_the_migration(self):
        source, destination = self.new_pair(vsva={"x-unsafe-no-drain": "on"})
        self.hold_faults(source, 1)
        since = self.start_migration(source, destination)
        self.assertEqual(migration.wait_status(source, since), "failed")
        self.assertRegex(migration.reason(source), "(vsva0|td0).*outstanding")
        self.assertEqual(source.qmp.find("VSVA_DRAIN_STARTED", since), [])
        source.guest.release_faults()
        self.assert_all_done(source, 1)

    def test_stop_while_draining_never_completes_with_fault_outstanding(self):
        source, destination = self.new_pair(vsva=self.long_deadline)
        _, since = self.start_drain(source, destination)
        source.qmp.cmd("stop")
        self.assertEqual(migration.wait_status(source, since), "failed")
        self.assertRegex(migration.reason(source), "vsva0|td0")
        self.assertEqual(source.qmp.cmd("query-vsva")[0]["outstanding"], 1)
        source.qmp.cmd("cont")
        self.assert_goes_on_and_migrates(source, 1, vsva=self.long_deadline)

    def leave_convergence(self, source):
        source.guest.cmd("dirty start mb=96")
        source.qmp.cmd("migrate-set-parameters", max_bandwidth=8 << 20, downtime_limit=10)

    def test_ram_leaving_convergence_while_draining_releases_the_portal(self):
        source, destination = self.new_pair(vsva=self.long_deadline)
        _, since = self.start_drain(source, destination)
        source.guest.cmd("dma 0 10 src=fresh dst=fresh")
        self.leave_convergence(source)
        source.qmp.wait("VSVA_RELEASED", 30, since)
        self.assertEqual(source.qmp.find("VSVA_DRAIN_FAILED", since), [])
        source.guest.wait("completed=10")
        again = len(source.qmp.events)
        source.guest.release_faults()
        source.guest.cmd("dirty stop")
        source.qmp.cmd("migrate-set-parameters", max_bandwidth=0, downtime_limit=300)
        source.qmp.wait("VSVA_DRAIN_STARTED", 60, again)
        self.assert_migrated(source, destination, since)
        self.assert_all_done(destination, 11)

    def test_ram_leaving_convergence_while_draining_keeps_the_deadline(self):
        source, destination = self.new_pair(vsva={"drain-timeout": 700})
        _, since = self.start_drain(source, destination)
        self.leave_convergence(source)
        source.qmp.wait("VSVA_DRAIN_FAILED", 30, since)
        self.assertEqual(migration.wait_status(source, since), "failed")
        source.qmp.wait("VSVA_RELEASED", 30, since)
        source.guest.cmd("dirty stop")
        source.qmp.cmd("migrate-set-parameters", max_bandwidth=0, downtime_limit=300)
        self.assert_goes_on_and_migrates(source, 1)

    def test_quit_while_draining_ends_qemu(self):
        source, destination = self.new_pair(vsva=self.long_deadline)
        self.start_drain(source, destination)
        source.qmp.cmd("quit")
        self.assertEqual(source.wait_exit(10), 0)

    def test_stop_and_cont_with_fault_outstanding_is_answered_after_cont(self):
        source = self.new_source()
        self.hold_faults(source, 4)
        source.qmp.cmd("stop")
        self.assertEqual(source.qmp.cmd("query-vsva")[0]["outstanding"], 4)
        source.qmp.cmd("cont")
        source.guest.release_faults()
        self.assert_all_done(source, 4)

    def test_fault_outstanding_without_backend_fails_the_migration(self):
        source = self.new_vm("source").boot()
        destination = self.new_vm("destination", incoming=True)
        self.hold_faults(source, 1)
        since = self.start_migration(source, destination)
        self.assertEqual(migration.wait_status(source, since), "failed")
        self.assertIn("td0", migration.reason(source))
        source.guest.release_faults()
        self.assert_all_done(source, 1)
        second = self.new_vm("second", incoming=True)
        self.assert_migrated(source, second, self.start_migration(source, second))
        second.guest.cmd("dma 0 8 src=fresh dst=fresh")
        self.assert_all_done(second, 9)
