# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Live migration between two libvirtd, each on a host of its own."""

import threading

from libvirt_vsva import CommandError, LibvirtTest


class Migrate(threading.Thread):
    """virsh migrate in the background: it returns when the migration has ended."""

    def __init__(self, source, destination, *options):
        super().__init__(daemon=True)
        self._source = source
        self._words = ("migrate", "--live", "--p2p", *options, source.name, destination.uri,
                       "--migrateuri", "unix:///shared/migration.sock")
        self._error = None
        self.start()

    def run(self):
        try:
            self._source.host.virsh(*self._words)
        except CommandError as error:
            self._error = error

    def finish(self):
        """The error text, or None."""
        self.join()
        return self._error and str(self._error)


class Migration(LibvirtTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,libvirt,migration
    """

    def start(self, *options, domain_options=("--drain-timeout", "60000"), deployed=True):
        """A migration that drains, with faults outstanding and submissions flowing."""
        source = self.new_running(domain_options).watch_running()
        destination = self.new_domain(self.new_host("destination", deployed=deployed))
        self.hold_faults(source, 8)
        source.guest.cmd("load 0 start rate=500 total=2000")
        since = len(source.events)
        return source, destination, Migrate(source, destination.host, *options), since

    def assert_goes_on(self, source, migration_text):
        """The source is as it was, and nothing has been lost."""
        self.assertEqual(source.state(), "running", migration_text)
        source.guest.cmd("hold off")
        source.guest.wait("completed=2008", 60)
        self.assert_all_done(source, 2008)

    def test_migrate_live_with_faults_and_submissions_drains_first_and_loses_nothing(self):
        source, destination, migration, since = self.start()
        source.wait_event("VSVA_DRAIN_STARTED", 60, since)
        source.guest.cmd("dma 0 20 src=fresh dst=fresh")
        self.assertEqual(source.query()["outstanding"], 8)
        self.assertNotIn("STOP", source.event_names(since))
        source.guest.cmd("hold off")
        self.assertIsNone(migration.finish())
        names = source.event_names(since)
        self.assertLess(names.index("VSVA_DRAIN_COMPLETED"), names.index("STOP"), names)
        self.assertEqual(source.state(), "shut off")
        self.assertFalse(source.host.active(source.service))
        self.assertTrue(destination.host.active(destination.service))
        destination.connect()
        destination.guest.wait("completed=2028", 60)
        self.assert_all_done(destination, 2028)

    def test_domjobabort_during_drain_source_goes_on_and_migrates_later(self):
        source, destination, migration, since = self.start()
        source.wait_event("VSVA_DRAIN_STARTED", 60, since)
        source.virsh("domjobabort")
        self.assertIn("cancel", migration.finish())
        source.wait_event("VSVA_RELEASED", 30, since)
        self.assertNotIn("STOP", source.event_names(since))
        self.assertFalse(destination.host.active(destination.service))
        self.assert_goes_on(source, "after the abort")
        self.assertIsNone(Migrate(source, destination.host).finish())
        destination.connect()
        self.assert_all_done(destination, 2008)

    def test_fault_never_answered_migration_fails_with_its_address_and_source_goes_on(self):
        source, destination, migration, since = self.start(domain_options=("--drain-timeout", "1000"))
        failed = source.wait_event("VSVA_DRAIN_FAILED", 60, since)
        self.assertEqual(failed["reason"], "deadline")
        text = migration.finish()
        self.assertIn("SSID", text)
        self.assertNotIn("STOP", source.event_names(since))
        self.assertFalse(destination.host.active(destination.service))
        self.assert_goes_on(source, text)

    def test_migrate_timeout_suspend_during_drain_fails_and_source_runs_on(self):
        source, destination, migration, since = self.start("--timeout", "1", "--timeout-suspend")
        text = migration.finish()
        self.assertIn("page fault(s) of the guest outstanding", text)
        self.assertNotIn("VSVA_DRAIN_COMPLETED", source.event_names(since))
        self.assertFalse(destination.host.active(destination.service))
        self.assert_goes_on(source, text)

    def test_destination_without_backend_is_refused_and_source_goes_on(self):
        source, _, migration, since = self.start(deployed=False)
        text = migration.finish()
        self.assertIn("vhost-user-vsva", text)
        self.assertNotIn("VSVA_DRAIN_STARTED", source.event_names(since))
        self.assert_goes_on(source, text)
