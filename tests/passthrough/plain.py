# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A device that is passed through to a guest without an IOMMU: what works before faults come
into it.
"""

from avocado_vsva.qmp import ExecuteError

from passthrough import PassthroughTest

DEVICE_ID, SLOTS = 0x76535641, 65536


class PlainPassthrough(PassthroughTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vfio-pci
    """

    devices = 1

    def test_registers_and_dma_of_passed_through_device_are_right(self):
        vm = self.new_vm(driver="vfio-pci").boot()
        kvm = vm.qmp.cmd("query-kvm")
        self.assertEqual((kvm["present"], kvm["enabled"]), (True, True))
        device = vm.guest.cmd("status")["device"]
        self.assertEqual((device["id"], device["version"], device["slots"]), (DEVICE_ID, 1, SLOTS))
        self.assertEqual(vm.guest.cmd("dma 50", 120)["done"], 50)
        device = vm.guest.cmd("status")["device"]
        self.assertEqual(
            (device["next"], device["started"], device["completed"], device["aborted"]),
            (50, 50, 50, 0),
        )

    def test_portal_that_is_not_mapped_takes_the_stores_of_the_guest(self):
        vm = self.new_vm(driver="vfio-pci", device={"x-no-mmap": "on"}).boot()
        self.assertEqual(vm.guest.cmd("dma 20", 120)["done"], 20)
        self.assertEqual(vm.guest.cmd("status")["device"]["completed"], 20)

    def test_function_level_reset_by_the_guest_starts_over(self):
        vm = self.new_vm().boot()
        vm.guest.cmd("dma 5", 120)
        device = vm.guest.cmd("reset")["device"]
        self.assertEqual((device["ctrl"], device["next"], device["completed"]), (0, 0, 0))
        vm.guest.cmd("enable")
        vm.guest.cmd("dma 5", 120)
        self.assertEqual(vm.guest.cmd("status")["device"]["completed"], 5)

    def test_device_of_the_guest_before_is_found_empty(self):
        vm = self.new_vm("first").boot()
        vm.guest.cmd("dma 3", 120)
        vm.quit()
        vm = self.new_vm("second").boot()
        device = vm.guest.cmd("status")["device"]
        self.assertEqual((device["next"], device["completed"]), (0, 0))
        vm.guest.cmd("dma 3", 120)

    def test_migration_without_variant_driver_is_refused(self):
        vm = self.new_vm(driver="vfio-pci").boot()
        vm.guest.cmd("dma 3", 120)
        with self.assertRaisesRegex(ExecuteError, "VFIO migration is not supported in kernel"):
            vm.qmp.cmd("migrate", uri="exec:cat >/dev/null")
        vm.guest.cmd("dma 3", 120)
