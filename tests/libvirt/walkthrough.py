# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""docs/deploy.md is true: its commands are run on two hosts, and print what it shows."""

import re
import subprocess
from pathlib import Path

from libvirt_vsva import LibvirtTest
from libvirt_vsva.packages import QEMU, copy_newer, copy_packages

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/deploy.md"
COMMAND = re.compile(r"    (source|destination|both)# (.*)")
HIDDEN = re.compile(r"<!-- (guest|define|upgrade): (.*) -->")
NUMBER = re.compile(r"0x[0-9a-f]+|\d+")
CUT = "[...]"


def steps(lines):
    """What is done, in order: [host, command, line...], with the lines that it prints, ["guest",
    command], ["define", host] or ["upgrade", folder].
    """
    found, shown = [], None
    for line in lines:
        if match := COMMAND.fullmatch(line):
            shown = [match[1], match[2]]
            found.append(shown)
        elif match := HIDDEN.fullmatch(line):
            found.append([match[1], match[2]])
        elif not line.startswith("    "):
            shown = None
        elif shown is not None:
            shown.append(line[4:])
    return found


def pattern(lines):
    """Numbers may be others; [...] is anything: a part of a line, or lines."""
    parts = []
    for line in lines:
        if line == CUT:
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(
                ".*".join(re.escape(NUMBER.sub("0", part)) for part in line.split(CUT)) + r"\n"
            )
    return "".join(parts)


class Walkthrough(LibvirtTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,libvirt,migration
    """

    def new_plain(self, name):
        """A host with Debian's packages, and what has been copied to it in /root/vsva."""
        host = self.new_host(name, deployed=False, qemu=False)
        copy_packages(host, "/root/vsva")
        return host

    def run_command(self, host, command, expected):
        done = host.run("bash", "-c", f"cd /root; {command}", check=False, stderr=subprocess.STDOUT)
        printed = "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines() if line.strip())
        if not re.fullmatch(pattern(expected), NUMBER.sub("0", printed)):
            self.fail(
                f"{host.name}# {command}\n{printed}is not what {DOCUMENT.name} shows:\n"
                + "\n".join(expected)
            )

    def test_every_command_of_the_document_prints_what_it_shows(self):
        hosts = {name: self.new_plain(name) for name in ("source", "destination")}
        hosts["source"].link(hosts["destination"])
        domains = {name: self.new_domain(host) for name, host in hosts.items()}
        todo = steps(DOCUMENT.read_text(encoding="utf-8").splitlines())
        self.assertGreater(len(todo), 20)
        for where, command, *expected in todo:
            if where == "guest":
                domain = next(domain for domain in domains.values() if domain.running())
                if domain.guest is None:
                    domain.connect()
                domain.guest.cmd(command)
            elif where == "define":
                domains[command].define(device=False, emulator=QEMU)
            elif where == "upgrade":
                for host in hosts.values():
                    copy_newer(host, f"/root/{command}", self.scratch)
            else:
                for name in hosts if where == "both" else [where]:
                    self.run_command(hosts[name], command, expected)
