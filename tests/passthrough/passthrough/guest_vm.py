# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A guest (L2) of the host (L1), with devices passed through to it."""

import select

from avocado_vsva.command_line import STALLS_ON
from avocado_vsva.guest import Guest
from avocado_vsva.journal import Journal, LineReader
from avocado_vsva.qmp import Qmp
from avocado_vsva.vm import Vm, VmError

from . import command_line, environment

GREETING_TIMEOUT = 180
START_TIMEOUT = 30
BOOT_TIMEOUT = 60
# Its dirty tracking by the IOMMU is not what is tested.
MIGRATABLE = {"enable-migration": "on", "x-pre-copy-dirty-page-tracking": "off"}


class GuestVm(Vm):
    """
    As Vm, in the host. Without a backend it has no IOMMU, and the guest's DMA goes to
    physical addresses; with one the guest is that of all other tests.
    """

    # One that has just ended by itself does not answer, and its port stays open.
    quit_timeout = 3

    def __init__(
        self,
        host,
        name,
        folder,
        *,
        backend=None,
        test_devices=1,
        smmu=None,
        vsva=None,
        incoming=False,
        memory_mib=256,
        driver="vsva_vfio_pci",
        device=None,
    ):  # pylint: disable=super-init-not-called
        self.name = name
        self.trace_path = folder / f"{name}-trace.log"
        self.console = Journal(f"{name} console")
        self.qmp = None
        self._log_path = folder / f"{name}-qemu.log"
        self._host = host
        self.functions = host.take(test_devices)
        for function in self.functions:
            host.bind(function, driver)
        slot = host.new_slot()
        ports = {
            channel: host.ports[f"vm{slot}.{channel}"] for channel in ("qmp", "console", "guest")
        }
        self._console_socket = ports["console"]
        LineReader(
            ports["console"].fileno(),
            folder / f"{name}-console.log",
            self.console,
            lambda line: line,
        )
        self.guest = Guest(name, ports["guest"], folder / f"{name}-guest.jsonl")
        if smmu is None and backend is not None:
            smmu = STALLS_ON
        command = command_line.guest(
            name, slot, environment.GUEST if backend else environment.PLAIN, smmu, memory_mib
        )
        properties = {**(MIGRATABLE if driver == "vsva_vfio_pci" else {}), **(device or {})}
        command += command_line.passed_through(self.functions, properties, backend, vsva)
        if incoming:
            command += ["-incoming", "defer"]
        self._kept = False
        self.process = host.start(command, f"/run/{name}-qemu.log")
        try:
            self._wait_greeting(ports["qmp"])
            self.qmp = Qmp(name, ports["qmp"], START_TIMEOUT)
        except Exception as error:
            self.kill()
            raise VmError(f"{name}: QEMU did not start: {self.messages() or error}") from error

    def _wait_greeting(self, port):
        """It may also end before. The greeting comes before the devices are there, so the first
        answer takes longer.
        """
        for _ in range(GREETING_TIMEOUT):
            if select.select([port], [], [], 1)[0]:
                return
            if self.process.poll() is not None:
                raise VmError(f"it has ended with status {self.process.returncode}")
        raise VmError(f"no greeting within {GREETING_TIMEOUT} s")

    def messages(self):
        if not self._kept:
            return self._host.read(f"/run/{self.name}-qemu.log").strip()
        return self._log_path.read_text(encoding="utf-8").strip()

    def boot(self, timeout=BOOT_TIMEOUT):
        return super().boot(timeout)

    def kill(self):
        super().kill()
        self._keep_logs()
        self._host.give_back(self.functions)

    def _keep_logs(self):
        if self._kept or self._host.process.poll() is not None:
            return
        self._kept = True
        for path, name in (
            (self._log_path, f"{self.name}-qemu.log"),
            (self.trace_path, f"{self.name}-trace.log"),
        ):
            path.write_text(self._host.read(f"/run/{name}"), encoding="utf-8")
