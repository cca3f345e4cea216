# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Other ways to move a VM: to a file, postcopy, snapshots of a paused VM; and VMs without the
device.
"""

from avocado_vsva import VsvaTest, migration
from avocado_vsva.qmp import ExecuteError

LONG_DEADLINE = {"drain-timeout": 60000}


class MigrationKinds(VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,migration
    """

    def test_save_to_file_with_fault_outstanding_restores_everything(self):
        source = self.new_source(vsva=LONG_DEADLINE)
        self.hold_faults(source, 1)
        uri = f"file:{self.sockets}/state"
        since = migration.start_outgoing(source, uri)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        source.guest.cmd("dma 0 10 src=fresh dst=fresh")
        source.guest.release_faults()
        self.assertEqual(
            migration.wait_status(source, since), "completed", migration.reason(source)
        )
        source.quit()
        restored = self.new_destination(vsva=LONG_DEADLINE)
        restored.qmp.cmd("migrate-incoming", uri=uri)
        migration.resumed_at(restored)
        self.assert_all_done(restored, 11)

    def test_postcopy_with_fault_outstanding_drains_before_stop(self):
        source, destination = self.new_pair(vsva=LONG_DEADLINE)
        try:
            migration.prepare(destination, postcopy_ram=True)
        except ExecuteError as error:
            self.cancel(f"no postcopy on this host (root has it): {error}")
        self.hold_faults(source, 1)
        source.guest.cmd("dirty start mb=32")
        since = self.start_migration(
            source, destination, {"max-bandwidth": 8 << 20}, postcopy_ram=True
        )
        source.qmp.cmd("migrate-start-postcopy")
        source.qmp.wait("VSVA_DRAIN_STARTED", 60, since)
        self.assertIsNone(source.qmp.events.absent(lambda event: event.name == "STOP", 0.3, since))
        source.guest.cmd("dma 0 10 src=fresh dst=fresh")
        source.guest.release_faults()
        migration.wait_status(source, since, ("postcopy-active",))
        source.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
        self.assert_migrated(source, destination, since)
        destination.guest.cmd("dirty stop")
        self.assert_all_done(destination, 11)

    def test_paused_vm_with_fault_outstanding_is_not_migrated(self):
        source, destination = self.new_pair()
        self.hold_faults(source, 1)
        source.qmp.cmd("stop")
        try:
            since = self.start_migration(source, destination)
            self.assertEqual(migration.wait_status(source, since), "failed")
            reason = migration.reason(source)
        except ExecuteError as error:
            reason = str(error)
        self.assertRegex(reason, "vsva0|td0")
        source.qmp.cmd("cont")
        source.guest.release_faults()
        self.assert_all_done(source, 1)

    def test_paused_vm_without_fault_is_migrated(self):
        source, destination = self.new_pair()
        source.guest.cmd("dma 0 10 src=fresh dst=fresh")
        self.assert_all_done(source, 10)
        source.qmp.cmd("stop")
        since = self.start_migration(source, destination)
        self.assertEqual(
            migration.wait_status(source, since), "completed", migration.reason(source)
        )
        destination.qmp.cmd("cont")
        destination.guest.cmd("dma 0 10 src=fresh dst=fresh")
        self.assert_all_done(destination, 20)

    def assert_refused(self, source, reason):
        with self.assertRaisesRegex(ExecuteError, reason):
            source.qmp.cmd("migrate", uri=f"file:{self.sockets}/state")
        self.assertEqual(source.qmp.cmd("query-status")["status"], "running")
        source.guest.release_faults()
        self.assert_all_done(source, 1)

    def test_background_snapshot_is_refused_and_the_vm_goes_on(self):
        source = self.new_source()
        self.hold_faults(source, 1)
        try:
            migration.prepare(source, background_snapshot=True)
        except ExecuteError as error:
            self.cancel(f"no background snapshots on this host (root has them): {error}")
        self.assert_refused(source, "'vsva0' cannot be drained for a background snapshot")

    def test_cpr_is_refused_and_the_vm_goes_on(self):
        source = self.new_source()
        self.hold_faults(source, 1)
        source.qmp.cmd("migrate-set-parameters", mode="cpr-reboot")
        self.assert_refused(source, "'vsva0' cannot be drained for CPR")

    def migrate_plain(self, smmu):
        source = self.new_vm("source", test_devices=0, smmu=smmu).boot()
        destination = self.new_vm("destination", test_devices=0, smmu=smmu, incoming=True)
        since = self.start_migration(source, destination)
        self.assert_migrated(source, destination, since)
        self.assertEqual(destination.guest.cmd("hello")["devices"], 0)
        self.assertEqual(
            [event.name for event in source.qmp.events.all(since) if event.name.startswith("VSVA")],
            [],
        )

    def test_guest_without_sva_device_stalls_off_boots_and_migrates(self):
        self.migrate_plain({})

    def test_guest_without_sva_device_stalls_on_boots_and_migrates(self):
        self.migrate_plain({"stall": "on", "ssidsize": 8})
