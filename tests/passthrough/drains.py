# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Drains of passed-through devices: the tests of an emulated one, with the host's own kernel."""

from avocado_vsva import migration
from avocado_vsva.drain_bodies import DrainBodies
from avocado_vsva.failure_bodies import FailureBodies
from avocado_vsva.stop_bodies import StopBodies

from passthrough import PassthroughTest

LONG = {"drain-timeout": 240000}
WAIT = 0.5
NOT_STOPPED = "not stopped: -110"


class PassthroughDrain(DrainBodies, PassthroughTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vfio-pci,device:vhost-user-vsva,migration
    """

    devices = 4
    # VFIO migrates several devices only if they have P2P.
    driver_options = "stop_timeout_ms=240000 p2p=1"
    no_deadline = LONG
    load_rate = 500
    load_memory = "src=warm dst=warm"


    def test_read_of_a_trapped_portal_that_waits_holds_nobody_else(self):
        source, destination = self.new_pair(vsva=self.no_deadline)
        self.hold_faults(source, 1)
        since = self.start_migration(source, destination)
        self.assert_waits_for_answer(source, since)
        self.host.inject(source.functions[0], "read")
        number = source.guest.tell("peek 0")

        def is_answer(line):
            return line.get("id") == number

        self.assertIsNone(source.guest.lines.absent(is_answer, WAIT))
        self.assertEqual(source.qmp.cmd("query-vsva")[0]["outstanding"], 1)
        self.host.inject(source.functions[0], "read", False)
        self.assertTrue(source.guest.lines.wait(is_answer, "the word", 60)[1]["ok"])
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        self.assert_all_done(destination, 1)


class ImpatientDriver(PassthroughTest):
    """
    The driver gives up to stop the device long before the guest answers.

    :avocado: tags=arch:aarch64,machine:virt,device:vfio-pci,device:vhost-user-vsva,migration
    """

    driver_options = "stop_timeout_ms=300"

    def test_driver_that_gives_up_is_asked_again_until_the_guest_has_answered(self):
        source, destination = self.new_pair(vsva=LONG)
        self.hold_faults(source, 4)
        since = self.start_migration(source, destination)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        line = 0
        for _ in range(3):
            line = (
                self.host.console.wait(lambda line: NOT_STOPPED in line, NOT_STOPPED, 60, line)[0]
                + 1
            )
        source.guest.cmd("dma 0 10 src=fresh dst=fresh")
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        self.assert_drained_before_stop(source, since)
        self.assert_all_done(destination, 14)


class ImpatientDriverWithPreCopy(ImpatientDriver):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vfio-pci,device:vhost-user-vsva,migration
    """

    driver_options = "stop_timeout_ms=300 p2p=1 pre_copy=1"


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

    requests = 2
