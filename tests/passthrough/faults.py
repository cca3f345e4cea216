# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Page faults of a passed-through device: from the host's SMMU to the guest, and back to it."""

from avocado_vsva import migration

from passthrough import PassthroughTest

AT_ONCE = 8


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

    def test_migration_in_the_order_of_plain_qemu_fails_with_a_fault_outstanding(self):
        """The vCPUs stop first, so nobody answers the fault, and the device cannot be stopped
        any more.
        """
        source, destination = self.new_pair(vsva={"x-unsafe-no-drain": "on"})
        self.hold_faults(source, 1)
        since = self.start_migration(source, destination)
        self.assertEqual(migration.wait_status(source, since), "failed")
        self.assertEqual(source.qmp.find("VSVA_DRAIN_STARTED", since), [])
        self.assertTrue([line for line in self.host.console.all() if "not stopped: -110" in line])


class OneDevice(PassthroughTest):
    """
    What is done to a VM, and how the next one finds the device.

    :avocado: tags=arch:aarch64,machine:virt,device:vfio-pci,device:vhost-user-vsva,faults
    """

    devices = 1

    def assert_served(self, name):
        vm = self.new_vm(name, backend=self.new_backend(name)).boot()
        vm.guest.cmd("dma 0 16 src=fresh dst=fresh")
        self.assert_all_done(vm, 16)

    def new_vm_with_faults(self):
        backend = self.new_backend("first")
        vm = self.new_vm("first", backend=backend).boot()
        self.hold_faults(vm, AT_ONCE)
        return vm, backend

    def test_qemu_killed_with_faults_outstanding_leaves_the_device_to_the_next_one(self):
        vm, backend = self.new_vm_with_faults()
        vm.kill()
        backend.stop()
        self.assert_served("second")

    def test_backend_killed_with_faults_at_the_guest_is_followed_by_one_that_answers_them(self):
        backend = self.new_backend("first")
        backend.reconnect_ms = 50
        vm = self.new_vm("first", backend=backend, vsva={"recovery-timeout": 120000}).boot()
        self.assertTrue(vm.qmp.cmd("query-vsva")[0]["recoverable"])
        self.hold_faults(vm, AT_ONCE)
        since = len(vm.qmp.events)
        backend.kill()
        vm.qmp.wait("VSVA_BACKEND_AWAY", 30, since)
        self.new_backend("second", follows=backend)
        self.assertTrue(vm.qmp.wait("VSVA_BACKEND_RECOVERED", 60, since).data["complete"])
        self.assertEqual(vm.qmp.cmd("query-vsva")[0]["outstanding"], AT_ONCE)
        vm.guest.release_faults()
        self.assert_all_done(vm, AT_ONCE)
        vm.guest.cmd("dma 0 8 src=fresh dst=fresh")
        self.assert_all_done(vm, AT_ONCE + 8)
        vm.quit()
        self.assertEqual(self.assert_stalls_ended_once().aborted, 0)

    def test_qemu_and_backend_killed_with_faults_outstanding_leave_the_device_to_the_next_ones(
        self,
    ):
        vm, backend = self.new_vm_with_faults()
        backend.kill()
        vm.kill()
        self.assert_served("second")
