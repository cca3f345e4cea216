# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""One QEMU with a guest: command line, QMP, guest program, console and trace."""

import socket
import subprocess

from .guest import Guest
from .journal import Journal, LineReader
from .qmp import Qmp

TRACE_PATTERNS = ("vsva_*", "smmuv3_stall_*", "smmuv3_deliver_event*", "smmuv3_fault_handler*", "smmuv3_cmdq_sync_wait")
READY, FAILED = "vsva-guest: ready", "vsva-guest: failed"


class VmError(Exception):
    """QEMU has ended too early."""


class Vm:
    """
    backend: the vhost-user-vsva process that this VM's device is connected to; None: no such device.
    test_devices: number of vsva-testdev functions; without a backend they use the SMMU's own stall model.
    smmu: properties of the emulated SMMUv3; vsva: properties of the vhost-user-vsva device.
    """

    def __init__(self, environment, name, folder, *, backend=None, test_devices=1, smmu=None, vsva=None,
                 incoming=False, memory_mib=256, extra=()):
        self.name = name
        self.console = Journal(f"{name} console")
        self.trace_path = folder / f"{name}-trace.log"
        self.stderr_path = folder / f"{name}-qemu.log"
        self.test_devices = [f"td{n}" for n in range(test_devices)]
        self._inherited = []
        ours = {channel: self._socket() for channel in ("qmp", "console", "guest")}
        smmu = {"stall": "on", "ssidsize": 8} if smmu is None else smmu
        command = [str(environment.qemu), "-name", f"{name},debug-threads=on", "-msg", "timestamp=on",
                   "-M", "virt,iommu=smmuv3,gic-version=3", "-cpu", "cortex-a57", "-accel", "tcg",
                   "-smp", "2", "-m", str(memory_mib), "-nodefaults", "-no-user-config", "-display", "none",
                   "-kernel", str(environment.kernel), "-initrd", str(environment.initrd),
                   "-append", "console=ttyAMA0 panic=-1 loglevel=4",
                   "-D", str(self.trace_path),
                   *self._chardev("qmp", ours), "-mon", "chardev=qmp,mode=control",
                   *self._chardev("console", ours), "-serial", "chardev:console",
                   *self._chardev("guest", ours), "-device", "virtio-serial-pci,addr=0x1",
                   "-device", "virtserialport,chardev=guest,name=org.vsva.ctl"]
        for pattern in TRACE_PATTERNS:
            command += ["-trace", pattern]
        for key, value in smmu.items():
            command += ["-global", f"arm-smmuv3.{key}={value}"]
        if backend is not None:
            properties = "".join(f",{key}={value}" for key, value in (vsva or {}).items())
            command += ["-chardev", f"socket,id=vsva,path={backend.socket_path}",
                        "-device", f"vhost-user-vsva,id=vsva0,chardev=vsva{properties}"]
        link = ",vsva=vsva0" if backend is not None else ""
        for number, device in enumerate(self.test_devices):
            command += ["-device", f"vsva-testdev,id={device},bus=pcie.0,addr={0x10 + number:#x}{link}"]
        if incoming:
            command += ["-incoming", "defer"]
        command += extra
        with open(self.stderr_path, "wb") as log:
            log.write((" ".join(command) + "\n").encode())
            log.flush()
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            pass_fds=[sock.fileno() for sock in self._inherited])
        for sock in self._inherited:
            sock.close()
        self._console_socket = ours["console"]
        LineReader(ours["console"].fileno(), folder / f"{name}-console.log", self.console, lambda line: line)
        self.guest = Guest(name, ours["guest"], folder / f"{name}-guest.jsonl")
        try:
            self.qmp = Qmp(name, ours["qmp"])
        except Exception as error:
            self.kill()
            raise VmError(f"{name}: QEMU did not start: {self.messages() or error}") from error

    def _socket(self):
        ours, theirs = socket.socketpair()
        self._inherited.append(theirs)
        return ours

    def _chardev(self, name, ours):
        return ["-chardev", f"socket,id={name},fd={self._inherited[list(ours).index(name)].fileno()}"]

    def messages(self):
        """What QEMU has written on stderr, without the command line."""
        return self.stderr_path.read_text(encoding="utf-8", errors="replace").partition("\n")[2].strip()

    def boot(self, timeout=60):
        """Wait until the guest program serves commands."""
        line = self.console.wait(lambda line: READY in line or FAILED in line, f"'{READY}'", timeout)[1]
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
                self.qmp.cmd("quit")
                self.process.wait(10)
            except Exception:  # pylint: disable=broad-except
                self.process.kill()
        self.kill()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        if hasattr(self, "qmp"):
            self.qmp.close()
        self.guest.close()
        self._console_socket.close()
