# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A host in namespaces of its own on this machine, on this machine's kernel."""

import os
import select
import socket
import subprocess
import time
from pathlib import Path

from .host import COMMAND_TIMEOUT, CommandError, Host

BOOT_TIMEOUT = 120
NAMESPACES = ("--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child")


class Cgroup:
    """A new one at the top of this machine's."""

    def __init__(self, name):
        mounts = (
            line.split()
            for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        )
        top = next((fields[1] for fields in mounts if fields[2] == "cgroup2"), None)
        if top is None:
            raise FileNotFoundError("this machine has no cgroup2 mounted, which systemd needs")
        self.path = Path(top) / name
        self.path.mkdir()

    def remove(self, timeout=COMMAND_TIMEOUT):
        """Wait until the last process has gone, and remove it with all that are in it."""
        events = self.path / "cgroup.events"
        with open(events, encoding="ascii") as file:
            poll = select.poll()
            poll.register(file, select.POLLPRI)
            deadline = time.monotonic() + timeout
            while "populated 1" in file.read():
                if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
                    raise TimeoutError(f"{self.path} is not empty")
                file.seek(0)
        for folder, _, _ in os.walk(self.path, topdown=False):
            os.rmdir(folder)


class Container(Host):
    """It shares the folder /shared with the test's other ones."""

    def __init__(self, environment, name, folder, scratch, deployed=True, qemu=True):
        super().__init__(environment, name, folder)
        shared = scratch / "shared"
        files = scratch / f"{name}-files"
        root = scratch / f"{name}-root"
        for path in (shared, files, root):
            path.mkdir(exist_ok=True)
        shared.chmod(0o1777)
        self._write_files(files, deployed)
        self._init = None
        self._cgroup = Cgroup(f"{scratch.name}-{name}")
        self._boot(
            "unshare",
            *NAMESPACES,
            "bash",
            Path(__file__).with_name("boot-host"),
            self._cgroup.path,
            environment.libvirt_root,
            files,
            root,
            shared,
            name,
            environment.qemu if qemu else "",
        )

    def _wait_booted(self):
        """PID 1 is there once the namespaces are set up, and systemd answers when it has booted."""
        deadline = time.monotonic() + BOOT_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise CommandError(f"{self.name} did not boot: {self._boot_log()}")
            children = (
                Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
                .read_text(encoding="ascii")
                .split()
            )
            if (
                children
                and Path(f"/proc/{children[0]}/comm").read_text(encoding="ascii").strip()
                == "systemd"
            ):
                self._init = int(children[0])
                if self._wait_running():
                    return
            self._process_wait(0.1)
        raise CommandError(
            f"{self.name} has not booted within {BOOT_TIMEOUT} s: {self._boot_log()}"
        )

    def command(self, *words):
        return ["nsenter", "--target", str(self._init), "--all", "--wdns=/", "--", *map(str, words)]

    def path(self, path):
        """A file of the host as this process sees it."""
        return Path(f"/proc/{self._init}/root") / str(path).lstrip("/")

    def connect(self, path):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.path(path)))
        return sock

    def upgrade(self, backend):
        """Install another back-end while the host runs."""
        self._install(backend, self.path("/"))
        self.run("systemctl", "daemon-reload")

    @property
    def uri(self):
        """How the other hosts reach this one's libvirtd."""
        return f"qemu+unix:///system?socket=/shared/{self.name}/libvirt-sock"

    def in_network(self, *words):
        """Run a command of this machine in the host's network."""
        subprocess.run(["nsenter", "--target", str(self._init), "--net", "--", *words], check=True)

    def link(self, other):
        """Connect two hosts by a network cable, under their names, so that root of each may log
        in on the other.
        """
        self.in_network(
            "ip",
            "link",
            "add",
            "cable",
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            str(other._init),
        )
        addresses = {self: "192.0.2.1", other: "192.0.2.2"}
        names = "".join(f"{address} {host.name}\n" for host, address in addresses.items())
        for host, peer in ((self, other), (other, self)):
            host.in_network("ip", "address", "add", f"{addresses[host]}/24", "dev", "cable")
            for interface in ("lo", "cable"):
                host.in_network("ip", "link", "set", interface, "up")
            host.run("tee", "-a", "/etc/hosts", text=names)
            host.run("install", "-d", "-m", "700", "/root/.ssh")
            host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/id_ed25519")
            peer.run("install", "-D", "-m", "600", "/dev/stdin", "/root/.ssh/authorized_keys",
                     text=host.run("cat", "/root/.ssh/id_ed25519.pub").stdout)
            key = peer.run("cat", "/etc/ssh/ssh_host_ed25519_key.pub").stdout
            host.run("tee", "/root/.ssh/known_hosts", text=f"{peer.name} {key}")

    def stop(self):
        super().stop()
        self._cgroup.remove()
