# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Live migration with page faults outstanding: the drain comes before the stop, and nothing is
lost.
"""

from avocado_vsva import VsvaTest, migration
from avocado_vsva.drain_bodies import DrainBodies
from avocado_vsva.procstat import MIGRATION_THREAD, ThreadCpu

CPU_WINDOW = 2.0
THROTTLE_WOULD_BEGIN = 4.0
CPU_LIMIT = 0.02


class MigrationDrain(DrainBodies, VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,migration
    """

    def test_migration_without_faults_completes(self):
        source, destination = self.new_pair()
        since = self.start_migration(source, destination)
        self.assert_migrated(source, destination, since)
        self.assert_drained_before_stop(source, since)
        destination.guest.cmd("dma 0 8 src=fresh dst=fresh")
        self.assert_all_done(destination, 8)

    def test_migration_slot_half_written_before_trap_is_executed_once(self):
        source, destination = self.new_pair(vsva=self.no_deadline)
        self.hold_faults(source, 1)
        source.guest.cmd("half 0")
        since = self.start_migration(source, destination)
        self.assert_waits_for_answer(source, since)
        source.guest.cmd("finish 0")
        self.assertGreater(source.guest.cmd("status")["device"]["trapped"], 0)
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        self.assert_all_done(destination, 2)
        device = destination.guest.cmd("status")["device"]
        self.assertEqual(
            (device["replayed"], device["gaps"], device["duplicates"], device["bad_desc"]),
            (device["trapped"], 0, 0, 0),
        )

    def test_migration_slot_half_written_before_untrap_is_executed_once(self):
        source, destination = self.new_pair(vsva=self.no_deadline)
        self.hold_faults(source, 1)
        since = self.start_migration(source, destination)
        self.assert_waits_for_answer(source, since)
        source.guest.cmd("half 0")
        trapped = source.guest.cmd("status")["device"]["trapped"]
        self.assertGreater(trapped, 0)
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        destination.qmp.wait("VSVA_RELEASED", 30)
        destination.guest.cmd("finish 0")
        self.assert_all_done(destination, 2)
        device = destination.guest.cmd("status")["device"]
        self.assertEqual(
            (device["replayed"], device["trapped"], device["gaps"], device["bad_desc"]),
            (trapped, trapped, 0, 0),
        )

    def test_cancel_slot_half_written_across_both_switches_is_executed_once(self):
        source, destination = self.new_pair(vsva=self.no_deadline)
        self.hold_faults(source, 1)
        source.guest.cmd("half 0")
        since = self.start_migration(source, destination)
        self.assert_waits_for_answer(source, since)
        source.qmp.cmd("migrate_cancel")
        self.assertEqual(migration.wait_status(source, since), "cancelled")
        source.qmp.wait("VSVA_RELEASED", 30, since)
        source.guest.cmd("finish 0")
        source.guest.release_faults()
        self.assert_all_done(source, 2)

    def test_migration_while_drain_waits_uses_under_2_percent_of_a_cpu(self):
        backend = self.new_backend("source")
        source = self.new_vm(backend=backend, vsva=self.no_deadline).boot()
        destination = self.new_destination(vsva=self.no_deadline)
        self.hold_faults(source, 1)
        since = self.start_migration(source, destination)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        cpu = ThreadCpu(source.process.pid, MIGRATION_THREAD)
        stop = source.qmp.events.absent(lambda event: event.name == "STOP", CPU_WINDOW, since)
        share = cpu.share()
        self.assertIsNone(stop)
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        answered = backend.wait("answer_written", 30)["time"]
        latency = source.qmp.find("STOP", since)[0].time - answered
        self.log.info(
            "migration thread while the drain waits: %.2f %% CPU; last answer to STOP: %.2f ms",
            share * 100,
            latency * 1000,
        )
        self.assertLess(share, CPU_LIMIT)
        self.assertGreater(latency, 0)

    def test_migration_there_and_back_under_load_loses_nothing(self):
        source, middle = self.new_pair()
        source.guest.cmd("load 0 start rate=500 total=3000")
        source.guest.wait("completed=200", 60)
        self.assert_migrated(source, middle, self.start_migration(source, middle))
        source.quit()
        middle.guest.wait("completed=1000", 60)
        last = self.new_destination(name="last")
        self.assert_migrated(middle, last, self.start_migration(middle, last))
        last.guest.wait("completed=3000", 60)
        self.assert_all_done(last, 3000)

    def test_migration_with_pause_before_switchover_drains_before_pause(self):
        source, destination = self.new_pair(vsva=self.no_deadline)
        self.hold_faults(source, 1)
        since = self.start_migration(source, destination, pause_before_switchover=True)
        self.assert_waits_for_answer(source, since)
        source.guest.release_faults()
        migration.wait_status(source, since, ("pre-switchover",))
        self.assert_drained_before_stop(source, since)
        source.qmp.cmd("migrate-continue", state="pre-switchover")
        self.assert_migrated(source, destination, since)
        self.assert_all_done(destination, 1)

    def test_migration_with_multifd_one_fault_outstanding_drains_before_stop(self):
        source, destination = self.new_pair(vsva=self.no_deadline)
        self.hold_faults(source, 1)
        since = self.start_migration(source, destination, multifd=True)
        self.assert_waits_for_answer(source, since)
        source.guest.cmd("dma 0 20 src=fresh dst=fresh")
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        self.assert_drained_before_stop(source, since)
        self.assert_all_done(destination, 21)

    def test_migration_with_auto_converge_does_not_throttle_the_guest_that_must_answer(self):
        source, destination = self.new_pair(vsva=self.no_deadline)
        self.hold_faults(source, 1)
        source.guest.cmd("dirty start mb=16 rate=24")
        since = self.start_migration(
            source, destination, {"throttle-trigger-threshold": 1}, auto_converge=True
        )
        source.qmp.wait("VSVA_DRAIN_STARTED", 60, since)
        stop = source.qmp.events.absent(
            lambda event: event.name == "STOP", THROTTLE_WOULD_BEGIN, since
        )
        self.assertIsNone(stop)
        self.assertEqual(source.qmp.cmd("query-migrate").get("cpu-throttle-percentage", 0), 0)
        self.assertEqual(source.qmp.cmd("query-vsva")[0]["outstanding"], 1)
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        destination.guest.cmd("dirty stop")
        self.assert_all_done(destination, 1)
