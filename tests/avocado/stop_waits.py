# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The QMP command stop with stop-timeout set: management software stops a VM before it saves it."""

from concurrent.futures import ThreadPoolExecutor

from avocado_vsva import VsvaTest, migration
from avocado_vsva.qmp import ExecuteError

PATIENT = {"stop-timeout": 10000, "drain-timeout": 60000}
ROUNDS = 40
IMPATIENT = {"stop-timeout": 500, "drain-timeout": 60000}


class StopWaits(VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,stop
    """

    def setUp(self):
        super().setUp()
        self.pool = ThreadPoolExecutor(1)

    def tearDown(self):
        super().tearDown()
        self.pool.shutdown()

    def begin_stop(self, vm):
        """Nothing else is executed on QMP until the future is done."""
        since = len(vm.qmp.events)
        return since, self.pool.submit(vm.qmp.cmd, "stop", 60)

    def assert_failed_for_stop(self, vm, since, request):
        names = [event.name for event in vm.qmp.events.all(since) if event.name.startswith("VSVA_")]
        self.assertEqual(names, ["VSVA_DRAIN_STARTED", "VSVA_DRAIN_FAILED", "VSVA_RELEASED"])
        failed = vm.qmp.find("VSVA_DRAIN_FAILED", since)[0].data
        self.assertEqual((failed["id"], failed["reason"], failed["outstanding"], failed["sid"]),
                         ("vsva0", "stop-timeout", 1, 0x10 << 3))
        self.assertEqual(failed["address"] & ~0xfff, int(request["dst"], 0) & ~0xfff)
        self.assertGreater(failed["ssid"], 0)
        self.assertGreaterEqual(failed["age-ms"], IMPATIENT["stop-timeout"])
        self.assertRegex(failed["message"], "not drained within 500 ms: 1 page fault")

    def save_and_restore(self, source, **options):
        uri = f"file:{self.sockets}/state"
        since = migration.start_outgoing(source, uri)
        self.assertEqual(migration.wait_status(source, since), "completed", migration.reason(source))
        source.quit()
        restored = self.new_destination(**options)
        migration.prepare(restored)
        restored.qmp.cmd("migrate-incoming", uri=uri)
        restored.qmp.wait("MIGRATION", 60, status="completed")
        restored.qmp.cmd("cont")
        return restored

    def test_stop_with_faults_outstanding_waits_for_the_drain_and_the_vm_can_be_saved(self):
        source = self.new_source(vsva=PATIENT)
        self.hold_faults(source, 4)
        since, stop = self.begin_stop(source)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        source.guest.cmd("dma 0 50 src=fresh dst=fresh")
        self.assertIsNone(source.qmp.events.absent(lambda event: event.name == "STOP", 0.3, since))
        source.guest.release_faults()
        stop.result()
        self.assert_drained_before_stop(source, since)
        restored = self.save_and_restore(source, vsva=PATIENT)
        self.assertGreater(restored.qmp.wait("VSVA_RELEASED", 30).data["replayed"], 0)
        self.assert_all_done(restored, 54)

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

    def test_stop_never_answered_fails_names_the_fault_and_the_vm_goes_on(self):
        source = self.new_source(vsva=IMPATIENT)
        request = self.hold_faults(source, 1)
        since, stop = self.begin_stop(source)
        with self.assertRaisesRegex(ExecuteError, "'vsva0': not drained within 500 ms: 1 page fault.*SID 0x80") as error:
            stop.result()
        self.assertIn(f"{int(request['dst'], 0) & ~0xfff:#x}", str(error.exception))
        self.assertEqual(source.qmp.find("STOP", since), [])
        self.assertEqual(source.qmp.cmd("query-status")["status"], "running")
        source.qmp.wait("VSVA_RELEASED", 30, since)
        self.assert_failed_for_stop(source, since, request)
        source.guest.cmd("dma 0 10 src=fresh dst=fresh")
        source.guest.release_faults()
        self.assert_all_done(source, 11)
        since, stop = self.begin_stop(source)
        stop.result()
        self.assert_drained_before_stop(source, since)

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
        self.assertEqual(migration.wait_status(source, since), "completed", migration.reason(source))
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
