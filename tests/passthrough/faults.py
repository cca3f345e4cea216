# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Page faults of a passed-through device: from the host's SMMU to the guest, and back to it."""

from avocado_vsva import migration

from passthrough import PassthroughTest

NO_DEADLINE_IN_TEST = {"drain-timeout": 240000}


class PassthroughFaults(PassthroughTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vfio-pci,device:vhost-user-vsva,faults
    """

    def test_dma_to_untouched_memory_is_answered_by_the_guest_once(self):
        backend = self.new_backend("source")
        vm = self.new_vm(backend=backend).boot()
        vm.guest.cmd("dma 0 16 src=fresh dst=fresh")
        self.assert_all_done(vm, 16)
        faults = vm.guest.cmd("status")["device"]["faults"]
        self.assertGreaterEqual(faults, 32)
        vm.quit()
        self.assertGreaterEqual(self.assert_stalls_ended_once().retried, faults)

    def migrate_with_faults(self, count):
        source, destination = self.new_pair(vsva=NO_DEADLINE_IN_TEST)
        self.hold_faults(source, count)
        since = self.start_migration(source, destination)
        source.qmp.wait("VSVA_DRAIN_STARTED", 120, since)
        self.assertEqual(source.qmp.cmd("query-vsva")[0]["outstanding"], count)
        source.guest.release_faults()
        self.assertEqual(migration.wait_status(source, since, timeout=180), "completed", migration.reason(source))
        self.assert_drained_before_stop(source, since)
        self.assert_all_done(destination, count)
        destination.guest.cmd("dma 0 8 src=fresh dst=fresh")
        self.assert_all_done(destination, count + 8)
        self.assert_stalls_ended_once()

    def test_migration_with_one_fault_outstanding_drains_before_stop(self):
        self.migrate_with_faults(1)

    def test_migration_with_64_faults_outstanding_drains_before_stop(self):
        self.migrate_with_faults(64)
