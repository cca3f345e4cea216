# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A backend that goes on when its VM has ended: the next VM finds nothing of the one before."""

from avocado_vsva import VsvaTest, migration

LONG_DEADLINE = {"drain-timeout": 60000}


class BackendReuse(VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,reuse
    """

    def new_backend_of_crashed_vm(self):
        """Its VM was killed in the middle of a drain: with faults outstanding, and submissions
        queued.
        """
        backend = self.new_backend("used")
        crashed = self.new_vm("crashed", backend=backend, vsva=LONG_DEADLINE).boot()
        self.hold_faults(crashed, 4)
        since = migration.start_outgoing(crashed, f"file:{self.sockets}/state")
        crashed.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        crashed.guest.cmd("dma 0 20 src=fresh dst=fresh")
        self.assertGreater(crashed.qmp.cmd("query-vsva")[0]["backend"]["queued"], 0)
        self.assertEqual(crashed.qmp.cmd("query-vsva")[0]["outstanding"], 4)
        crashed.kill()
        backend.wait("disconnected", 10)
        return backend

    def assert_works_as_new(self, vm, done=0):
        vm.guest.cmd("dma 0 50 src=fresh dst=fresh")
        self.assert_all_done(vm, done + 50)
        status = vm.qmp.cmd("query-vsva")[0]
        self.assertEqual((status["phase"], status["outstanding"]), ("running", 0), status)
        self.assertEqual([device["lost"] for device in status["devices"]], [False])
        self.assertEqual(vm.qmp.find("VSVA_DEVICE_LOST"), [])

    def assert_migrates(self, source, done):
        """With submissions that are queued while it drains."""
        destination = self.new_destination(vsva=LONG_DEADLINE)
        self.hold_faults(source, 1)
        since = self.start_migration(source, destination)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        source.guest.cmd("dma 0 20 src=fresh dst=fresh")
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        self.assertGreater(destination.qmp.wait("VSVA_RELEASED", 30).data["replayed"], 0)
        self.assert_all_done(destination, done + 21)

    def test_vm_on_backend_of_crashed_vm_works_as_new(self):
        second = self.new_vm(
            "second", backend=self.new_backend_of_crashed_vm(), vsva=LONG_DEADLINE
        ).boot()
        self.assert_works_as_new(second)
        self.assert_migrates(second, 50)

    def test_incoming_vm_on_backend_of_crashed_vm_takes_the_state(self):
        destination = self.new_vm(
            "destination",
            backend=self.new_backend_of_crashed_vm(),
            vsva=LONG_DEADLINE,
            incoming=True,
        )
        source = self.new_source(vsva=LONG_DEADLINE)
        source.guest.cmd("dma 0 30 src=fresh dst=fresh")
        self.assert_migrated(source, destination, self.start_migration(source, destination))
        self.assert_all_done(destination, 30)
        self.assert_works_as_new(destination, 30)

    def test_vm_on_backend_of_ended_vm_counts_from_zero(self):
        backend = self.new_backend("used")
        first = self.new_vm("first", backend=backend).boot()
        first.guest.cmd("dma 0 50 src=fresh dst=fresh")
        self.assert_all_done(first, 50)
        first.quit()
        backend.wait("disconnected", 10)
        second = self.new_vm("second", backend=backend).boot()
        self.assertEqual(second.qmp.cmd("query-vsva")[0]["backend"]["faults-read"], 0)
        self.assert_works_as_new(second)

    def test_vm_that_ends_leaves_no_error_in_the_log(self):
        backend = self.new_backend("used")
        vm = self.new_vm("first", backend=backend).boot()
        vm.guest.cmd("dma 0 50 src=fresh dst=fresh")
        self.assert_all_done(vm, 50)
        vm.quit()
        backend.wait("disconnected", 10)
        backend.wait("channel_lost", 10)
        backend.stop()
        self.assertNotIn("ERROR", backend.log_path.read_text(encoding="utf-8"))
