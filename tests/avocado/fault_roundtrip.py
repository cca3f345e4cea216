# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A DMA fault of a guest process makes its round trip, with the backend and without it."""

from avocado_vsva import VsvaTest
from avocado_vsva.trace import read_trace

ALL_FRESH = "src=fresh dst=fresh"
EVENT_QUEUE_OF_4 = {"stall": "on", "ssidsize": 8, "x-eventq-log2size": 2}


class FaultRoundTrip(VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,faults
    """

    def assert_each_answered_once(self, backend):
        """No answer without a fault, no fault without an answer, by channel and cookie; the
        number of faults.
        """
        outstanding, count = set(), 0
        for record in backend.events.all():
            if record["event"] == "fault_read":
                self.assertNotIn((record["channel"], record["cookie"]), outstanding)
                outstanding.add((record["channel"], record["cookie"]))
                count += 1
            elif record["event"] == "answer_written":
                outstanding.remove((record["channel"], record["cookie"]))
                self.assertEqual((record["code"], record["faults"]), ("success", 1))
        self.assertEqual(outstanding, set())
        return count

    def assert_events_had_to_wait(self, vm):
        """The guest's event queue was full at some time, or the test would show nothing."""
        unreported, most = 0, 0
        for event in read_trace(vm.trace_path):
            if event.name == "smmuv3_deliver_event_no_room":
                return
            unreported += (event.name == "smmuv3_stall_hold") - (
                event.name == "smmuv3_stall_report"
            )
            most = max(most, unreported)
        self.assertGreater(most, 1)

    def test_dma_to_untouched_memory_with_backend_is_answered_by_guest(self):
        source = self.new_source()
        source.guest.cmd(f"dma 0 16 {ALL_FRESH}")
        self.assert_all_done(source, 16)
        device = source.guest.cmd("status")["device"]
        self.assertGreaterEqual(device["faults"], 32)
        status = source.qmp.cmd("query-vsva")[0]
        self.assertEqual(
            (status["id"], status["connected"], status["migratable"], status["outstanding"]),
            ("vsva0", True, True, 0),
        )

    def test_dma_to_untouched_memory_without_backend_is_answered_by_guest(self):
        vm = self.new_vm("stall-model").boot()
        vm.guest.cmd(f"dma 0 16 {ALL_FRESH}")
        self.assert_all_done(vm, 16)
        self.assertGreaterEqual(vm.guest.cmd("status")["device"]["faults"], 32)

    def test_faults_of_one_device_with_backend_are_each_answered_once(self):
        backend = self.new_backend("source")
        vm = self.new_vm(backend=backend).boot()
        vm.guest.cmd(f"dma 0 200 {ALL_FRESH} len=8192")
        self.assert_all_done(vm, 200)
        vm.quit()
        backend.wait("disconnected", 10)
        self.assertGreaterEqual(self.assert_each_answered_once(backend), 400)

    def test_faults_of_two_devices_in_one_vm_are_each_answered_once(self):
        backend = self.new_backend("source")
        vm = self.new_vm(backend=backend, test_devices=2).boot()
        self.assertEqual(vm.guest.cmd("hello")["devices"], 2)
        vm.guest.cmd(f"dma 0 50 {ALL_FRESH}")
        vm.guest.cmd(f"dma 1 50 {ALL_FRESH}")
        self.assert_all_done(vm, 100)
        sids = {entry["sid"] for entry in vm.qmp.cmd("query-vsva")[0]["devices"]}
        self.assertEqual(sids, {0x10 << 3, 0x11 << 3})
        vm.quit()
        backend.wait("disconnected", 10)
        self.assert_each_answered_once(backend)
        self.assertEqual({fault["sid"] for fault in backend.find("fault_read")}, sids)

    def test_64_faults_with_event_queue_of_4_entries_are_not_lost(self):
        vm = self.new_vm(backend=self.new_backend("source"), smmu=EVENT_QUEUE_OF_4).boot()
        self.hold_faults(vm, 64)
        self.assertEqual(vm.qmp.cmd("query-vsva")[0]["outstanding"], 64)
        vm.guest.release_faults()
        self.assert_all_done(vm, 64)
        self.assert_events_had_to_wait(vm)

    def test_64_faults_with_event_queue_of_4_entries_and_no_backend_are_not_lost(self):
        vm = self.new_vm(smmu=EVENT_QUEUE_OF_4).boot()
        self.hold_faults(vm, 64)
        vm.guest.release_faults()
        self.assert_all_done(vm, 64)
        self.assert_events_had_to_wait(vm)

    def test_load_with_event_queue_of_4_entries_loses_no_fault(self):
        vm = self.new_vm(backend=self.new_backend("source"), smmu=EVENT_QUEUE_OF_4).boot()
        vm.guest.cmd(f"dma 0 2000 {ALL_FRESH}")
        self.assert_all_done(vm, 2000)
        self.assert_events_had_to_wait(vm)

    def test_backend_disconnect_in_running_vm_is_reported_by_event(self):
        backend = self.new_backend("source")
        vm = self.new_vm(backend=backend).boot()
        backend.kill()
        self.assertEqual(vm.qmp.wait("VSVA_BACKEND_DISCONNECTED", 10).data["id"], "vsva0")
        self.assertEqual(vm.guest.cmd("hello")["devices"], 1)

    def test_info_vsva_with_one_device_names_its_stream(self):
        source = self.new_source()
        text = source.qmp.hmp("info vsva")
        self.assertIn("vsva0", text)
        self.assertIn("td0", text)
