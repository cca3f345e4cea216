# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Backends and destinations that do not fit: a clear error on every side, and the source goes
on.
"""

from unittest import mock

from avocado_vsva import VsvaTest, command_line, migration
from avocado_vsva.qmp import ExecuteError
from avocado_vsva.vm import VmError


class MigrationPeers(VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,migration,peers
    """

    def assert_source_runs_on(self, source, since):
        """The migration has failed, and the guest runs on its fast path."""
        self.assertEqual(migration.wait_status(source, since), "failed")
        source.guest.cmd("dma 0 20 src=fresh dst=fresh")
        self.assert_all_done(source, 30)
        self.assertEqual(source.qmp.cmd("query-status")["status"], "running")

    def assert_source_goes_on(self, source, since, *backend_options):
        """It runs on, and a fitting destination takes it."""
        self.assert_source_runs_on(source, since)
        second = self.new_destination(*backend_options, name="second")
        self.assert_migrated(source, second, self.start_migration(source, second))
        self.assert_all_done(second, 30)

    def new_working_source(self):
        source = self.new_source()
        source.guest.cmd("dma 0 10 src=fresh dst=fresh")
        return source

    def test_migrate_backend_without_blocking_bit_is_refused_at_once(self):
        source = self.new_source("--x-no-migration-blocking")
        migration.prepare(source)
        with self.assertRaises(ExecuteError) as refused:
            source.qmp.cmd("migrate", uri=f"unix:{self.sockets}/nobody.sock")
        self.assertIn("vsva0", str(refused.exception))
        self.assertIn("VSVA_F_MIGRATION_BLOCKING", str(refused.exception))
        self.assertFalse(source.qmp.cmd("query-vsva")[0]["migratable"])
        self.assertEqual(source.qmp.find("STOP"), [])
        source.guest.cmd("dma 0 10 src=fresh dst=fresh")
        self.assert_all_done(source, 10)

    def test_destination_backend_without_blocking_bit_fails_on_both_sides(self):
        source = self.new_working_source()
        destination = self.new_destination("--x-no-migration-blocking")
        since = self.start_migration(source, destination)
        self.assertNotEqual(destination.wait_exit(), 0)
        self.assertIn("vsva0", destination.messages())
        self.assert_source_goes_on(source, since)

    def test_destination_without_vsva_device_fails_on_both_sides(self):
        source = self.new_working_source()
        destination = self.new_vm("destination", incoming=True, test_devices=0)
        since = self.start_migration(source, destination)
        self.assertNotEqual(destination.wait_exit(), 0)
        self.assertRegex(destination.messages(), "vsva")
        self.assert_source_goes_on(source, since)

    def test_destination_with_the_device_at_another_address_fails_on_both_sides(self):
        source = self.new_working_source()
        other = command_line.FIRST_TEST_DEVICE + 1
        with mock.patch.object(command_line, "FIRST_TEST_DEVICE", other):
            destination = self.new_destination()
        since = self.start_migration(source, destination)
        self.assertNotEqual(destination.wait_exit(), 0)
        self.assertIn('Unknown ramblock "0000:00:10.0/vsva-testdev', destination.messages())
        self.assert_source_goes_on(source, since)

    def test_destination_whose_backend_does_not_run_does_not_start(self):
        backend = self.new_backend("destination")
        backend.kill()
        with self.assertRaises(VmError) as refused:
            self.new_vm("destination", backend=backend, incoming=True)
        self.assertIn("vsva", str(refused.exception))

    def test_destination_backend_lost_before_load_fails_on_both_sides(self):
        source = self.new_working_source()
        backend = self.new_backend("destination")
        destination = self.new_vm("destination", backend=backend, incoming=True)
        backend.kill()
        destination.qmp.wait("VSVA_BACKEND_DISCONNECTED", 10)
        since = self.start_migration(source, destination)
        self.assertNotEqual(destination.wait_exit(), 0)
        self.assertIn("vsva0", destination.messages())
        self.assert_source_goes_on(source, since)

    def test_destination_backend_too_old_for_the_state_fails_on_both_sides(self):
        source = self.new_source("--x-state-version", "2")
        source.guest.cmd("dma 0 10 src=fresh dst=fresh")
        backend = self.new_backend("destination")
        destination = self.new_vm("destination", backend=backend, incoming=True)
        since = self.start_migration(source, destination)
        self.assertNotEqual(destination.wait_exit(), 0)
        # QEMU reads the state as well, and does so before it hands it on.
        self.assertRegex(destination.messages(), "vsva0.*version 2")
        self.assert_source_runs_on(source, since)
