# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The back-end of a running domain ends, hangs or is replaced, and the domain runs on."""

import re

from libvirt_vsva import LibvirtTest
from migration import migrate

RECONNECT = ",reconnect-ms=100"


class Recovery(LibvirtTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,libvirt,recovery
    """

    def assert_nothing_lost(self, domain):
        domain.guest.release_faults()
        self.assert_load_done(domain)

    def property(self, domain, name):
        return domain.host.run(
            "systemctl", "show", "--value", f"--property={name}", domain.service
        ).stdout.strip()

    def break_program(self, domain, broken=True):
        """The next process ends at once."""
        domain.change_program("/bin/false" if broken else None)

    def test_unit_restarted_with_faults_and_submissions_domain_runs_on_and_loses_nothing(self):
        domain = self.new_loaded()
        since, pid = len(domain.events), domain.backend_pid()
        domain.host.run("systemctl", "restart", domain.service)
        self.assert_recovered(domain, since)
        self.assertNotEqual(domain.backend_pid(), pid)
        self.assertGreaterEqual(domain.query()["outstanding"], 8)
        self.assert_nothing_lost(domain)
        self.assert_never_paused(domain, since)

    def test_process_killed_again_and_again_domain_runs_on_and_loses_nothing(self):
        domain = self.new_loaded()
        since = len(domain.events)
        for count in range(1, 4):
            before = len(domain.events)
            domain.kill_backend()
            self.assert_recovered(domain, before, count)
            domain.guest.cmd("dma 0 20 src=fresh dst=fresh")
        domain.guest.release_faults()
        domain.guest.wait("completed=2068", 60)
        self.assert_all_done(domain, 2068)
        self.assert_never_paused(domain, since)

    def test_process_stopped_is_ended_by_the_watchdog_and_the_domain_loses_nothing(self):
        domain = self.new_loaded()
        since, pid = len(domain.events), domain.backend_pid()
        domain.kill_backend("STOP")
        self.assert_recovered(domain, since)
        self.assertNotEqual(domain.backend_pid(), pid)
        journal = domain.host.run("journalctl", "--no-pager", "-u", domain.service).stdout
        self.assertIn("Watchdog timeout", journal)
        self.assert_nothing_lost(domain)
        self.assert_never_paused(domain, since)

    def test_process_killed_before_and_after_a_migration_domain_loses_nothing(self):
        destination = self.new_domain(self.new_host("destination"))
        source = self.new_loaded()
        since = len(source.events)
        source.kill_backend()
        self.assert_recovered(source, since)
        source.guest.release_faults()
        self.assertIsNone(migrate(source, destination.host).finish())
        destination.connect()
        destination.watch_running()
        since = len(destination.events)
        destination.kill_backend()
        self.assert_recovered(destination, since)
        self.assert_load_done(destination)

    def test_process_killed_while_a_migration_drains_domain_runs_on_and_migrates(self):
        destination = self.new_domain(self.new_host("destination"))
        source = self.new_loaded()
        since = len(source.events)
        migration = migrate(source, destination.host)
        source.wait_event("VSVA_DRAIN_STARTED", 60, since)
        source.kill_backend()
        self.assert_recovered(source, since)
        source.guest.release_faults()
        self.assertIsNone(migration.finish())
        self.assert_drained_before_stop(source, since)
        destination.connect()
        self.assert_load_done(destination)

    def test_process_that_runs_is_left_alone_by_the_watchdog(self):
        domain = self.new_running()
        pid = domain.backend_pid()
        domain.host.run("sh", "-c", "sleep 12")
        self.assertEqual((domain.backend_pid(), self.property(domain, "NRestarts")), (pid, "0"))

    def test_program_that_always_ends_is_given_up_and_the_domain_starts_again_when_it_works(self):
        domain = self.new_running().watch_running()
        since = len(domain.events)
        self.break_program(domain)
        domain.kill_backend()
        gone = domain.wait_event("VSVA_BACKEND_DISCONNECTED", 60, since)
        self.assertIn("no other one could go on", gone["reason"])
        self.assert_never_paused(domain, since)
        self.assertEqual(self.property(domain, "ActiveState"), "failed")
        self.assertFalse(domain.host.active(domain.socket_unit))
        journal = domain.host.run("journalctl", "--no-pager", "-u", domain.service).stdout
        self.assertIn("Start request repeated too quickly", journal)
        domain.guest.cmd("hello")
        self.break_program(domain, broken=False)
        domain.virsh("destroy")
        domain.start()
        domain.guest.cmd("dma 0 20 src=fresh dst=fresh")
        self.assert_all_done(domain, 20)

    def test_unit_stopped_by_hand_comes_back_with_the_next_connection(self):
        domain = self.new_running().watch_running()
        since = len(domain.events)
        domain.host.run("systemctl", "stop", domain.service)
        self.assert_recovered(domain, since)
        domain.guest.cmd("dma 0 20 src=fresh dst=fresh")
        self.assert_all_done(domain, 20)

    def test_status_asked_while_the_unit_restarts_is_answered_by_the_next_process(self):
        domain = self.new_running().watch_running()
        since = len(domain.events)
        domain.host.run("systemctl", "restart", domain.service)
        status = domain.host.run("/usr/libexec/vhost-user-vsva/vhost-user-vsva", "status").stdout
        self.assertNotIn("does not answer", status)
        self.assert_recovered(domain, since)
        self.assertTrue(domain.host.active(domain.status_unit))

    def test_domain_of_an_earlier_release_is_refused_by_an_upgrade_until_it_is_updated(self):
        domain = self.new_domain(self.new_host()).define()
        domain.define_xml(domain.xml().replace(RECONNECT, ""))
        domain.start().watch_running()
        since, pid = len(domain.events), domain.backend_pid()
        done = domain.host.run("vsva-upgrade", "--again", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("FAIL  guest: its QEMU does not connect to another back-end", done.stdout)
        self.assertIn("vsva-domain update", done.stdout)
        self.assertEqual(domain.backend_pid(), pid)
        domain.kill_backend()
        domain.wait_event("VSVA_BACKEND_DISCONNECTED", 60, since)
        self.assert_never_paused(domain, since)
        domain.guest.cmd("hello")

        domain.virsh("destroy")
        domain.define_xml(domain.host.run("vsva-domain", "update", text=domain.xml()).stdout)
        self.assertIn(RECONNECT, domain.xml())
        domain.start()
        done = domain.host.run("vsva-upgrade", "--again", "guest")
        self.assertTrue(
            re.fullmatch(r"ok    guest: upgraded; \d+ ms without a back-end\n", done.stdout),
            done.stdout,
        )
