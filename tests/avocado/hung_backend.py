# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""
A backend that hangs: its process is stopped (SIGSTOP) in each phase. QMP and the guest's
accesses to its device go on answering, and what must wait for the backend gives it up after
the time that docs/design.md states.
"""

import os
import socket

from avocado_vsva import VsvaTest, migration
from avocado_vsva.latency import Latency
from avocado_vsva.relay import CHECK_DEVICE_STATE, GET_VRING_BASE, SET_DEVICE_STATE_FD, Relay
from avocado_vsva.vm import VmError

REPLY = 1          # seconds, for what is answered at once
TRANSFER = 5       # for the state, and for a new connection
NOISE = 8          # the machine may be busy: only a hang is to be found
PATIENT = {"stop-timeout": 10000, "drain-timeout": 60000}
SMALL_RING = 16


class HungBackend(VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,hung
    """

    def measure(self, vm, guest=True):
        latency = Latency(vm, guest)
        self.processes.append(latency.close)
        return latency

    def assert_answers(self, latency, bound):
        longest = latency.close()
        print(f"{self._testMethodName}: longest latency {longest}, bound {bound} s", flush=True)
        for name, seconds in longest.items():
            self.assertLess(seconds, bound + NOISE, f"{name}: {longest}")

    def assert_hung(self, vm, since, phase, what, timeout=30):
        event = vm.qmp.wait("VSVA_BACKEND_DISCONNECTED", timeout, since).data
        self.assertEqual((event["hung"], event["phase"]), (True, phase), event)
        self.assertIn(what, event["reason"])
        status = vm.qmp.cmd("query-vsva")[0]
        self.assertEqual((status["connected"], status["hung"]), (False, True), status)
        self.assertEqual(status["gone-reason"], event["reason"])
        self.assertNotIn("backend", status)
        self.assertIn("back-end hung", vm.qmp.hmp("info vsva"))

    def assert_not_hung(self, vm, since):
        self.assertEqual(vm.qmp.find("VSVA_BACKEND_DISCONNECTED", since), [])
        self.assertEqual(vm.qmp.cmd("query-vsva")[0]["connected"], True)

    def assert_goes_on(self, vm):
        """Warm memory does not fault: the device works, its faults are aborted."""
        before = vm.guest.cmd("status 0")["completed"]
        vm.guest.cmd("dma 0 20 src=warm dst=warm")
        vm.guest.wait(f"completed={before + 20}")

    def new_relayed(self, name, **options):
        relay = Relay(self.new_backend(name), self.sockets)
        self.processes.append(relay.close)
        return relay, self.new_vm(name, backend=relay, **options)

    def test_idle_stopped_backend_costs_nothing_and_is_not_given_up(self):
        source = self.new_source()
        backend = self.backends[0]
        latency = self.measure(source)
        backend.freeze()
        since = len(source.qmp.events)
        for _ in range(50):
            status = source.qmp.cmd("query-vsva")[0]
            self.assertIn("backend", status)
        source.guest.cmd("dma 0 100 src=warm dst=warm")
        self.assert_answers(latency, REPLY)
        backend.thaw()
        source.guest.cmd("dma 0 20 src=fresh dst=fresh")
        self.assert_all_done(source, 120)
        self.assert_not_hung(source, since)

    def test_faults_outstanding_stopped_backend_is_not_given_up_for_a_few_answers(self):
        source = self.new_source()
        backend = self.backends[0]
        self.hold_faults(source, 4)
        latency = self.measure(source)
        since = len(source.qmp.events)
        backend.freeze()
        self.assertEqual(source.qmp.cmd("query-vsva")[0]["outstanding"], 4)
        source.guest.release_faults()
        source.guest.cmd("dma 0 20 src=warm dst=warm")
        self.assert_answers(latency, REPLY)
        backend.thaw()
        self.assert_all_done(source, 24)
        self.assert_not_hung(source, since)

    def test_faults_answered_beyond_the_ring_stopped_backend_is_given_up(self):
        source = self.new_source(vsva={"queue-size": SMALL_RING})
        backend = self.backends[0]
        self.hold_faults(source, 3 * SMALL_RING)
        latency = self.measure(source)
        since = len(source.qmp.events)
        backend.freeze()
        source.guest.release_faults()
        self.assert_hung(source, since, "running", "taken the messages from the portal ring")
        self.assert_answers(latency, REPLY)
        self.assert_goes_on(source)

    def test_draining_stopped_backend_fails_the_drain_and_is_given_up(self):
        source, destination = self.new_pair(vsva={"drain-timeout": 500})
        self.hold_faults(source, 1)
        latency = self.measure(source)
        since = self.start_migration(source, destination)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        self.backends[0].freeze()
        self.assertEqual(
            source.qmp.wait("VSVA_DRAIN_FAILED", 30, since).data["reason"], "no-answer"
        )
        self.assertEqual(migration.wait_status(source, since), "failed")
        self.assert_hung(source, since, "releasing", "replayed a submission")
        self.assert_answers(latency, REPLY)
        self.assert_goes_on(source)

    def test_draining_submissions_beyond_the_ring_stopped_backend_is_given_up_and_they_are_executed(
        self,
    ):
        source, destination = self.new_pair(vsva={**PATIENT, "queue-size": SMALL_RING})
        self.hold_faults(source, 1)
        latency = self.measure(source)
        since = self.start_migration(source, destination)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        self.backends[0].freeze()
        source.guest.cmd(f"dma 0 {3 * SMALL_RING} src=warm dst=warm")
        self.assert_hung(source, since, "draining", "taken the messages from the portal ring")
        self.assertEqual(migration.wait_status(source, since), "failed")
        self.assert_answers(latency, REPLY)
        source.guest.wait("idle")
        result = source.guest.ask("verify")
        self.assertEqual(
            [result[key] for key in ("checked", "aborted", "missing", "wrong_data", "not_once")],
            [3 * SMALL_RING, 1, 0, 0, 0],
            result,
        )
        self.assert_goes_on(source)

    def test_drained_stopped_backend_fails_the_migration_and_the_vm_goes_on(self):
        source, destination = self.new_pair(vsva=PATIENT)
        since = self.start_migration(source, destination, pause_before_switchover=True)
        self.assertEqual(
            migration.wait_status(source, since, ("pre-switchover",)), "pre-switchover"
        )
        latency = self.measure(source, guest=False)
        self.backends[0].freeze()
        source.qmp.cmd("migrate-continue", state="pre-switchover")
        self.assert_hung(source, since, "drained", "stopped the rings")
        self.assertEqual(migration.wait_status(source, since), "failed")
        self.assertIn("stopped the rings", migration.reason(source))
        self.assert_answers(latency, REPLY)
        self.assert_goes_on(source)

    def save_with_backend_stopped(self, request, what, bound):
        relay, source = self.new_relayed("source", vsva=PATIENT)
        source.boot()
        destination = self.new_destination(vsva=PATIENT)
        latency = self.measure(source, guest=False)
        relay.stop_at(request)
        since = self.start_migration(source, destination)
        self.assert_hung(source, since, "drained", what)
        self.assertTrue(relay.stopped.is_set())
        self.assertEqual(migration.wait_status(source, since), "failed")
        self.assertIn(what, migration.reason(source))
        self.assert_answers(latency, bound)
        self.assert_goes_on(source)

    def test_saving_rings_not_stopped_fails_the_migration_and_the_vm_goes_on(self):
        self.save_with_backend_stopped(GET_VRING_BASE, "stopped the rings", REPLY)

    def test_saving_state_not_sent_fails_the_migration_and_the_vm_goes_on(self):
        self.save_with_backend_stopped(SET_DEVICE_STATE_FD, "saved its state", TRANSFER)

    def test_saving_state_not_confirmed_fails_the_migration_and_the_vm_goes_on(self):
        self.save_with_backend_stopped(CHECK_DEVICE_STATE, "saved its state", TRANSFER)

    def test_sigterm_while_saving_ends_in_the_time_of_the_transfer(self):
        relay, source = self.new_relayed("source", vsva=PATIENT)
        source.boot()
        destination = self.new_destination(vsva=PATIENT)
        relay.stop_at(SET_DEVICE_STATE_FD)
        self.start_migration(source, destination)
        self.assertTrue(relay.stopped.wait(30))
        source.process.terminate()
        self.assertEqual(source.wait_exit(TRANSFER + NOISE), 0)

    def load_with_backend_stopped(self, request, what):
        source = self.new_source(vsva=PATIENT)
        relay, destination = self.new_relayed("destination", vsva=PATIENT, incoming=True)
        relay.stop_at(request)
        since = self.start_migration(source, destination)
        self.assertEqual(migration.wait_status(source, since), "failed")
        self.assertNotEqual(destination.wait_exit(TRANSFER + NOISE), 0)
        self.assertIn(what, destination.messages())
        source.qmp.wait("VSVA_RELEASED", 30, since)
        self.assert_not_hung(source, since)
        source.guest.cmd("dma 0 20 src=fresh dst=fresh")
        self.assert_all_done(source, 20)

    def test_loading_rings_not_stopped_source_goes_on(self):
        self.load_with_backend_stopped(GET_VRING_BASE, "stopped the rings")

    def test_loading_state_not_taken_source_goes_on(self):
        self.load_with_backend_stopped(SET_DEVICE_STATE_FD, "loaded its state")

    def test_loading_state_not_confirmed_source_goes_on(self):
        self.load_with_backend_stopped(CHECK_DEVICE_STATE, "loaded its state")

    def test_loaded_stopped_backend_is_given_up_after_cont(self):
        source, destination = self.new_pair(vsva=PATIENT)
        source.qmp.cmd("stop")
        since = self.start_migration(source, destination)
        self.assertEqual(
            migration.wait_status(source, since), "completed", migration.reason(source)
        )
        destination.qmp.wait("MIGRATION", 60, status="completed")
        self.assertEqual(destination.qmp.cmd("query-vsva")[0]["phase"], "loaded")
        self.backends[1].freeze()
        since = len(destination.qmp.events)
        latency = self.measure(destination, guest=False)
        destination.qmp.cmd("cont")
        self.assert_hung(destination, since, "releasing", "replayed a submission")
        self.assert_answers(latency, REPLY)
        self.assert_goes_on(destination)

    def test_reset_stopped_backend_is_given_up_and_the_guest_boots(self):
        source = self.new_source()
        latency = self.measure(source, guest=False)
        self.backends[0].freeze()
        since, lines = len(source.qmp.events), len(source.guest.lines)
        source.qmp.cmd("system_reset")
        self.assert_hung(source, since, "running", "taken the messages from the portal ring")
        self.assert_answers(latency, REPLY)
        source.guest.wait_ready(60, lines)
        self.assert_goes_on(source)

    def test_start_stopped_backend_fails_and_says_why(self):
        backend = self.new_backend("source")
        backend.freeze()
        with self.assertRaisesRegex(
            VmError, "said what it is able to do within 5000 ms; it may hang, or serve another"
        ):
            self.new_vm("source", backend=backend)

    def test_start_backend_of_somebody_else_fails_and_says_why(self):
        backend = self.new_backend("source")
        with socket.socket(socket.AF_UNIX) as somebody:
            somebody.connect(os.fspath(backend.socket_path))
            backend.wait("connected", 10)
            with self.assertRaisesRegex(
                VmError, "serve another front-end that is connected to this socket"
            ):
                self.new_vm("source", backend=backend)
