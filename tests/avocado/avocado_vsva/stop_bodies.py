# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Tests of the QMP command stop with stop-timeout set, of both kinds of device."""

from concurrent.futures import ThreadPoolExecutor

from . import migration
from .qmp import ExecuteError

PATIENT = {"stop-timeout": 10000, "drain-timeout": 60000}
IMPATIENT = {"stop-timeout": 500, "drain-timeout": 60000}


class StopBodies:
    requests = 50   # while the drain waits

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
        uri = self.state_uri()
        since = migration.start_outgoing(source, uri, self.migration_parameters)
        self.assertEqual(
            migration.wait_status(source, since), "completed", migration.reason(source)
        )
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
        source.guest.cmd(f"dma 0 {self.requests} src=fresh dst=fresh")
        self.assertIsNone(source.qmp.events.absent(lambda event: event.name == "STOP", 0.3, since))
        source.guest.release_faults()
        stop.result()
        self.assert_drained_before_stop(source, since)
        restored = self.save_and_restore(source, vsva=PATIENT)
        self.assertGreater(restored.qmp.wait("VSVA_RELEASED", 30).data["replayed"], 0)
        self.assert_all_done(restored, 4 + self.requests)

    def test_stop_never_answered_fails_names_the_fault_and_the_vm_goes_on(self):
        source = self.new_source(vsva=IMPATIENT)
        request = self.hold_faults(source, 1)
        since, stop = self.begin_stop(source)
        with self.assertRaisesRegex(
            ExecuteError, "'vsva0': not drained within 500 ms: 1 page fault.*SID 0x80"
        ) as error:
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
