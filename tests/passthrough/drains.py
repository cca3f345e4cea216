# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Drains of passed-through devices: the tests of an emulated one, with the host's own kernel."""

from avocado_vsva import migration
from avocado_vsva.drain_bodies import DrainBodies
from avocado_vsva.failure_bodies import FailureBodies
from avocado_vsva.stop_bodies import StopBodies

from passthrough import PassthroughTest

LONG = {"drain-timeout": 240000}


class PassthroughDrain(DrainBodies, PassthroughTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vfio-pci,device:vhost-user-vsva,migration
    """

    devices = 4
    driver_options = "stop_timeout_ms=240000"
    no_deadline = LONG
    load_rate = 500
    load_memory = "src=warm dst=warm"


class PassthroughFailure(FailureBodies, PassthroughTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vfio-pci,device:vhost-user-vsva,migration,failure
    """

    devices = 3
    driver_options = "stop_timeout_ms=30000"
    long_deadline = LONG
    deadline_ms = 15000

    def test_destination_that_does_not_take_the_state_fails_the_migration(self):
        source, destination = self.new_pair(vsva=self.long_deadline)
        self.host.inject(destination.functions[0], "write")
        _, since = self.start_drain(source, destination)
        source.guest.cmd("dma 0 10 src=fresh dst=fresh")
        source.guest.release_faults()
        self.assertEqual(migration.wait_status(source, since), "failed")
        source.qmp.wait("VSVA_RELEASED", 60, since)
        self.assert_goes_on_and_migrates(source, 11, vsva=self.long_deadline)


class PassthroughStop(StopBodies, PassthroughTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vfio-pci,device:vhost-user-vsva,stop
    """
