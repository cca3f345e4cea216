# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""VFIO's migration of a device by a variant driver, between two devices of one host; without
faults.
"""

from avocado_vsva import migration

from passthrough import PassthroughTest

BATCH = 20


class PlainMigration(PassthroughTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vfio-pci,migration
    """

    driver_options = "stop_timeout_ms=3000"

    def assert_device_works(self, vm, total):
        """The guest has done so many in all its life, and the device remembers them."""
        self.assertEqual(vm.guest.cmd(f"dma {BATCH}", 120)["total"], total)
        device = vm.guest.cmd("status")["device"]
        self.assertEqual(
            (device["next"], device["completed"], device["aborted"], device["bad_desc"]),
            (total, total, 0, 0),
        )

    def migrate(self, source, name):
        destination = self.new_vm(name, incoming=True)
        self.assert_migrated(source, destination, self.start_migration(source, destination))
        source.quit()
        return destination

    def migrate_to_and_fro(self, legs):
        vm = self.new_vm().boot()
        self.assert_device_works(vm, BATCH)
        functions = []
        for leg in range(legs):
            functions += vm.functions
            vm = self.migrate(vm, f"vm{leg}")
            self.assert_device_works(vm, BATCH * (leg + 2))
        return functions + vm.functions

    def failed_migration(self, source, destination):
        """Why it has failed; the source runs again."""
        since = self.start_migration(source, destination)
        self.assertEqual(migration.wait_status(source, since), "failed")
        if source.qmp.cmd("query-status")["status"] != "running":
            source.qmp.wait("RESUME", 60, since)
        return migration.reason(source)

    def test_migration_a_to_b_to_a_to_b_keeps_the_state_of_the_device(self):
        first, second = self.host.functions
        self.assertEqual(self.migrate_to_and_fro(3), [first, second, first, second])

    def test_migration_of_device_that_cannot_be_saved_fails_and_the_guest_goes_on(self):
        source = self.new_vm().boot()
        self.assert_device_works(source, BATCH)
        destination = self.new_vm("destination", incoming=True)
        self.host.inject(source.functions[0], "save")
        self.failed_migration(source, destination)
        self.assert_works_although_not_saved(source)

    def test_migration_of_device_that_does_not_stop_fails_and_the_guest_goes_on(self):
        source = self.new_vm().boot()
        self.assert_device_works(source, BATCH)
        destination = self.new_vm("destination", incoming=True)
        self.host.inject(source.functions[0], "stop")
        self.failed_migration(source, destination)
        self.host.inject(source.functions[0], "stop", False)
        self.assert_works_after_reset(source)

    def assert_works_although_not_saved(self, vm):
        self.assert_device_works(vm, 2 * BATCH)

    def assert_works_after_reset(self, vm):
        """QEMU has reset a device that it could not bring into a state."""
        self.assertEqual(vm.guest.cmd("status")["device"]["ctrl"], 0)
        vm.guest.cmd("enable")
        vm.guest.cmd(f"dma {BATCH}", 120)

    def test_migration_to_device_that_does_not_take_the_state_fails_and_the_guest_goes_on(self):
        source = self.new_vm().boot()
        self.assert_device_works(source, BATCH)
        destination = self.new_vm("destination", incoming=True)
        self.host.inject(destination.functions[0], "write")
        self.failed_migration(source, destination)
        self.assert_device_works(source, 2 * BATCH)

    def test_migration_to_device_that_cannot_load_the_state_says_so_and_resets_it(self):
        """Without vsva= QEMU lets the device load when the VM runs: the source has been told
        that all is well.
        """
        source = self.new_vm().boot()
        self.assert_device_works(source, BATCH)
        destination = self.new_vm("destination", incoming=True)
        self.host.inject(destination.functions[0], "load")
        self.assert_migrated(source, destination, self.start_migration(source, destination))
        self.assertIn("Failed setting device state to RUNNING", destination.messages())
        self.assert_works_after_reset(destination)


class PreCopyMigration(PlainMigration):
    """
    The same with a driver that also offers PRE_COPY and P2P.

    :avocado: tags=arch:aarch64,machine:virt,device:vfio-pci,migration
    """

    driver_options = "stop_timeout_ms=3000 p2p=1 pre_copy=1"

    def assert_works_although_not_saved(self, vm):
        """QEMU resets a device that does not go from PRE_COPY to STOP_COPY, and without a driver
        the guest knows not.
        """
        if vm.guest.cmd("status")["device"]["ctrl"]:
            self.assert_device_works(vm, 2 * BATCH)
        else:
            self.assert_works_after_reset(vm)
