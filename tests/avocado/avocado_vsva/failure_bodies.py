# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Tests of drains that fail, are cancelled or disturbed, of both kinds of device."""

import re

from . import migration


class FailureBodies:
    long_deadline = {"drain-timeout": 60000}
    deadline_ms = 1500

    def start_drain(self, source, destination, parameters=None, **capabilities):
        """A migration that waits for one page fault."""
        request = self.hold_faults(source, 1)
        since = self.start_migration(source, destination, parameters, **capabilities)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        return request, since

    def assert_goes_on_and_migrates(self, source, count, **options):
        """After a failed migration: all requests end well here, and the next migration takes
        everything along.
        """
        source.guest.release_faults()
        self.assert_all_done(source, count)
        second = self.new_destination(name="second", **options)
        since = self.start_migration(source, second)
        self.assert_migrated(source, second, since)
        second.guest.cmd("dma 0 8 src=fresh dst=fresh")
        self.assert_all_done(second, count + 8)

    def test_drain_never_answered_fails_at_its_deadline_and_names_the_fault(self):
        source, destination = self.new_pair(vsva={"drain-timeout": self.deadline_ms})
        request, since = self.start_drain(source, destination)
        source.guest.cmd("dma 0 10 src=fresh dst=fresh")
        failed = source.qmp.wait("VSVA_DRAIN_FAILED", 30, since).data
        self.assertEqual(
            (failed["id"], failed["outstanding"], failed["sid"]), ("vsva0", 1, 0x10 << 3)
        )
        self.assertEqual(failed["address"] & ~0xfff, int(request["dst"], 0) & ~0xfff)
        self.assertGreater(failed["ssid"], 0)
        self.assertGreaterEqual(failed["age-ms"], self.deadline_ms)
        self.assertEqual(migration.wait_status(source, since), "failed")
        reason = migration.reason(source)
        for value in (
            "vsva0",
            f"{failed['sid']:#x}",
            f"{failed['ssid']:#x}",
            f"{failed['address']:#x}",
        ):
            self.assertRegex(reason, re.escape(value).replace("0x", "0x0*"))
        self.assertRegex(reason, r"\d+ ms")
        self.assertEqual(source.qmp.find("STOP", since), [])
        released = source.qmp.wait("VSVA_RELEASED", 30, since)
        self.assertGreater(released.data["replayed"], 0)
        self.assert_goes_on_and_migrates(source, 11)

    def test_cancel_while_draining_goes_on_and_second_migration_completes(self):
        source, destination = self.new_pair(vsva=self.long_deadline)
        _, since = self.start_drain(source, destination)
        source.guest.cmd("dma 0 10 src=fresh dst=fresh")
        source.qmp.cmd("migrate_cancel")
        self.assertEqual(migration.wait_status(source, since), "cancelled")
        source.qmp.wait("VSVA_RELEASED", 30, since)
        self.assertEqual(source.qmp.find("STOP", since), [])
        self.assert_goes_on_and_migrates(source, 11, vsva=self.long_deadline)

    def test_reset_while_draining_completes_the_migration(self):
        source, destination = self.new_pair(vsva=self.long_deadline)
        _, since = self.start_drain(source, destination)
        source.qmp.cmd("system_reset")
        self.assert_migrated(source, destination, since)
        self.assertEqual(destination.guest.cmd("hello", 60)["devices"], 1)
        destination.guest.cmd("dma 0 8 src=fresh dst=fresh")
        self.assert_all_done(destination, 8)

    def test_destination_killed_while_draining_goes_on_and_second_migration_completes(self):
        source, destination = self.new_pair(vsva=self.long_deadline)
        _, since = self.start_drain(source, destination)
        destination.kill()
        self.assertEqual(migration.wait_status(source, since), "failed")
        source.qmp.wait("VSVA_RELEASED", 30, since)
        self.assert_goes_on_and_migrates(source, 1, vsva=self.long_deadline)

    def test_backend_killed_while_draining_fails_the_migration(self):
        backend = self.new_backend("source")
        source = self.new_vm(backend=backend, vsva=self.long_deadline).boot()
        destination = self.new_destination(vsva=self.long_deadline)
        _, since = self.start_drain(source, destination)
        backend.kill()
        self.assertEqual(migration.wait_status(source, since), "failed")
        self.assertIn("vsva0", migration.reason(source))
        self.assertEqual(source.qmp.find("STOP", since), [])
        self.assertTrue(source.guest.cmd("hello")["ok"])

    def test_reset_with_faults_outstanding_leaves_none_behind(self):
        source = self.new_source()
        self.hold_faults(source, 4)
        lines = len(source.guest.lines)
        source.qmp.cmd("system_reset")
        source.guest.wait_ready(60, lines)
        self.assertEqual(source.qmp.cmd("query-vsva")[0]["outstanding"], 0)
        source.guest.cmd("dma 0 8 src=fresh dst=fresh")
        self.assert_all_done(source, 8)
