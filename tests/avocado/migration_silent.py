# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""
A destination that takes no more data: the source's migration thread is blocked in a write,
and can give up nothing. The drain ends by itself, the guest's submissions go on, the
migration can be cancelled and a later one succeeds.
"""

from avocado_vsva import VsvaTest, migration
from avocado_vsva.migration_proxy import MigrationProxy

DEADLINE = {"drain-timeout": 15000}
TRAPPED = 4     # bit of the test device's status


class MigrationSilent(VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,migration,silent
    """

    def start_by_proxy(self, source, destination, **capabilities):
        path = self.sockets / f"{destination.name}-migration.sock"
        proxy = MigrationProxy(self.sockets / "proxy.sock", path)
        self.processes.append(proxy.close)
        migration.prepare(destination, None, return_path=True, **capabilities)
        destination.qmp.cmd("migrate-incoming", uri=f"unix:{path}")
        return proxy, migration.start_outgoing(source, proxy.uri, return_path=True, **capabilities)

    def assert_fast_path(self, vm):
        """What is submitted now is trapped no more."""
        before = vm.guest.cmd("status")["device"]
        self.assertEqual(before["status"] & TRAPPED, 0, before)
        vm.guest.cmd("dma 0 20 src=fresh dst=fresh")
        vm.guest.wait("idle")
        self.assertEqual(vm.guest.cmd("status")["device"]["trapped"], before["trapped"])
        self.assertEqual(vm.qmp.cmd("query-vsva")[0]["phase"], "running")

    def assert_next_migration_takes_everything(self, source, count):
        second = self.new_destination(name="second", vsva=DEADLINE)
        self.assert_migrated(
            source, second, self.start_migration(source, second, pause_before_switchover=False)
        )
        second.guest.cmd("dma 0 8 src=fresh dst=fresh")
        self.assert_all_done(second, count + 8)

    def test_destination_silent_when_drained_the_drain_ends_by_itself(self):
        source, destination = self.new_pair(vsva=DEADLINE)
        self.hold_faults(source, 1)
        proxy, since = self.start_by_proxy(source, destination)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        source.guest.cmd("dma 0 50 src=fresh dst=fresh")
        proxy.hang()
        source.qmp.cmd("migrate-set-parameters", downtime_limit=1)
        source.guest.cmd("dirty start mb=64")
        proxy.wait_source_blocked()
        source.guest.release_faults()
        source.qmp.wait("VSVA_DRAIN_COMPLETED", 30, since)
        self.assertNotEqual(source.guest.cmd("status")["device"]["status"] & TRAPPED, 0)
        self.assertGreater(source.qmp.wait("VSVA_RELEASED", 60, since).data["replayed"], 0)
        source.guest.wait("idle")
        self.assert_fast_path(source)
        self.assertEqual(source.qmp.find("STOP", since), [])
        self.assertEqual(source.qmp.find("VSVA_DRAIN_FAILED", since), [])
        self.assertEqual(source.qmp.cmd("query-migrate")["status"], "active")
        source.guest.cmd("dirty stop")
        source.qmp.cmd("migrate_cancel")
        self.assertEqual(migration.wait_status(source, since), "cancelled")
        source.qmp.cmd("migrate-set-parameters", downtime_limit=300)
        self.assert_next_migration_takes_everything(source, 71)

    def test_destination_silent_after_the_stop_yanked_source_goes_on(self):
        source, destination = self.new_pair(vsva=DEADLINE)
        self.hold_faults(source, 1)
        proxy, since = self.start_by_proxy(source, destination, pause_before_switchover=True)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        source.guest.cmd("dma 0 50 src=fresh dst=fresh")
        source.guest.release_faults()
        self.assertEqual(
            migration.wait_status(source, since, ("pre-switchover",)), "pre-switchover"
        )
        self.assert_drained_before_stop(source, since)
        proxy.hang()
        source.qmp.cmd("migrate-continue", state="pre-switchover")
        proxy.wait_source_blocked()
        source.qmp.yank_migration()
        self.assertEqual(migration.wait_status(source, since), "failed")
        self.assertGreater(source.qmp.wait("VSVA_RELEASED", 30, since).data["replayed"], 0)
        source.guest.wait("idle")
        self.assert_fast_path(source)
        self.assert_next_migration_takes_everything(source, 71)
