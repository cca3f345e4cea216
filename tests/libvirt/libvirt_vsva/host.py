# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A host: Debian with systemd and libvirt as packaged, in namespaces of its own on this machine."""

import os
import select
import shutil
import subprocess
import threading
import time
import uuid
from pathlib import Path

NAMESPACES = ("--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
BOOT_TIMEOUT = 120
COMMAND_TIMEOUT = 120
IMAGES = "/var/lib/libvirt/images"
QEMU = "/usr/local/bin/qemu-system-aarch64"


class CommandError(Exception):
    """A command has failed; the text is what it said."""


class Background(threading.Thread):
    """A command that takes its time."""

    def __init__(self, command, *words):
        super().__init__(daemon=True)
        self._command = command
        self._words = words
        self._error = None
        self.start()

    def run(self):
        try:
            self._command(*self._words)
        except CommandError as error:
            self._error = error

    def finish(self):
        """Wait for its end. Its error text, or None."""
        self.join()
        return self._error and str(self._error)


class Cgroup:
    """A new one at the top of this machine's."""

    def __init__(self, name):
        mounts = (line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines())
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


class Host:
    """
    Booted, with what deploy/install installs, when the constructor returns. deployed=False: without that. qemu=False: without the
    patched QEMU.
    """

    def __init__(self, environment, name, folder, scratch, deployed=True, qemu=True):
        self.name = name
        self._deploy = environment.deploy
        self._folder = folder
        self.shared = scratch / "shared"
        files = scratch / f"{name}-files"
        root = scratch / f"{name}-root"
        for path in (self.shared, files, root):
            path.mkdir(exist_ok=True)
        self.shared.chmod(0o1777)
        self._write_files(environment, files, deployed)
        self._init = None
        self._cgroup = Cgroup(f"{scratch.name}-{name}")
        with open(folder / f"{name}-boot.log", "wb") as log:
            self._process = subprocess.Popen(
                ["unshare", *NAMESPACES, "bash", str(Path(__file__).with_name("boot-host")), self._cgroup.path, environment.libvirt_root,
                 files, root, self.shared, name, environment.qemu if qemu else ""], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._wait_booted()
        except Exception:
            self.stop()
            raise

    def _write_files(self, environment, files, deployed):
        identity = uuid.uuid4()
        for path, content in {
                "etc/machine-id": identity.hex,
                "etc/hostname": self.name,
                "etc/hosts": "127.0.0.1 localhost",
                "etc/libvirt/libvirtd.conf": f'host_uuid = "{identity}"\nunix_sock_group = "libvirt"\n',
        }.items():
            (files / path).parent.mkdir(parents=True, exist_ok=True)
            (files / path).write_text(content + "\n", encoding="utf-8")
        images = files / IMAGES[1:]
        images.mkdir(parents=True)
        shutil.copy(environment.kernel, images / "Image")
        shutil.copy(environment.initrd, images / "initramfs")
        if deployed:
            self._install(environment.backend, files)

    def _install(self, backend, root):
        subprocess.run([self._deploy / "install", backend], check=True, env={**os.environ, "DESTDIR": str(root)})

    def upgrade(self, backend):
        """Install another back-end while the host runs."""
        self._install(backend, self.path("/"))
        self.run("systemctl", "daemon-reload")

    def _wait_booted(self):
        """PID 1 is there once the namespaces are set up, and systemd answers when it has booted."""
        deadline = time.monotonic() + BOOT_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise CommandError(f"{self.name} did not boot: {self._boot_log()}")
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text(encoding="ascii").split()
            if children and Path(f"/proc/{children[0]}/comm").read_text(encoding="ascii").strip() == "systemd":
                self._init = int(children[0])
                state = self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
                if state == "running":
                    return
                if state == "degraded":
                    raise CommandError(f"{self.name}: {self.run('systemctl', '--failed').stdout}")
            self._process_wait(0.1)
        raise CommandError(f"{self.name} has not booted within {BOOT_TIMEOUT} s: {self._boot_log()}")

    def _process_wait(self, timeout):
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass

    def _boot_log(self):
        return (self._folder / f"{self.name}-boot.log").read_text(encoding="utf-8", errors="replace")

    def command(self, *words):
        """What runs a command in the host."""
        return ["nsenter", "--target", str(self._init), "--all", "--wdns=/", "--", *map(str, words)]

    def run(self, *words, check=True, text=None, stderr=subprocess.PIPE):
        done = subprocess.run(self.command(*words), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=stderr, text=True, input=text or "",
                              timeout=COMMAND_TIMEOUT, check=False)
        if check and done.returncode != 0:
            raise CommandError(f"{self.name}: {' '.join(map(str, words))}: {(done.stderr or '').strip() or done.stdout.strip()}")
        return done

    def start(self, *words, **options):
        """Start a command in the host."""
        return subprocess.Popen(self.command(*words), env=ENVIRONMENT, stdin=subprocess.DEVNULL, **options)

    def virsh(self, *words, **options):
        return self.run("virsh", "--quiet", "--connect", "qemu:///system", *words, **options).stdout.strip()

    def path(self, path):
        """A file of the host as this process sees it."""
        return Path(f"/proc/{self._init}/root") / str(path).lstrip("/")

    @property
    def uri(self):
        """How the other hosts reach this one's libvirtd."""
        return f"qemu+unix:///system?socket=/shared/{self.name}/libvirt-sock"

    def active(self, unit):
        return self.run("systemctl", "is-active", unit, check=False).stdout.strip() == "active"

    def keep_logs(self):
        """For a test that has failed."""
        if self._init is None:
            return
        journal = self.run("journalctl", "--no-pager", "--output=short-precise", check=False)
        (self._folder / f"{self.name}-journal.log").write_text(journal.stdout, encoding="utf-8")
        for log in self.path("/var/log/libvirt/qemu").glob("*.log"):
            shutil.copy(log, self._folder / f"{self.name}-{log.name}")

    def in_network(self, *words):
        """Run a command of this machine in the host's network."""
        subprocess.run(["nsenter", "--target", str(self._init), "--net", "--", *words], check=True)

    def link(self, other):
        """Connect two hosts by a network cable, under their names, so that root of each may log in on the other."""
        self.in_network("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(other._init))
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
        """End everything in it at once."""
        self._process.kill()
        self._process.wait()
        self._cgroup.remove()
