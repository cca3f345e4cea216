# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A host: Debian with systemd and libvirt as packaged, in namespaces of its own on this machine."""

import os
import select
import shutil
import subprocess
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
    Booted, with what deploy/install installs, when the constructor returns. deployed=False: without that.
    """

    def __init__(self, environment, name, folder, scratch, deployed=True):
        self.name = name
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
                ["unshare", *NAMESPACES, "bash", str(Path(__file__).with_name("boot-host")), self._cgroup.path, environment.libvirt_root, files, root,
                 self.shared, name, environment.qemu], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
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
                "etc/libvirt/libvirtd.conf": f'host_uuid = "{identity}"\nunix_sock_group = "libvirt"\n',
        }.items():
            (files / path).parent.mkdir(parents=True, exist_ok=True)
            (files / path).write_text(content + "\n", encoding="utf-8")
        images = files / IMAGES[1:]
        images.mkdir(parents=True)
        shutil.copy(environment.kernel, images / "Image")
        shutil.copy(environment.initrd, images / "initramfs")
        if deployed:
            subprocess.run([environment.deploy / "install", environment.backend], check=True,
                           env={**os.environ, "DESTDIR": str(files)})

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

    def run(self, *words, check=True, text=None, timeout=COMMAND_TIMEOUT):
        done = subprocess.run(self.command(*words), env=ENVIRONMENT, capture_output=True, text=True, input=text or "",
                              timeout=timeout, check=False)
        if check and done.returncode != 0:
            raise CommandError(f"{self.name}: {' '.join(map(str, words))}: {done.stderr.strip() or done.stdout.strip()}")
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

    def stop(self):
        """End everything in it at once."""
        self._process.kill()
        self._process.wait()
        self._cgroup.remove()
