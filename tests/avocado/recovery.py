# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""
A back-end that is killed at any instant, and another one that goes on: the guest sees no
error, each of its requests is done once and in order, none is aborted, and QEMU has seen one
answer for each fault.
"""

import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from avocado_vsva import VsvaTest, migration
from avocado_vsva.backend import StartedByQemu
from avocado_vsva.latency import Latency
from avocado_vsva.process import children
from avocado_vsva.trace import read_trace

# Whatever else the machine does: only what never comes is to be found.
HANG = 120
NOISE = 8
PATIENT = {"drain-timeout": 120000, "recovery-timeout": 120000}
KILLS = int(os.environ.get("VSVA_KILLS", "30"))
MIGRATIONS = int(os.environ.get("VSVA_MIGRATIONS", "6"))
SEED = int(os.environ.get("VSVA_SEED", "1"))


class Recovery(VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,recovery
    """

    timeout = 1800

    def new_recovering_vm(self, name="source", vsva=None, **options):
        backend = StartedByQemu(self.environment.backend)
        vm = self.new_vm(name, backend=backend, vsva={**PATIENT, **(vsva or {})}, **options)
        return self.recoverable(vm)

    def new_reconnecting_vm(self, vsva):
        backend = self.new_backend("source")
        backend.reconnect_ms = 50
        return backend, self.recoverable(self.new_vm("source", backend=backend, vsva=vsva)).boot()

    def recoverable(self, vm):
        self.assertTrue(vm.qmp.cmd("query-vsva")[0]["recoverable"])
        return vm

    def backend_of(self, vm):
        """The process that serves a VM now; QEMU starts another one by itself."""
        deadline = time.monotonic() + HANG
        while True:
            found = children(vm.process.pid)
            if found:
                return found[0]
            self.assertLess(time.monotonic(), deadline, "no back-end has been started again")
            time.sleep(0.001)

    def kill(self, vm, complete=True, by=signal.SIGKILL):
        """Kill its back-end, and wait until another one goes on."""
        since = len(vm.qmp.events)
        os.kill(self.backend_of(vm), by)
        vm.qmp.wait("VSVA_BACKEND_AWAY", HANG, since)
        event = vm.qmp.wait("VSVA_BACKEND_RECOVERED", HANG, since).data
        self.assertEqual(event["complete"], complete, event)
        return event

    def assert_nothing_lost(self, vm, count, device=0):
        self.assert_all_done(vm, count)
        status = vm.guest.cmd(f"status {device}")
        counters = status["device"]
        self.assertEqual(
            (
                counters["aborted"],
                counters["bad_responses"],
                counters["duplicates"],
                counters["gaps"],
                counters["bad_desc"],
            ),
            (0, 0, 0, 0, 0),
            status,
        )
        self.assertEqual(counters["faults"], counters["retried"], status)
        info = vm.qmp.cmd("query-vsva")[0]
        self.assertEqual(
            (info["connected"], info["away"], info["outstanding"]), (True, False, 0), info
        )
        self.assertEqual(vm.qmp.find("VSVA_BACKEND_DISCONNECTED", 0), [])

    def assert_each_answered_once(self, vm):
        """As the devices see it: cookies are given once. An answer may come again, but says the
        same.
        """
        sent, answers = Counter(), {}
        for event in read_trace(vm.trace_path):
            if event.name not in ("vsva_testdev_fault_sent", "vsva_testdev_response"):
                continue
            ids = event.ids()
            fault = (event.text.split(":")[0], ids["cookie"])
            if event.name == "vsva_testdev_fault_sent":
                sent[fault] += 1
            else:
                answers.setdefault(fault, []).append(ids["code"])
        self.assertEqual([fault for fault, times in sent.items() if times != 1], [])
        self.assertEqual(set(answers), set(sent))
        self.assertEqual([fault for fault, codes in answers.items() if set(codes) != {0}], [])
        print(
            f"{len(sent)} faults, {sum(map(len, answers.values())) - len(sent)} answers came again",
            flush=True,
        )

    def test_killed_idle_the_next_one_serves(self):
        vm = self.new_recovering_vm().boot()
        vm.guest.cmd("dma 0 16 src=fresh dst=fresh")
        self.assert_all_done(vm, 16)
        event = self.kill(vm)
        self.assertEqual((event["commands"], event["submissions"]), (0, 0))
        vm.guest.cmd("dma 0 16 src=fresh dst=fresh")
        self.assert_nothing_lost(vm, 32)
        self.assertIn("recovered: 1 time(s)", vm.qmp.hmp("info vsva"))
        vm.quit()
        self.assert_each_answered_once(vm)

    def test_killed_with_faults_at_the_guest_each_is_answered_once(self):
        vm = self.new_recovering_vm().boot()
        self.hold_faults(vm, 8)
        for _ in range(3):
            self.kill(vm)
            self.assertEqual(vm.qmp.cmd("query-vsva")[0]["outstanding"], 8)
        vm.guest.release_faults()
        self.assert_nothing_lost(vm, 8)
        vm.quit()
        self.assert_each_answered_once(vm)

    def test_ended_in_order_with_faults_at_the_guest_each_is_answered_once(self):
        """As for another version of it."""
        vm = self.new_recovering_vm().boot()
        self.hold_faults(vm, 8)
        self.kill(vm, by=signal.SIGTERM)
        self.assertEqual(vm.qmp.cmd("query-vsva")[0]["outstanding"], 8)
        vm.guest.release_faults()
        self.assert_nothing_lost(vm, 8)
        vm.quit()
        self.assert_each_answered_once(vm)

    def test_killed_under_load_again_and_again_nothing_is_lost(self):
        """At instants that the seed gives; VSVA_KILLS and VSVA_SEED change them."""
        vm = self.new_recovering_vm(test_devices=2).boot()
        instants = random.Random(SEED)
        print(f"{KILLS} kills, seed {SEED}", flush=True)
        total, took = 0, []
        for _ in range(KILLS):
            for device in (0, 1):
                vm.guest.cmd(f"dma {device} 25 src=fresh dst=fresh")
                total += 25
            time.sleep(instants.uniform(0, 0.2))
            took.append(self.kill(vm)["away-ms"])
        print(
            f"away for {min(took)} to {max(took)} ms, "
            f"{sorted(took)[len(took) // 2]} ms in the middle",
            flush=True,
        )
        self.assert_nothing_lost(vm, total)
        self.assert_nothing_lost(vm, total, device=1)
        vm.quit()
        self.assert_each_answered_once(vm)

    def kill_at_once(self, vm):
        for program in children(vm.process.pid):
            os.kill(program, signal.SIGKILL)

    def wait_served(self, vm):
        deadline = time.monotonic() + HANG
        while not vm.qmp.cmd("query-vsva")[0]["connected"]:
            self.assertLess(time.monotonic(), deadline, vm.messages())
            time.sleep(0.01)

    def test_killed_during_migrations_again_and_again_nothing_is_lost(self):
        """Both back-ends, of two devices each. A migration that fails for it leaves the VM where
        it was.
        """
        vm = self.new_recovering_vm("vm0", test_devices=2).boot()
        instants = random.Random(SEED)
        print(f"{MIGRATIONS} migrations, seed {SEED}", flush=True)
        count, ended = 0, Counter()
        for number in range(1, MIGRATIONS + 1):
            other = self.new_recovering_vm(f"vm{number}", incoming=True, test_devices=2)
            for device in (0, 1):
                vm.guest.cmd(f"dma {device} 100 src=fresh dst=fresh")
                count += 100
            since = self.start_migration(vm, other)
            for victim in instants.choices((vm, other), k=4):
                time.sleep(instants.uniform(0, 0.6))
                self.kill_at_once(victim)
            status = migration.wait_status(vm, since)
            ended[status] += 1
            if status == "completed":
                migration.resumed_at(other)
                vm.quit()
                vm = other
            else:
                print(f"migration {number}: {migration.reason(vm)}", flush=True)
                other.quit()
            self.wait_served(vm)
        print(dict(ended), flush=True)
        self.assertGreater(ended["completed"], 0)
        self.assert_nothing_lost(vm, count)
        self.assert_nothing_lost(vm, count, device=1)

    def test_killed_while_draining_the_migration_goes_on(self):
        source = self.new_recovering_vm().boot()
        destination = self.new_recovering_vm("destination", incoming=True)
        self.hold_faults(source, 3)
        since = self.start_migration(source, destination)
        source.qmp.wait("VSVA_DRAIN_STARTED", HANG, since)
        source.guest.cmd("dma 0 20 src=fresh dst=fresh")
        event = self.kill(source)
        self.assertGreater(event["submissions"], 0)
        source.guest.cmd("dma 0 20 src=fresh dst=fresh")
        self.kill(source)
        source.guest.release_faults()
        self.assert_drained_before_stop(source, since)
        self.assert_migrated(source, destination, since)
        self.assertGreater(destination.qmp.wait("VSVA_RELEASED", HANG).data["replayed"], 0)
        self.kill(destination)
        destination.guest.cmd("dma 0 16 src=fresh dst=fresh")
        self.assert_nothing_lost(destination, 59)

    def test_killed_drained_and_stopped_is_replayed_after_cont(self):
        vm = self.new_recovering_vm(vsva={"stop-timeout": 10000}).boot()
        vm.guest.cmd("dma 0 50 src=fresh dst=fresh")
        self.assert_all_done(vm, 50)
        vm.qmp.cmd("stop")
        self.assertEqual(vm.qmp.cmd("query-vsva")[0]["phase"], "drained")
        self.kill(vm)
        self.assertEqual(vm.qmp.cmd("query-vsva")[0]["phase"], "loaded")
        self.kill(vm)
        since = len(vm.qmp.events)
        vm.qmp.cmd("cont")
        vm.qmp.wait("VSVA_RELEASED", HANG, since)
        vm.guest.cmd("dma 0 50 src=fresh dst=fresh")
        self.assert_nothing_lost(vm, 100)

    def test_killed_loaded_before_the_vm_runs_submissions_are_replayed(self):
        source = self.new_recovering_vm().boot()
        destination = self.new_recovering_vm("destination", incoming=True)
        self.hold_faults(source, 1)
        since = self.start_migration(
            source, destination, {"max-bandwidth": 0}, pause_before_switchover=True
        )
        source.qmp.wait("VSVA_DRAIN_STARTED", HANG, since)
        source.guest.cmd("dma 0 20 src=fresh dst=fresh")
        source.guest.release_faults()
        self.assertEqual(
            migration.wait_status(source, since, ("pre-switchover",)), "pre-switchover"
        )
        self.kill(source)
        # What has been drained is held by the next one, and can be saved.
        source.qmp.cmd("migrate-continue", state="pre-switchover")
        self.assert_migrated(source, destination, since)
        self.kill(destination)
        self.assert_nothing_lost(destination, 21)

    def switch_over_with_a_frozen(self, name):
        """A migration whose VM is going to be stopped, drained, while the back-end of this side
        does nothing. Returns both VMs, when it began, and the frozen process.
        """
        vms = {
            "source": self.new_recovering_vm(test_devices=2).boot(),
            "destination": self.new_recovering_vm("destination", incoming=True, test_devices=2),
        }
        source, destination = vms.values()
        self.hold_faults(source, 1)
        since = self.start_migration(
            source, destination, {"max-bandwidth": 0}, pause_before_switchover=True
        )
        source.qmp.wait("VSVA_DRAIN_STARTED", HANG, since)
        source.guest.cmd("dma 0 20 src=fresh dst=fresh")
        source.guest.release_faults()
        self.assertEqual(
            migration.wait_status(source, since, ("pre-switchover",)), "pre-switchover"
        )
        program = self.backend_of(vms[name])
        os.kill(program, signal.SIGSTOP)
        source.qmp.cmd("migrate-continue", state="pre-switchover")
        source.qmp.wait("STOP", HANG, since)
        return source, destination, since, program

    def test_killed_while_saving_nothing_is_lost_wherever_the_vm_goes_on(self):
        """A save that has begun ends with its process: the migration fails. One that has not is
        begun by the next.
        """
        source, destination, since, program = self.switch_over_with_a_frozen("source")
        os.kill(program, signal.SIGKILL)
        status = migration.wait_status(source, since)
        print(status, migration.reason(source), flush=True)
        vm = source
        if status == "completed":
            migration.resumed_at(destination)
            vm = destination
        else:
            self.assertEqual(status, "failed")
        self.wait_served(vm)
        vm.guest.cmd("dma 0 16 src=fresh dst=fresh")
        self.assert_nothing_lost(vm, 37)

    def test_killed_while_loading_the_migration_fails_and_the_source_replays(self):
        source, _, since, program = self.switch_over_with_a_frozen("destination")
        os.kill(program, signal.SIGKILL)
        self.assertEqual(migration.wait_status(source, since), "failed")
        self.assertGreater(source.qmp.wait("VSVA_RELEASED", HANG, since).data["replayed"], 0)
        source.guest.cmd("dma 0 16 src=fresh dst=fresh")
        self.assert_nothing_lost(source, 37)

    def test_killed_while_releasing_the_next_one_replays(self):
        vm = self.new_recovering_vm(vsva={"stop-timeout": 10000}).boot()
        self.hold_faults(vm, 1)
        with ThreadPoolExecutor(1) as pool:
            stop = pool.submit(vm.qmp.cmd, "stop", HANG)
            vm.qmp.wait("VSVA_DRAIN_STARTED", HANG)
            vm.guest.cmd("dma 0 20 src=fresh dst=fresh")
            vm.guest.release_faults()
            stop.result(HANG)
        since = len(vm.qmp.events)
        program = self.backend_of(vm)
        os.kill(program, signal.SIGSTOP)
        vm.qmp.cmd("cont")
        self.assertEqual(vm.qmp.cmd("query-vsva")[0]["phase"], "releasing")
        os.kill(program, signal.SIGKILL)
        self.assertTrue(vm.qmp.wait("VSVA_BACKEND_RECOVERED", HANG, since).data["complete"])
        self.assertGreater(vm.qmp.wait("VSVA_RELEASED", HANG, since).data["replayed"], 0)
        self.assert_nothing_lost(vm, 21)

    def test_hung_is_killed_and_the_next_one_goes_on(self):
        vm = self.new_recovering_vm().boot()
        self.hold_faults(vm, 4)
        program = self.backend_of(vm)
        since = len(vm.qmp.events)
        os.kill(program, signal.SIGSTOP)
        vm.guest.release_faults()
        # The guest's answers fill no ring: a drain is what misses its time.
        vm.guest.cmd("dma 0 600 src=fresh dst=fresh")
        vm.qmp.cmd("system_reset")
        self.assertTrue(vm.qmp.wait("VSVA_BACKEND_AWAY", HANG, since).data["hung"])
        self.assertTrue(vm.qmp.wait("VSVA_BACKEND_RECOVERED", HANG, since).data["complete"])
        self.assertNotEqual(self.backend_of(vm), program)
        vm.guest.wait_ready(HANG, len(vm.guest.lines))
        vm.guest.cmd("dma 0 16 src=fresh dst=fresh")
        self.assert_all_done(vm, 16)

    def test_hung_and_thawed_goes_on_itself_and_the_vm_has_hardly_waited(self):
        backend, vm = self.new_reconnecting_vm({**PATIENT, "queue-size": 16})
        self.hold_faults(vm, 40)
        latency = Latency(vm)
        self.processes.append(latency.close)
        since = len(vm.qmp.events)
        backend.freeze()
        # More answers than the ring has room for: QEMU has to wait, once.
        vm.guest.release_faults()
        self.assertTrue(vm.qmp.wait("VSVA_BACKEND_AWAY", HANG, since).data["hung"])
        # Its kernel accepts the connection all the same.
        vm.guest.cmd("dma 0 40 src=warm dst=warm")
        time.sleep(3)
        self.assertEqual(vm.qmp.find("VSVA_BACKEND_RECOVERED", since), [])
        backend.thaw()
        self.assertTrue(vm.qmp.wait("VSVA_BACKEND_RECOVERED", HANG, since).data["complete"])
        self.assert_nothing_lost(vm, 80)
        longest = latency.close()
        print(f"longest latency {longest}, bound 1 s", flush=True)
        for name, seconds in longest.items():
            self.assertLess(seconds, 1 + NOISE, f"{name}: {longest}")

    def test_answered_while_there_is_none_the_next_one_answers(self):
        backend, vm = self.new_reconnecting_vm(PATIENT)
        self.hold_faults(vm, 8)
        since = len(vm.qmp.events)
        backend.kill()
        vm.qmp.wait("VSVA_BACKEND_AWAY", HANG, since)
        vm.guest.release_faults()
        # The guest has answered, and goes on; only the DMAs wait.
        deadline = time.monotonic() + HANG
        while vm.guest.cmd("waiters")["waiters"]:
            self.assertLess(time.monotonic(), deadline)
        vm.guest.cmd("dma 0 8 src=fresh dst=fresh")
        self.assertEqual(vm.guest.cmd("status 0")["device"]["completed"], 0)
        self.new_backend("source")
        event = vm.qmp.wait("VSVA_BACKEND_RECOVERED", HANG, since).data
        self.assertEqual((event["complete"], event["commands"]), (True, 8))
        self.assert_nothing_lost(vm, 16)
        vm.quit()
        self.assert_each_answered_once(vm)

    def test_reset_around_a_kill_leaves_nothing_behind(self):
        vm = self.new_recovering_vm(test_devices=2).boot()
        instants = random.Random(SEED)
        for _ in range(3):
            self.hold_faults(vm, 4)
            vm.guest.cmd("dma 1 50 src=fresh dst=fresh")
            since, lines = len(vm.qmp.events), len(vm.guest.lines)
            self.kill_at_once(vm)
            time.sleep(instants.uniform(0, 0.1))
            vm.qmp.cmd("system_reset")
            vm.guest.wait_ready(HANG, lines)
            vm.qmp.wait("VSVA_BACKEND_RECOVERED", HANG, since)
            for device in (0, 1):
                vm.guest.cmd(f"dma {device} 16 src=fresh dst=fresh")
            self.assert_nothing_lost(vm, 32)
            self.assert_nothing_lost(vm, 32, device=1)

    def test_nobody_comes_in_time_the_vm_goes_on_without(self):
        backend, vm = self.new_reconnecting_vm({"recovery-timeout": 2000})
        self.hold_faults(vm, 2)
        since = len(vm.qmp.events)
        backend.kill()
        vm.qmp.wait("VSVA_BACKEND_AWAY", HANG, since)
        self.assertIn("waiting for another back-end", vm.qmp.hmp("info vsva"))
        reason = vm.qmp.wait("VSVA_BACKEND_DISCONNECTED", HANG, since).data["reason"]
        self.assertIn("not within 2000 ms", reason)
        self.assertTrue(vm.qmp.cmd("query-status")["running"])
        vm.guest.release_faults()
        before = vm.guest.cmd("status 0")["completed"]
        vm.guest.cmd("dma 0 16 src=warm dst=warm")
        vm.guest.wait(f"completed={before + 16}")
        self.assertEqual(vm.guest.cmd("status 0")["device"]["aborted"], 2)
