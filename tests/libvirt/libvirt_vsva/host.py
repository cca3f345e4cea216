# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A host: Debian with systemd and libvirt as packaged."""

import abc
import os
import shutil
import subprocess
import threading
import uuid

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
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


class Host(abc.ABC):
    """
    Booted, with what deploy/install installs, when the constructor returns. deployed=False:
    without that. qemu=False: without the patched QEMU.
    """

    # How much longer things may take than on this machine itself.
    patience = 1

    def __init__(self, environment, name, folder):
        self.name = name
        self._environment = environment
        self._folder = folder
        self._process = None

    def _write_files(self, files, deployed):
        """What the host has besides Debian's files."""
        environment = self._environment
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
        subprocess.run(
            [self._environment.deploy / "install", backend],
            check=True,
            env={**os.environ, "DESTDIR": str(root)},
        )

    def _boot(self, *words):
        with open(self._folder / f"{self.name}-boot.log", "wb") as log:
            self._process = subprocess.Popen(
                list(map(str, words)), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._wait_booted()
        except Exception:
            self.stop()
            raise

    @abc.abstractmethod
    def _wait_booted(self):
        """Wait until systemd has started everything."""

    def _wait_running(self):
        """Wait for what systemd starts. False: it has not got so far, or nobody answers yet."""
        state = self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
        if state == "degraded":
            raise CommandError(f"{self.name}: {self.run('systemctl', '--failed').stdout}")
        return state == "running"

    def _process_wait(self, timeout):
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass

    def _boot_log(self):
        return (self._folder / f"{self.name}-boot.log").read_text(
            encoding="utf-8", errors="replace"
        )

    @abc.abstractmethod
    def command(self, *words):
        """What runs a command in the host."""

    @abc.abstractmethod
    def connect(self, path):
        """A connection to a unix socket of the host."""

    def run(self, *words, check=True, text=None, stderr=subprocess.PIPE):
        done = subprocess.run(
            self.command(*words),
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            input=text or "",
            timeout=COMMAND_TIMEOUT * self.patience,
            check=False,
        )
        if check and done.returncode != 0:
            raise CommandError(
                f"{self.name}: {' '.join(map(str, words))}: "
                f"{(done.stderr or '').strip() or done.stdout.strip()}"
            )
        return done

    def start(self, *words, **options):
        """Start a command in the host."""
        return subprocess.Popen(
            self.command(*words), env=ENVIRONMENT, stdin=subprocess.DEVNULL, **options
        )

    def virsh(self, *words, **options):
        return self.run(
            "virsh", "--quiet", "--connect", "qemu:///system", *words, **options
        ).stdout.strip()

    def change_unit(self, unit, text, name="test", folder="/run/systemd/system"):
        """Put `text` beside the unit; without any, take away what was put there."""
        path = f"{folder}/{unit}.d/{name}.conf"
        if text is None:
            self.run("rm", path)
        else:
            self.run("install", "-D", "-m", "644", "/dev/stdin", path, text=text)
        self.run("systemctl", "daemon-reload")

    def active(self, unit):
        return self.run("systemctl", "is-active", unit, check=False).stdout.strip() == "active"

    def keep_logs(self):
        """For a test that has failed."""
        for name, words in {
                "journal.log": ("journalctl", "--no-pager", "--output=short-precise"),
                "qemu.log": ("bash", "-c", "tail -n +1 /var/log/libvirt/qemu/*.log"),
        }.items():
            (self._folder / f"{self.name}-{name}").write_text(
                self.run(*words, check=False).stdout, encoding="utf-8"
            )

    def stop(self):
        """End everything in it at once."""
        self._process.kill()
        self._process.wait()
