# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Interrupts of a passed-through device, whose doorbell is behind the guest's page tables."""

import time

from avocado_vsva import migration

from passthrough import PassthroughTest

TRIES, STEP = 600, 0.1


class PassthroughInterrupts(PassthroughTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vfio-pci,device:vhost-user-vsva,msi
    """

    hardware = ",msi=on"
    driver_options = "stop_timeout_ms=240000"

    def wait_interrupts(self, vm, more_than):
        """An interrupt comes after the record of the DMA."""
        for _ in range(TRIES):
            count = vm.guest.cmd("status")["device"]["interrupts"]
            if count > more_than:
                return count
            time.sleep(STEP)
        self.fail(f"no interrupt came after the first {more_than}")

    def test_msi_of_a_device_that_is_migrated_reaches_the_guest_on_both_hosts(self):
        source, destination = self.new_pair(vsva={"drain-timeout": 240000})
        source.guest.cmd("dma 0 8 src=fresh dst=fresh")
        self.assert_all_done(source, 8)
        self.wait_interrupts(source, 0)
        self.hold_faults(source, 4)
        since = self.start_migration(source, destination)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        self.assert_all_done(destination, 12)
        count = destination.guest.cmd("status")["device"]["interrupts"]
        destination.guest.cmd("dma 0 8 src=fresh dst=fresh")
        self.assert_all_done(destination, 20)
        self.wait_interrupts(destination, count)
        self.assertEqual(migration.reason(source), "")
