# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Live migration with page faults outstanding: the drain comes before the stop, and nothing is lost."""

from avocado_vsva import VsvaTest, migration
from avocado_vsva.procstat import MIGRATION_THREAD, ThreadCpu

WAIT_WITHOUT_STOP = 0.3
CPU_WINDOW = 2.0
THROTTLE_WOULD_BEGIN = 4.0
CPU_LIMIT = 0.02
NO_DEADLINE_IN_TEST = {"drain-timeout": 60000}


class MigrationDrain(VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,migration
    """

    def assert_waits_for_answer(self, source, since):
        """The drain has begun and the vCPUs go on while it waits."""
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        stop = source.qmp.events.absent(lambda event: event.name == "STOP", WAIT_WITHOUT_STOP, since)
        self.assertIsNone(stop)

    def migrate_with_faults(self, count):
        source, destination = self.new_pair(vsva=NO_DEADLINE_IN_TEST)
        self.hold_faults(source, count)
        since = self.start_migration(source, destination)
        self.assert_waits_for_answer(source, since)
        self.assertEqual(source.qmp.cmd("query-vsva")[0]["outstanding"], count)
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        self.assert_drained_before_stop(source, since)
        self.assertGreaterEqual(source.qmp.find("VSVA_DRAIN_COMPLETED", since)[0].data["answered"], count)
        self.assert_all_done(destination, count)
        destination.guest.cmd("dma 0 8 src=fresh dst=fresh")
        self.assert_all_done(destination, count + 8)

    def test_migration_one_fault_outstanding_drains_before_stop(self):
        self.migrate_with_faults(1)

    def test_migration_64_faults_outstanding_drains_before_stop(self):
        self.migrate_with_faults(64)

    def test_migration_without_faults_completes(self):
        source, destination = self.new_pair()
        since = self.start_migration(source, destination)
        self.assert_migrated(source, destination, since)
        self.assert_drained_before_stop(source, since)
        destination.guest.cmd("dma 0 8 src=fresh dst=fresh")
        self.assert_all_done(destination, 8)

    def test_migration_two_devices_one_held_drains_both_before_stop(self):
        source, destination = self.new_pair(vsva=NO_DEADLINE_IN_TEST, test_devices=2)
        self.hold_faults(source, 4, device=1)
        source.guest.cmd("dma 0 100 src=fresh dst=fresh")
        since = self.start_migration(source, destination)
        self.assert_waits_for_answer(source, since)
        source.guest.cmd("dma 0 20 src=fresh dst=fresh")
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        self.assert_drained_before_stop(source, since)
        self.assert_all_done(destination, 124)

    def test_migration_submissions_during_drain_are_replayed_in_order(self):
        backend = self.new_backend("source")
        source = self.new_vm(backend=backend, vsva=NO_DEADLINE_IN_TEST).boot()
        destination_backend = self.new_backend("destination")
        destination = self.new_vm("destination", backend=destination_backend, incoming=True, vsva=NO_DEADLINE_IN_TEST)
        self.hold_faults(source, 1)
        since = self.start_migration(source, destination)
        self.assert_waits_for_answer(source, since)
        source.guest.cmd("dma 0 50 src=fresh dst=fresh")
        self.assertGreater(source.qmp.cmd("query-vsva")[0]["pending"], 0)
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        pending = source.qmp.find("VSVA_DRAIN_COMPLETED", since)[0].data["pending"]
        self.assertGreater(pending, 0)
        released = destination.qmp.wait("VSVA_RELEASED", 30)
        self.assertGreaterEqual(released.data["replayed"], pending)
        self.assert_all_done(destination, 51)
        tickets = [record["ticket"] for record in destination_backend.find("replay")]
        self.assertEqual(tickets, list(range(tickets[0], tickets[0] + len(tickets))))
        self.assertEqual(tickets[0], backend.find("submission_queued")[0]["ticket"])

    def test_migration_10000_dmas_under_load_are_executed_once_in_order(self):
        source, destination = self.new_pair(vsva=NO_DEADLINE_IN_TEST)
        source.guest.cmd("load 0 start rate=2000 total=9999")
        source.guest.wait("completed=1000", 60)
        self.hold_one_under_load(source)
        since = self.start_migration(source, destination)
        self.assert_waits_for_answer(source, since)
        self.assertGreater(source.qmp.cmd("query-vsva")[0]["pending"], 0)
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        self.assert_drained_before_stop(source, since)
        destination.guest.wait("completed=10000", 120)
        self.assert_all_done(destination, 10000)
        device = destination.guest.cmd("status")["device"]
        self.log.info("10,000 DMAs: %s", device)

    def hold_one_under_load(self, vm):
        vm.guest.cmd("hold on")
        vm.guest.cmd("dma 0 1 src=warm dst=held")
        vm.guest.wait("waiters=1")

    def test_migration_slot_half_written_before_trap_is_executed_once(self):
        source, destination = self.new_pair(vsva=NO_DEADLINE_IN_TEST)
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
        self.assertEqual((device["replayed"], device["gaps"], device["duplicates"], device["bad_desc"]),
                         (device["trapped"], 0, 0, 0))

    def test_migration_slot_half_written_before_untrap_is_executed_once(self):
        source, destination = self.new_pair(vsva=NO_DEADLINE_IN_TEST)
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
        self.assertEqual((device["replayed"], device["trapped"], device["gaps"], device["bad_desc"]),
                         (trapped, trapped, 0, 0))

    def test_cancel_slot_half_written_across_both_switches_is_executed_once(self):
        source, destination = self.new_pair(vsva=NO_DEADLINE_IN_TEST)
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
        source = self.new_vm(backend=backend, vsva=NO_DEADLINE_IN_TEST).boot()
        destination = self.new_destination(vsva=NO_DEADLINE_IN_TEST)
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
        self.log.info("migration thread while the drain waits: %.2f %% CPU; last answer to STOP: %.2f ms",
                      share * 100, latency * 1000)
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
        source, destination = self.new_pair(vsva=NO_DEADLINE_IN_TEST)
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
        source, destination = self.new_pair(vsva=NO_DEADLINE_IN_TEST)
        self.hold_faults(source, 1)
        since = self.start_migration(source, destination, multifd=True)
        self.assert_waits_for_answer(source, since)
        source.guest.cmd("dma 0 20 src=fresh dst=fresh")
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        self.assert_drained_before_stop(source, since)
        self.assert_all_done(destination, 21)

    def test_migration_with_auto_converge_does_not_throttle_the_guest_that_must_answer(self):
        source, destination = self.new_pair(vsva=NO_DEADLINE_IN_TEST)
        self.hold_faults(source, 1)
        source.guest.cmd("dirty start mb=16 rate=24")
        since = self.start_migration(source, destination, {"throttle-trigger-threshold": 1}, auto_converge=True)
        source.qmp.wait("VSVA_DRAIN_STARTED", 60, since)
        stop = source.qmp.events.absent(lambda event: event.name == "STOP", THROTTLE_WOULD_BEGIN, since)
        self.assertIsNone(stop)
        self.assertEqual(source.qmp.cmd("query-migrate").get("cpu-throttle-percentage", 0), 0)
        self.assertEqual(source.qmp.cmd("query-vsva")[0]["outstanding"], 1)
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        destination.guest.cmd("dirty stop")
        self.assert_all_done(destination, 1)
