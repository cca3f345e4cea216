# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A domain with the device under Debian's libvirt: the back-end comes before QEMU and goes after
it.
"""

import json
import shutil

from avocado_vsva.journal import WaitError
from libvirt_vsva import LibvirtTest, logs
from libvirt_vsva.domain import UUID

UNITS = "/usr/lib/systemd/system/vhost-user-vsva@"
SOCKET = f"/run/vhost-user-vsva/{UUID}.sock"
BACKEND = "/usr/libexec/vhost-user-vsva/vhost-user-vsva"
OTHER = "0b9bdc2e-3c61-4b06-8a4e-9f7f2b5a2f11"


class Deployment(LibvirtTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,libvirt
    """

    def assert_no_backend(self, domain):
        self.assertFalse(domain.host.active(domain.service))
        self.assertFalse(domain.host.active(domain.socket_unit))
        self.assertFalse(domain.host.active(domain.status_unit))
        self.assertFalse(domain.host.path(SOCKET).exists())

    def test_domain_start_with_device_guest_is_served_by_a_backend_of_its_own(self):
        domain = self.new_domain(self.new_host()).define()
        self.assert_no_backend(domain)
        domain.start()
        self.assertTrue(domain.host.active(domain.service))
        owner = domain.host.run("stat", "--format=%U:%G %a", SOCKET).stdout.strip()
        self.assertEqual(owner, "libvirt-qemu:libvirt-qemu 600")
        domain.guest.cmd("dma 0 100 src=fresh dst=fresh")
        self.assert_all_done(domain, 100)
        self.assertTrue(domain.query()["connected"])
        domain.virsh("destroy")
        self.assert_no_backend(domain)
        domain.start()
        domain.guest.cmd("dma 0 10 src=fresh dst=fresh")
        self.assert_all_done(domain, 10)

    def test_guest_powers_off_backend_ends_with_it(self):
        domain = self.new_running().watch_running()
        with self.assertRaises(WaitError):
            domain.guest.cmd("poweroff")
        domain.wait_event("Stopped Shutdown")
        self.assertEqual(domain.state(), "shut off")
        self.assert_no_backend(domain)

    def test_domain_start_backend_cannot_start_is_refused_with_the_reason(self):
        domain = self.new_domain(self.new_host()).define()
        domain.change_program("/bin/false")
        self.assert_command_fails(f"journalctl -u {domain.service}", domain.virsh, "start")
        self.assertEqual(domain.state(), "shut off")
        self.assert_no_backend(domain)

    def test_domain_start_backend_has_met_its_start_limit_starts_when_it_works_again(self):
        domain = self.new_domain(self.new_host()).define()
        domain.host.change_unit(domain.service, "[Unit]\nStartLimitIntervalSec=1h\n", "limit")
        domain.change_program(f"/bin/sh -c 'test ! -e /run/broken && exec {BACKEND}'")
        domain.host.run("touch", "/run/broken")
        for _ in range(11):
            domain.host.run("systemctl", "start", domain.service, check=False)
        domain.host.run("rm", "/run/broken")
        # By itself systemd does not start it any more.
        self.assert_command_fails(
            domain.service, domain.host.run, "systemctl", "start", domain.service
        )
        domain.start()
        self.assertTrue(domain.host.active(domain.service))

    def test_clone_of_a_domain_is_refused_until_it_has_a_socket_of_its_own(self):
        domain = self.new_running()
        host, xml = domain.host, domain.xml()
        clone = xml.replace(f"<uuid>{UUID}<", f"<uuid>{OTHER}<")
        for old, new in (("<name>guest<", "<name>clone<"), ("guest-console", "clone-console")):
            clone = clone.replace(old, new)
        domain.define_xml(clone)
        self.assert_command_fails(f"has the socket of domain {UUID}", host.virsh, "start", "clone")
        self.assertTrue(host.active(domain.service))
        domain.define_xml(domain.with_device(clone))
        host.virsh("start", "clone")
        self.assertTrue(host.active(f"vhost-user-vsva@{OTHER}.service"))
        host.virsh("destroy", "clone")
        self.assertFalse(host.active(f"vhost-user-vsva@{OTHER}.service"))
        domain.guest.cmd("dma 0 20 src=fresh dst=fresh")
        self.assert_all_done(domain, 20)

    def test_event_log_and_trace_as_documented_are_in_the_log_folder_of_the_domain(self):
        domain = self.new_domain(self.new_host())
        host = domain.host
        logs.enable(domain)
        host.run("systemctl", "start", domain.service)
        pid = host.run(
            "systemctl", "show", "--value", "--property=MainPID", domain.service
        ).stdout.strip()
        owner = host.run("stat", "--format=%u", f"/proc/{pid}").stdout.strip()
        host.run("systemctl", "stop", domain.service)
        for name in ("events.jsonl", "vsva.perfetto-trace"):
            self.assertRegex(
                host.run("stat", "--format=%u %s", f"{logs.FOLDER}/{name}").stdout,
                rf"^{owner} [1-9]",
            )

    def test_domain_without_device_starts_no_backend(self):
        domain = self.new_domain(self.new_host()).define(device=False).start()
        domain.guest.cmd("hello")
        self.assert_no_backend(domain)

    def test_check_host_ready_passes_and_says_what_the_backend_offers(self):
        host = self.new_host()
        done = host.run("vsva-check-host", "--json")
        self.assertNotIn("FAIL", done.stderr)
        facts = json.loads(done.stdout)
        self.assertEqual(facts["state_version"], 1)
        self.assertEqual(facts["qemu"], "10.2.2")
        self.assertEqual(list(host.path("/run/vhost-user-vsva").iterdir()), [])

    def test_check_host_not_deployed_says_what_is_missing(self):
        host = self.new_host(deployed=False)
        shutil.copy(
            self.environment.deploy / "libvirt/vsva-check-host", host.path("/usr/local/bin")
        )
        self.assert_check_host_fails(
            host,
            ["emulator", "hook", "back-end"],
            "/usr/local/bin/vsva-check-host",
            "--emulator",
            "/usr/bin/true",
        )

    def test_check_host_emulator_or_socket_of_others_says_what_is_not_permitted(self):
        host = self.new_host()
        host.run("chmod", "700", "/usr/local/bin")
        host.change_unit("vhost-user-vsva@.socket", "[Socket]\nSocketUser=root\n")
        self.assert_check_host_fails(host, ["emulator's permission", "back-end"], "vsva-check-host")

    def assert_check_host_fails(self, host, names, *command):
        done = host.run(*command, check=False)
        self.assertEqual(done.returncode, 1)
        failed = [
            line.split(":")[0] for line in done.stdout.splitlines() if line.startswith("FAIL")
        ]
        self.assertEqual(failed, [f"FAIL  {name}" for name in names], done.stdout)

    def test_units_and_apparmor_profiles_are_accepted_by_their_programs(self):
        host = self.new_host()
        complaints = host.run(
            "systemd-analyze", "verify", *(f"{UNITS}.{kind}" for kind in ("service", "socket"))
        ).stderr
        self.assertNotIn("vhost-user-vsva", complaints)
        parser = ("apparmor_parser", "--skip-kernel-load", "--skip-cache")
        host.run(*parser, "/etc/apparmor.d/vhost-user-vsva")
        host.run(
            *parser,
            text="include <tunables/global>\n"
            "profile libvirt-test { include <abstractions/libvirt-qemu> }\n",
        )
        self.assert_command_fails(
            "syntax error",
            host.run,
            *parser,
            text="profile broken { include <abstractions/libvirt-qemu> x }\n",
        )

    def test_domain_xml_through_libvirt_add_and_remove_restore_it(self):
        domain = self.new_domain(self.new_host()).define(device=False)
        before = domain.xml()
        domain.define_xml(domain.with_device(before))
        with_device = domain.xml()
        self.assertIn("vhost-user-vsva", with_device)
        domain.define_xml(domain.with_device(with_device))
        self.assertEqual(domain.xml(), with_device)
        domain.define_xml(domain.host.run("vsva-domain", "remove", text=with_device).stdout)
        self.assertEqual(domain.xml(), before)

    def test_libvirtd_restart_domain_and_backend_go_on(self):
        domain = self.new_running()
        domain.host.run("systemctl", "restart", "libvirtd.service")
        self.assertEqual(domain.state(), "running")
        domain.guest.cmd("dma 0 20 src=fresh dst=fresh")
        self.assert_all_done(domain, 20)
        domain.virsh("destroy")
        self.assert_no_backend(domain)
