# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A back-end that QEMU starts: one command line is all, and nothing is left of it afterwards."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from avocado_vsva import VsvaTest, command_line
from avocado_vsva.backend import StartedByQemu
from avocado_vsva.process import children

LONG_DEADLINE = {"drain-timeout": 60000}
HANG = 30


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class SpawnedBackend(VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,spawn
    """

    def new_spawning_vm(self, name="source", backend_options=(), vsva=None, **options):
        backend = StartedByQemu(self.environment.backend, *backend_options)
        return self.new_vm(name, backend=backend, vsva={**LONG_DEADLINE, **(vsva or {})}, **options)

    def assert_one_child(self, pid):
        found = children(pid)
        self.assertEqual(len(found), 1, found)
        name = self.environment.backend.name
        self.assertEqual(Path(f"/proc/{found[0]}/exe").resolve().name, name)
        return found[0]

    def assert_ends(self, pid):
        deadline = time.monotonic() + HANG
        while runs(pid):
            self.assertLess(time.monotonic(), deadline, f"process {pid} has not ended")
            time.sleep(0.01)

    def test_one_command_line_serves_faults_and_migrates(self):
        source = self.new_spawning_vm().boot()
        program = self.assert_one_child(source.process.pid)
        source.guest.cmd("dma 0 16 src=fresh dst=fresh")
        self.assert_all_done(source, 16)
        self.assertGreaterEqual(source.qmp.cmd("query-vsva")[0]["backend"]["faults-answered"], 32)

        destination = self.new_spawning_vm("destination", incoming=True)
        self.hold_faults(source, 1)
        since = self.start_migration(source, destination)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        source.guest.cmd("dma 0 20 src=fresh dst=fresh")
        source.guest.release_faults()
        self.assert_drained_before_stop(source, since)
        self.assert_migrated(source, destination, since)
        self.assertGreater(destination.qmp.wait("VSVA_RELEASED", 30).data["replayed"], 0)
        self.assert_all_done(destination, 37)

        other = self.assert_one_child(destination.process.pid)
        self.assertNotEqual(program, other)
        source.quit()
        self.assert_ends(program)
        destination.guest.cmd("dma 0 16 src=fresh dst=fresh")
        self.assert_all_done(destination, 53)
        destination.quit()
        self.assert_ends(other)

    def test_qemu_killed_with_a_fault_outstanding_backend_ends(self):
        vm = self.new_spawning_vm().boot()
        program = self.assert_one_child(vm.process.pid)
        self.hold_faults(vm, 3)
        vm.kill()
        self.assert_ends(program)

    def test_backend_killed_without_recovery_vm_goes_on_without_it(self):
        vm = self.new_spawning_vm(vsva={"recovery-timeout": 0}).boot()
        program = self.assert_one_child(vm.process.pid)
        os.kill(program, signal.SIGKILL)
        vm.qmp.wait("VSVA_BACKEND_DISCONNECTED", HANG)
        self.assertTrue(vm.qmp.cmd("query-status")["running"])
        self.assertEqual(children(vm.process.pid), [])
        self.assertIn("has been killed by signal 9", vm.messages())

    def test_param_options_reach_the_backend_and_its_log_is_qemus(self):
        events = self.sockets / "events.jsonl"
        options = ("--log-level=debug", f"--event-log={events}")
        vm = self.new_spawning_vm(backend_options=options, test_devices=0).boot()
        program = self.assert_one_child(vm.process.pid)
        vm.quit()
        self.assert_ends(program)
        names = [json.loads(line)["event"] for line in events.read_text().splitlines()]
        self.assertEqual((names[0], names[-1]), ("listening", "disconnected"))
        self.assertIn("the front end has disconnected", vm.messages())

    def test_daemonized_qemu_does_not_keep_who_has_started_it(self):
        pidfile = self.sockets / "pid"
        command = command_line.machine(self.environment, "daemon", 256)
        command += command_line.smmu_properties(command_line.STALLS_ON)
        command += command_line.devices(StartedByQemu(self.environment.backend), {}, 1)
        command += ["-daemonize", "-pidfile", pidfile]
        # Returns when nobody has its pipes open any more.
        command = list(map(str, command))
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        qemu = int(pidfile.read_text())
        try:
            program = self.assert_one_child(qemu)
        finally:
            os.kill(qemu, signal.SIGKILL)
        self.assert_ends(program)
