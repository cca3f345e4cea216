# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Saving, restoring and pausing a domain with the device."""

from libvirt_vsva import LONG_DEADLINE, OUTSTANDING, Background, LibvirtTest

SAVED = "/var/lib/libvirt/qemu/save/guest.saved"
SHORT_STOP = ("--drain-timeout", "60000", "--stop-timeout", "1000")
NO_STOP = ("--stop-timeout", "0")


class State(LibvirtTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,libvirt
    """

    def work(self, domain, count, total):
        domain.guest.cmd(f"dma 0 {count} src=fresh dst=fresh")
        self.assert_all_done(domain, total)

    def stop_under_load(self, domain, command, *words):
        """A command that stops the domain: the guest runs until it has answered its faults, and
        the command succeeds.
        """
        since = len(domain.events)
        stopping = Background(domain.virsh, command, *words)
        domain.wait_event("VSVA_DRAIN_STARTED", 60, since)
        self.assert_guest_runs(domain)
        self.assertNotIn("STOP", domain.event_names(since))
        domain.guest.release_faults()
        self.assertIsNone(stopping.finish())
        self.assert_drained_before_stop(domain, since)

    def stop_refused(self, command, *words):
        """A command that stops the domain fails in time when nobody answers the faults, and the
        domain runs on.
        """
        domain = self.new_loaded(SHORT_STOP)
        since = len(domain.events)
        self.assert_command_fails(
            f"not drained within 1000 ms: 8 {OUTSTANDING}", domain.virsh, command, *words
        )
        self.assertEqual(domain.state(), "running")
        self.assert_drain_given_up(domain, since)
        self.assert_guest_runs(domain)
        domain.guest.release_faults()
        self.assert_load_done(domain)

    def test_save_idle_restore_goes_on_with_a_new_backend(self):
        domain = self.new_running()
        self.work(domain, 100, 100)
        domain.virsh("save", SAVED)
        self.assertEqual(domain.state(), "shut off")
        self.assertFalse(domain.host.active(domain.service))
        domain.host.virsh("restore", SAVED)
        domain.connect()
        self.assertTrue(domain.host.active(domain.service))
        self.work(domain, 50, 150)

    def test_managedsave_idle_start_goes_on_with_a_new_backend(self):
        domain = self.new_running()
        self.work(domain, 100, 100)
        domain.virsh("managedsave")
        self.assertFalse(domain.host.active(domain.service))
        domain.virsh("start")
        domain.connect()
        self.work(domain, 50, 150)

    def test_save_with_faults_and_submissions_restore_loses_nothing(self):
        domain = self.new_loaded()
        self.stop_under_load(domain, "save", SAVED)
        self.assertEqual(domain.state(), "shut off")
        self.assertFalse(domain.host.active(domain.service))
        domain.host.virsh("restore", SAVED)
        domain.connect()
        self.assert_load_done(domain)

    def test_managedsave_with_faults_and_submissions_start_loses_nothing(self):
        domain = self.new_loaded()
        self.stop_under_load(domain, "managedsave")
        self.assertFalse(domain.host.active(domain.service))
        domain.virsh("start")
        domain.connect()
        self.assert_load_done(domain)

    def test_suspend_with_faults_and_submissions_waits_for_the_guest_and_resume_loses_nothing(self):
        domain = self.new_loaded()
        self.stop_under_load(domain, "suspend")
        self.assertEqual(domain.state(), "paused")
        self.assertEqual(domain.query()["outstanding"], 0)
        domain.virsh("resume")
        self.assert_load_done(domain)

    def test_save_paused_after_drain_restore_and_resume_lose_nothing(self):
        domain = self.new_loaded()
        self.stop_under_load(domain, "suspend")
        domain.virsh("save", SAVED)
        domain.host.virsh("restore", SAVED)
        self.assertEqual(domain.state(), "paused")
        domain.connect()
        domain.virsh("resume")
        self.assert_load_done(domain)

    def test_save_with_faults_nobody_answers_is_refused_and_domain_runs_on(self):
        self.stop_refused("save", SAVED)

    def test_managedsave_with_faults_nobody_answers_is_refused_and_domain_runs_on(self):
        self.stop_refused("managedsave")

    def test_suspend_with_faults_nobody_answers_is_refused_and_domain_runs_on(self):
        self.stop_refused("suspend")

    def test_suspend_without_stop_timeout_is_prompt_and_resume_answers_the_faults(self):
        domain = self.new_loaded(NO_STOP)
        domain.virsh("suspend")
        self.assertEqual(domain.state(), "paused")
        self.assertGreaterEqual(domain.query()["outstanding"], 8)
        domain.virsh("resume")
        domain.guest.release_faults()
        self.assert_load_done(domain)

    def test_save_paused_with_faults_outstanding_is_refused_with_the_reason(self):
        domain = self.new_running(NO_STOP)
        self.hold_faults(domain, 2)
        domain.virsh("suspend")
        self.assert_save_refused_until_resumed(domain)

    def test_save_stopped_by_hmp_with_faults_outstanding_is_refused_with_the_reason(self):
        domain = self.new_running().watch_running()
        self.hold_faults(domain, 2)
        since = len(domain.events)
        domain.virsh("qemu-monitor-command", "--hmp", "stop")
        domain.wait_event("STOP", since=since)
        self.assert_save_refused_until_resumed(domain)

    def assert_save_refused_until_resumed(self, domain):
        self.assert_command_fails(f"2 {OUTSTANDING}", domain.virsh, "save", SAVED)
        self.assertEqual(domain.state(), "paused")
        domain.virsh("resume")
        domain.guest.release_faults()
        self.assert_all_done(domain, 2)
        domain.virsh("save", SAVED)
