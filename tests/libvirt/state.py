# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Saving, restoring and pausing a domain with the device."""

from libvirt_vsva import LibvirtTest

SAVED = "/var/lib/libvirt/qemu/save/guest.saved"


class State(LibvirtTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,libvirt
    """

    def work(self, domain, count, total):
        domain.guest.cmd(f"dma 0 {count} src=fresh dst=fresh")
        self.assert_all_done(domain, total)

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

    def test_suspend_with_faults_outstanding_resume_answers_them(self):
        domain = self.new_running()
        self.hold_faults(domain, 8)
        domain.guest.cmd("load 0 start rate=200 total=500")
        domain.virsh("suspend")
        self.assertEqual(domain.state(), "paused")
        self.assertGreaterEqual(domain.query()["outstanding"], 8)
        domain.virsh("resume")
        domain.guest.cmd("hold off")
        domain.guest.wait("completed=508")
        self.assert_all_done(domain, 508)

    def test_save_with_faults_nobody_answers_is_refused_and_domain_runs_on(self):
        domain = self.new_running(options=("--drain-timeout", "1000"))
        self.hold_faults(domain, 2)
        self.assert_command_fails("2 page fault", domain.virsh, "save", SAVED)
        self.assertEqual(domain.state(), "running")
        domain.guest.cmd("hold off")
        self.assert_all_done(domain, 2)

    def test_save_paused_with_faults_outstanding_is_refused_with_the_reason(self):
        domain = self.new_running()
        self.hold_faults(domain, 2)
        domain.virsh("suspend")
        self.assert_command_fails("2 page fault", domain.virsh, "save", SAVED)
        self.assertEqual(domain.state(), "paused")
        domain.virsh("resume")
        domain.guest.cmd("hold off")
        self.assert_all_done(domain, 2)
