# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Tests of migrations with page faults outstanding, of both kinds of device."""

WAIT_WITHOUT_STOP = 0.3


class DrainBodies:
    no_deadline = {"drain-timeout": 60000}
    load_rate = 2000
    load_memory = ""

    def assert_waits_for_answer(self, source, since):
        """The drain has begun and the vCPUs go on while it waits."""
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        stop = source.qmp.events.absent(
            lambda event: event.name == "STOP", WAIT_WITHOUT_STOP, since
        )
        self.assertIsNone(stop)

    def migrate_with_faults(self, count):
        source, destination = self.new_pair(vsva=self.no_deadline)
        self.hold_faults(source, count)
        since = self.start_migration(source, destination)
        self.assert_waits_for_answer(source, since)
        self.assertEqual(source.qmp.cmd("query-vsva")[0]["outstanding"], count)
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        self.assert_drained_before_stop(source, since)
        self.assertGreaterEqual(
            source.qmp.find("VSVA_DRAIN_COMPLETED", since)[0].data["answered"], count
        )
        self.assert_all_done(destination, count)
        destination.guest.cmd("dma 0 8 src=fresh dst=fresh")
        self.assert_all_done(destination, count + 8)

    def test_migration_one_fault_outstanding_drains_before_stop(self):
        self.migrate_with_faults(1)

    def test_migration_64_faults_outstanding_drains_before_stop(self):
        self.migrate_with_faults(64)

    def test_migration_two_devices_one_held_drains_both_before_stop(self):
        source, destination = self.new_pair(vsva=self.no_deadline, test_devices=2)
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
        source = self.new_vm(backend=backend, vsva=self.no_deadline).boot()
        destination_backend = self.new_backend("destination")
        destination = self.new_vm(
            "destination", backend=destination_backend, incoming=True, vsva=self.no_deadline
        )
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
        source, destination = self.new_pair(vsva=self.no_deadline)
        source.guest.cmd(f"load 0 start rate={self.load_rate} total=9999 {self.load_memory}")
        source.guest.wait("completed=1000", 120)
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
