# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The QMP command stop with stop-timeout set: management software stops a VM before it saves it."""

from avocado_vsva import VsvaTest, migration
from avocado_vsva.qmp import ExecuteError
from avocado_vsva.stop_bodies import IMPATIENT, PATIENT, StopBodies

ROUNDS = 40


class StopWaits(StopBodies, VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,stop
    """

    def test_stop_under_load_drains_and_the_vm_can_be_saved(self):
        source = self.new_source(vsva=PATIENT)
        source.guest.cmd("dma 0 3000 src=fresh dst=fresh")
        since, stop = self.begin_stop(source)
        stop.result()
        self.assert_drained_before_stop(source, since)
        restored = self.save_and_restore(source, vsva=PATIENT)
        self.assert_all_done(restored, 3000)

    def test_stop_under_load_then_cont_replays_in_order(self):
        source = self.new_source(vsva=PATIENT)
        source.guest.cmd("dma 0 3000 src=fresh dst=fresh")
        since, stop = self.begin_stop(source)
        stop.result()
        source.qmp.cmd("cont")
        source.qmp.wait("VSVA_RELEASED", 30, since)
        self.assert_all_done(source, 3000)

    def test_portal_switched_back_and_forth_while_the_guest_writes_loses_nothing(self):
        source = self.new_source(vsva={"stop-timeout": 50, "drain-timeout": 60000})
        stops = 0
        for _ in range(ROUNDS):
            writes = self.pool.submit(source.guest.cmd, "dma 0 1000 src=warm dst=warm")
            while not writes.done():
                try:
                    source.qmp.cmd("stop")
                    stops += 1
                    source.qmp.cmd("cont")
                except ExecuteError as error:
                    self.assertIn("not drained within 50 ms", str(error))
            writes.result()
            source.guest.wait("idle")
        self.assertGreater(stops, ROUNDS)
        self.assert_all_done(source, 1000 * ROUNDS)

    def test_stop_waiting_does_not_freeze_the_guest(self):
        source = self.new_source(vsva=PATIENT)
        self.hold_faults(source, 1)
        since, stop = self.begin_stop(source)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        for _ in range(20):
            source.guest.cmd("hello")
        self.assertFalse(stop.done())
        source.guest.release_faults()
        stop.result()

    def test_stop_by_hmp_does_not_wait_and_save_is_refused(self):
        source = self.new_source(vsva=PATIENT)
        self.hold_faults(source, 1)
        source.qmp.hmp("stop")
        self.assertEqual(source.qmp.cmd("query-status")["status"], "paused")
        with self.assertRaisesRegex(ExecuteError, "'vsva0': the VM was stopped with 1 page fault"):
            source.qmp.cmd("migrate", uri=f"file:{self.sockets}/state")
        self.assertEqual(source.qmp.cmd("query-status")["status"], "paused")
        source.qmp.cmd("cont")
        source.guest.release_faults()
        self.assert_all_done(source, 1)

    def test_stop_while_migration_drains_both_end(self):
        source, destination = self.new_pair(vsva=PATIENT)
        self.hold_faults(source, 1)
        since = self.start_migration(source, destination)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        _, stop = self.begin_stop(source)
        source.guest.cmd("dma 0 10 src=fresh dst=fresh")
        source.guest.release_faults()
        stop.result()
        self.assertEqual(
            migration.wait_status(source, since), "completed", migration.reason(source)
        )
        self.assert_drained_before_stop(source, since)
        destination.qmp.wait("MIGRATION", 60, status="completed")
        destination.qmp.cmd("cont")
        self.assert_all_done(destination, 11)

    def test_stop_given_up_leaves_a_draining_migration_alone(self):
        source, destination = self.new_pair(vsva=IMPATIENT)
        self.hold_faults(source, 1)
        since = self.start_migration(source, destination)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        _, stop = self.begin_stop(source)
        with self.assertRaises(ExecuteError):
            stop.result()
        self.assertEqual(source.qmp.cmd("query-vsva")[0]["phase"], "draining")
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        self.assertEqual(source.qmp.find("VSVA_DRAIN_FAILED", since), [])
        self.assert_all_done(destination, 1)
