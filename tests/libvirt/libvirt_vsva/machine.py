# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A host in a virtual machine, with Debian's own kernel, for what this machine's kernel need not
have: AppArmor.
"""

import shlex
import shutil
import socket
import subprocess
import time
from pathlib import Path

from .host import QEMU, CommandError, Host

BOOT_TIMEOUT = 600
# Within the namespaces that the emulator was started in.
SSH = ("ssh", "-F", "/mnt/ssh_config")


class Machine(Host):
    # QEMU within QEMU, both emulate.
    patience = 10

    def __init__(self, environment, name, folder, scratch):
        super().__init__(environment, name, folder)
        files = scratch / f"{name}-files"
        self._scratch = scratch / name
        for path in (files, self._scratch):
            path.mkdir()
        self._write_files(files, deployed=True)
        qemu = files / QEMU[1:]
        qemu.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(environment.qemu, qemu)
        self._forwarded = 0
        self._master = None
        self._boot(
            "unshare",
            "--mount",
            "--net",
            "bash",
            Path(__file__).with_name("boot-machine"),
            environment.libvirt_root,
            files,
            self._scratch,
        )

    def _wait_booted(self):
        """Until sshd answers, and the connection is kept; then until systemd has started
        everything.
        """
        deadline = time.monotonic() + BOOT_TIMEOUT
        while not (self._scratch / "ssh.sock").exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise CommandError(f"{self.name} did not boot: {self._boot_log()[-2000:]}")
            if (self._scratch / "disk").exists() and (
                self._master is None or self._master.poll() is not None
            ):
                self._master = subprocess.Popen(
                    self._inside(*SSH, "-M", "-N", "machine"),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            self._process_wait(0.5)
        if not self._wait_running():
            raise CommandError(
                f"{self.name}: systemd has not started everything, or does not answer: "
                f"{self._boot_log()[-2000:]}"
            )

    def _inside(self, *words):
        return [
            "nsenter",
            "--target",
            str(self._process.pid),
            "--mount",
            "--net",
            "--root",
            "--wd",
            "--",
            *words,
        ]

    def command(self, *words):
        return self._inside(*SSH, "machine", shlex.join(map(str, words)))

    def connect(self, path):
        self._forwarded += 1
        name = f"forwarded-{self._forwarded}.sock"
        subprocess.run(
            self._inside(*SSH, "-O", "forward", "-L", f"/mnt/{name}:{path}", "machine"), check=True
        )
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self._scratch / name))
        return sock

    def denials(self):
        """What AppArmor has denied, as the kernel says it."""
        self.run("journalctl", "--sync")
        journal = self.run(
            "journalctl", "--quiet", "--no-pager", "--output=cat", "_TRANSPORT=kernel"
        )
        return [line for line in journal.stdout.splitlines() if 'apparmor="DENIED"' in line]

    def stop(self):
        super().stop()
        if self._master is not None:
            self._master.wait()
