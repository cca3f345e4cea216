# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A VM that is stopped, saved, reset or ended at the worst moment of a drain, a release or a
load.
"""

import time
from concurrent.futures import ThreadPoolExecutor

from avocado_vsva import VsvaTest, migration
from avocado_vsva.qmp import ExecuteError

PATIENT = {"stop-timeout": 10000, "drain-timeout": 60000}
MANY = 3000     # requests, of eight submissions each: their replay takes a while
ENDS = 24


class SaveMoments(VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,stop,save
    """

    def setUp(self):
        super().setUp()
        self.pool = ThreadPoolExecutor(1)
        self.uri_of_state = f"file:{self.sockets}/state"

    def tearDown(self):
        super().tearDown()
        self.pool.shutdown()

    def new_stopped_source(self, requests, kind):
        """A VM that was stopped with the submissions of so many requests pending, and one fault
        answered.
        """
        source = self.new_source(vsva=PATIENT)
        self.hold_faults(source, 1)
        since = len(source.qmp.events)
        stop = self.pool.submit(source.qmp.cmd, "stop", 60)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        source.guest.cmd(f"dma 0 {requests} src={kind} dst={kind}")
        source.guest.release_faults()
        stop.result()
        self.assertGreaterEqual(self.pending(source), requests)
        return source

    def pending(self, vm):
        return vm.qmp.cmd("query-vsva")[0]["pending"]

    def save(self, vm):
        since = migration.start_outgoing(vm, self.uri_of_state)
        self.assertEqual(migration.wait_status(vm, since), "completed", migration.reason(vm))

    def new_restored(self, name="restored"):
        """Loaded and paused."""
        restored = self.new_destination(name=name, vsva=PATIENT)
        migration.prepare(restored)
        restored.qmp.cmd("migrate-incoming", uri=self.uri_of_state)
        restored.qmp.wait("MIGRATION", 60, status="completed")
        self.assertEqual(restored.qmp.cmd("query-vsva")[0]["phase"], "loaded")
        return restored

    def stop_while_releasing(self, vm):
        """Let it go on, and stop it again at once."""
        since = len(vm.qmp.events)
        vm.qmp.cmd("cont")
        vm.qmp.hmp("stop")
        vm.qmp.wait("STOP", 30, since)
        self.assertEqual(
            vm.qmp.find("VSVA_RELEASED", since), [], "the release was too fast for this test"
        )
        self.assertGreater(self.pending(vm), 0)

    def assert_restored_from(self, source, requests):
        source.quit()
        restored = self.new_restored()
        restored.qmp.cmd("cont")
        restored.qmp.wait("VSVA_RELEASED", 60)
        self.assert_all_done(restored, requests)

    def save_right_after_cont_and_stop(self, kind, come_to_rest):
        """What still moves is not saved."""
        source = self.new_stopped_source(MANY, kind)
        since = len(source.qmp.events)
        self.stop_while_releasing(source)
        try:
            self.save(source)
        except ExecuteError as error:
            self.assertRegex(
                str(error), "before all devices had come to rest|page fault.* outstanding"
            )
            come_to_rest(source, since)
            self.save(source)
        self.assert_restored_from(source, MANY + 1)

    def test_saved_right_after_cont_and_stop_loses_nothing(self):
        def wait(source, since):
            source.qmp.wait("VSVA_DRAIN_COMPLETED", 60, since)
        self.save_right_after_cont_and_stop("warm", wait)

    def test_saved_right_after_cont_and_stop_with_faults_loses_nothing(self):
        def answer(source, _):
            source.qmp.cmd("cont")
            source.qmp.cmd("stop", 60)
        self.save_right_after_cont_and_stop("fresh", answer)

    def assert_starts_afresh(self, vm, lines):
        """After a reset: nothing from before it is in the portal, and a new guest's requests are
        executed.
        """
        vm.guest.wait_ready(60, lines)
        vm.guest.cmd("dma 0 100 src=fresh dst=fresh")
        self.assert_all_done(vm, 100)
        device = vm.guest.cmd("status")["device"]
        self.assertEqual(
            [device[name] for name in ("trapped", "replayed", "bad_desc", "duplicates", "gaps")],
            [0] * 5,
            device,
        )

    def new_restored_with_pending(self, requests):
        source = self.new_stopped_source(requests, "fresh")
        self.save(source)
        source.quit()
        restored = self.new_restored()
        self.assertGreater(self.pending(restored), 0)
        return restored

    def test_reset_of_a_loaded_vm_drops_what_was_loaded(self):
        restored = self.new_restored_with_pending(50)
        lines = len(restored.guest.lines)
        restored.qmp.cmd("system_reset")
        restored.qmp.cmd("cont")
        self.assert_starts_afresh(restored, lines)
        self.assertEqual(self.backends[-1].find("replay"), [])

    def test_reset_while_a_loaded_vm_replays_leaves_nothing_behind(self):
        restored = self.new_restored_with_pending(MANY)
        loaded, lines = self.pending(restored), len(restored.guest.lines)
        restored.qmp.cmd("cont")
        restored.qmp.cmd("system_reset")
        self.assert_starts_afresh(restored, lines)
        replayed = len(self.backends[-1].find("replay"))
        self.assertLess(replayed, loaded, "the replay was too fast for this test")

    def test_sigterm_while_stop_drains_ends_qemu_in_order(self):
        """
        The backend answers at some time of the exit: 24 times, each a millisecond later.
        There is no need of a guest.
        """
        for delay in range(ENDS):
            vm = self.new_vm(f"vm{delay}", backend=self.new_backend(f"vm{delay}"), vsva=PATIENT)
            backend = self.backends[-1]
            backend.freeze()
            stop = self.pool.submit(vm.qmp.cmd, "stop", 60)
            vm.qmp.wait("VSVA_DRAIN_STARTED", 30)
            vm.process.terminate()
            time.sleep(delay / 1000)
            backend.thaw()
            self.assertEqual(vm.wait_exit(), 0, vm.messages())
            stop.exception(30)
            vm.kill()
            backend.stop()
