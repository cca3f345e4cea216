# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""One QEMU with a guest: QMP, guest program, console and trace."""

import socket

from . import command_line, process
from .guest import Guest
from .journal import Journal, LineReader
from .qmp import Qmp

READY, FAILED = "vsva-guest: ready", "vsva-guest: failed"


class VmError(Exception):
    """QEMU or its guest did not start."""


class Vm:
    """
    backend: the vhost-user-vsva process that this VM's device is connected to; None: no such
    device. test_devices: number of vsva-testdev functions; without a backend they use the
    SMMU's own stall model. backends: several of them, by number, with a test device each (see
    command_line.devices_of_each). smmu: properties of the emulated SMMUv3; vsva: properties
    of the vhost-user-vsva devices.
    """

    quit_timeout = 30

    def __init__(
        self,
        environment,
        name,
        folder,
        *,
        backend=None,
        backends=None,
        test_devices=1,
        smmu=None,
        vsva=None,
        incoming=False,
        memory_mib=256,
    ):
        self.name = name
        self.console = Journal(f"{name} console")
        self.trace_path = folder / f"{name}-trace.log"
        self._log_path = folder / f"{name}-qemu.log"
        self.qmp = None
        pairs = {channel: socket.socketpair() for channel in ("qmp", "console", "guest")}
        fds = {channel: theirs.fileno() for channel, (_, theirs) in pairs.items()}
        command = command_line.machine(environment, name, memory_mib)
        command += command_line.channels(fds)
        command += command_line.trace(self.trace_path)
        command += command_line.smmu_properties(command_line.STALLS_ON if smmu is None else smmu)
        if backends is None:
            command += command_line.devices(backend, vsva or {}, test_devices)
        else:
            command += command_line.devices_of_each(backends, vsva or {})
        if incoming:
            command += ["-incoming", "defer"]
        self.process = process.start(command, self._log_path, list(fds.values()))
        for _, theirs in pairs.values():
            theirs.close()
        ours = {channel: pair[0] for channel, pair in pairs.items()}
        self._console_socket = ours["console"]
        LineReader(
            ours["console"].fileno(),
            folder / f"{name}-console.log",
            self.console,
            lambda line: line,
        )
        self.guest = Guest(name, ours["guest"], folder / f"{name}-guest.jsonl")
        try:
            self.qmp = Qmp(name, ours["qmp"])
        except Exception as error:
            self.kill()
            raise VmError(f"{name}: QEMU did not start: {self.messages() or error}") from error

    def messages(self):
        """What QEMU has written on stderr, without the command line."""
        return (
            self._log_path.read_text(encoding="utf-8", errors="replace").partition("\n")[2].strip()
        )

    def boot(self, timeout=60):
        """Wait until the guest program serves commands."""
        line = self.console.wait(
            lambda line: READY in line or FAILED in line, f"'{READY}'", timeout
        )[1]
        if FAILED in line:
            raise VmError(f"{self.name}: {line}")
        self.guest.wait_ready(timeout)
        return self

    def wait_exit(self, timeout=30):
        """QEMU's exit status once it has ended by itself."""
        return self.process.wait(timeout)

    def quit(self):
        if self.process.poll() is None:
            try:
                self.qmp.cmd("quit", self.quit_timeout)
                self.process.wait(10)
            except Exception:  # pylint: disable=broad-except
                pass           # killed below
        self.kill()

    def kill(self):
        process.kill(self.process)
        if self.qmp:
            self.qmp.close()
        self.guest.close()
        self._console_socket.close()
