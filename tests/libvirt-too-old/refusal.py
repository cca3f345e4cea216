# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A libvirt that cannot drive the patched QEMU: the host check says so before a domain is
started.
"""

from libvirt_vsva import LibvirtTest


class Refusal(LibvirtTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,libvirt
    """

    def test_check_host_libvirt_too_old_fails_and_says_which_one_is_needed(self):
        done = self.new_host().run("vsva-check-host", check=False)
        self.assertEqual(done.returncode, 1)
        failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
        self.assertEqual(len(failed), 1, done.stdout)
        self.assertRegex(failed[0], r"^FAIL  libvirt: libvirt [\d.]+ is older than 11\.3$")
        self.assertIn("backports", done.stdout)

    def test_domain_start_libvirt_too_old_fails_as_the_host_check_says(self):
        domain = self.new_domain(self.new_host()).define()
        self.assert_command_fails("-no-acpi", domain.virsh, "start")
        self.assertFalse(domain.host.active(domain.service))
