# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Live migration between two libvirtd, each on a host of its own."""

from libvirt_vsva import LONG_DEADLINE, OUTSTANDING, Background, LibvirtTest


def migrate_words(source, destination, *options):
    """What virsh is told for a migration to another host of this machine."""
    return (
        "migrate",
        "--live",
        "--p2p",
        *options,
        source.name,
        destination.uri,
        "--migrateuri",
        "unix:///shared/migration.sock",
    )


def migrate(source, destination, *options):
    return Background(source.host.virsh, *migrate_words(source, destination, *options))


class Migration(LibvirtTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,libvirt,migration
    """

    def start(self, *options, domain_options=LONG_DEADLINE, **host):
        """A migration that drains, with faults outstanding and submissions flowing."""
        destination = self.new_domain(self.new_host("destination", **host))
        source = self.new_loaded(domain_options)
        since = len(source.events)
        return source, destination, migrate(source, destination.host, *options), since

    def assert_goes_on(self, source, migration_text):
        """The source is as it was, and nothing has been lost."""
        self.assertEqual(source.state(), "running", migration_text)
        source.guest.release_faults()
        self.assert_load_done(source)

    def test_migrate_live_with_faults_and_submissions_drains_first_and_loses_nothing(self):
        source, destination, migration, since = self.start()
        source.wait_event("VSVA_DRAIN_STARTED", 60, since)
        source.guest.cmd("dma 0 20 src=fresh dst=fresh")
        self.assertEqual(source.query()["outstanding"], 8)
        self.assertNotIn("STOP", source.event_names(since))
        source.guest.release_faults()
        self.assertIsNone(migration.finish())
        self.assert_drained_before_stop(source, since)
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
        self.assert_drain_given_up(source, since)
        self.assertFalse(destination.host.active(destination.service))
        self.assert_goes_on(source, "after the abort")
        self.assertIsNone(migrate(source, destination.host).finish())
        destination.connect()
        self.assert_all_done(destination, 2008)

    def test_fault_never_answered_migration_fails_with_its_address_and_source_goes_on(self):
        source, destination, migration, since = self.start(
            domain_options=("--drain-timeout", "1000")
        )
        failed = source.wait_event("VSVA_DRAIN_FAILED", 60, since)
        self.assertEqual(failed["reason"], "deadline")
        text = migration.finish()
        self.assertIn("SSID", text)
        self.assert_drain_given_up(source, since)
        self.assertFalse(destination.host.active(destination.service))
        self.assert_goes_on(source, text)

    def test_migrate_timeout_suspend_guest_answers_in_time_migrates(self):
        destination = self.new_domain(self.new_host("destination"))
        source = self.new_loaded()
        since = len(source.events)
        words = migrate_words(source, destination.host, "--timeout", "1", "--timeout-suspend")
        migration = source.follow_virsh("migrate", "--debug", "0", *words)
        source.wait_event("migration timed out; suspending domain", 60, since)
        source.wait_stop_waits()
        self.assert_guest_runs(source)
        source.guest.release_faults()
        self.assertEqual(migration.wait(), 0)
        self.assertEqual(destination.state(), "running")
        destination.connect()
        self.assert_load_done(destination)

    def test_migrate_timeout_suspend_guest_does_not_answer_fails_and_source_runs_on(self):
        source, destination, migration, since = self.start(
            "--timeout",
            "1",
            "--timeout-suspend",
            domain_options=("--drain-timeout", "4000", "--stop-timeout", "1000"),
        )
        text = migration.finish()
        self.assertIn(OUTSTANDING, text)
        self.assert_drain_given_up(source, since)
        self.assertFalse(destination.host.active(destination.service))
        self.assert_goes_on(source, text)

    def test_migrate_timeout_suspend_without_stop_timeout_fails_and_source_runs_on(self):
        source, destination, migration, since = self.start(
            "--timeout",
            "1",
            "--timeout-suspend",
            domain_options=("--drain-timeout", "60000", "--stop-timeout", "0"),
        )
        text = migration.finish()
        self.assertIn(OUTSTANDING, text)
        source.wait_event("VSVA_RELEASED", since=since)
        self.assertNotIn("VSVA_DRAIN_COMPLETED", source.event_names(since))
        self.assertFalse(destination.host.active(destination.service))
        self.assert_goes_on(source, text)

    def test_destination_without_backend_is_refused_and_source_goes_on(self):
        source, _, migration, since = self.start(deployed=False)
        text = migration.finish()
        self.assertIn("vhost-user-vsva", text)
        self.assertNotIn("VSVA_DRAIN_STARTED", source.event_names(since))
        self.assert_goes_on(source, text)

    def test_destination_without_patched_qemu_is_refused_and_source_goes_on(self):
        source, _, migration, since = self.start(qemu=False)
        text = migration.finish()
        self.assertIn("/usr/local/bin/qemu-system-aarch64", text)
        self.assertNotIn("VSVA_DRAIN_STARTED", source.event_names(since))
        self.assert_goes_on(source, text)
