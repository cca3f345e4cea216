# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A virtual machine that stands for a host (L1): KVM, an SMMU that stalls, devices to be passed
through.
"""

import itertools
import json
import re
import socket
import time

from avocado_vsva import process
from avocado_vsva.journal import Journal, LineReader

from . import command_line, environment
from .remote import RemoteProcess

BOOT_TIMEOUT = 60
REQUEST_TIMEOUT = 30
SLOTS = 6
CHANNELS = ("qmp", "console", "guest")
# What a kernel prints when it has found a mistake of its own.
TROUBLE = re.compile(
    r"WARNING:|BUG:|Oops|Internal error:|Unable to handle kernel|Kernel panic|refcount_t:"
)
READY, FAILED = "vsva-l1: ready", "vsva-l1: failed"


class HostError(Exception):
    """The host did not come up, or refused a request."""


class Host:
    """Booted, with the variant driver loaded, when the constructor returns."""

    def __init__(self, host_environment, folder, devices=2, driver_options="", device=""):
        self.folder = folder
        self.console = Journal("L1 console")
        self.trace_path = folder / "l1-trace.log"
        self.replies = Journal("L1")
        self._numbers = itertools.count(1)
        names = ["org.vsva.host", *self._port_names()]
        pairs = {name: socket.socketpair() for name in ("console", *names)}
        command = command_line.host(
            host_environment,
            {name: pair[1].fileno() for name, pair in pairs.items()},
            devices,
            device,
            self.trace_path,
            int(time.time()),
        )
        self.process = process.start(
            command, folder / "l1-qemu.log", [pair[1].fileno() for pair in pairs.values()]
        )
        for _, theirs in pairs.values():
            theirs.close()
        self.ports = {name: pair[0] for name, pair in pairs.items()}
        self._slots = iter(range(SLOTS))
        self._backends = iter(range(SLOTS))
        self.functions = [
            f"0000:00:{command_line.FIRST_DEVICE + number:02x}.0" for number in range(devices)
        ]
        self._free = list(self.functions)
        LineReader(
            self.ports["console"].fileno(),
            folder / "l1-console.log",
            self.console,
            lambda line: line,
        )
        LineReader(
            self.ports["org.vsva.host"].fileno(),
            folder / "l1-requests.jsonl",
            self.replies,
            self._parse,
        )
        try:
            self._boot(driver_options)
        except Exception:
            self.off()
            raise

    @staticmethod
    def _port_names():
        for slot in range(SLOTS):
            yield from (f"vm{slot}.{channel}" for channel in CHANNELS)
            yield f"backend{slot}"

    @staticmethod
    def _parse(line):
        return json.loads(line) if line.strip() else None

    def _boot(self, driver_options):
        line = self.console.wait(
            lambda line: READY in line or FAILED in line, f"'{READY}'", BOOT_TIMEOUT
        )[1]
        if FAILED in line:
            raise HostError(line)
        self.request("module", path=environment.DRIVER, options=driver_options)

    def request(self, operation, timeout=REQUEST_TIMEOUT, **arguments):
        """The answer, which must be a good one."""
        number = next(self._numbers)
        since = len(self.replies)
        line = json.dumps({"id": number, "op": operation, **arguments})
        self.ports["org.vsva.host"].sendall(line.encode() + b"\n")
        answer = self.replies.wait(
            lambda reply: reply.get("id") == number, f"the answer to {line}", timeout, since
        )[1]
        if answer["ok"] is not True:
            raise HostError(f"{line}: {answer.get('error')}")
        return answer

    def start(self, argv, log):
        pid = self.request("start", argv=[str(word) for word in argv], log=log)["pid"]
        return RemoteProcess(self, pid)

    def read(self, path):
        """All of a file's text."""
        text, offset = "", 0
        while True:
            answer = self.request("read", path=path, offset=offset)
            if answer["end"] == offset:
                return text
            text, offset = text + answer["text"], answer["end"]

    def write(self, path, text):
        self.request("write", path=path, text=text)

    def bind(self, function, driver):
        """Give a PCI function to a driver, if another one has it."""
        path = f"/sys/bus/pci/devices/{function}"
        bound = self.request("link", path=f"{path}/driver")["name"]
        if bound == driver:
            return
        if bound:
            self.write(f"{path}/driver/unbind", function)
        self.write(f"{path}/driver_override", driver)
        self.write("/sys/bus/pci/drivers_probe", function)
        now = self.request("link", path=f"{path}/driver")["name"]
        if now != driver:
            raise HostError(f"{function} is bound to '{now}', not to {driver}")

    def inject(self, function, failure, on=True):
        """Let the variant driver fail to stop, save or load the device."""
        self.write(f"/sys/kernel/debug/vfio/{function}/fail_{failure}", "Y" if on else "N")

    def take(self, count):
        """So many functions that no VM has."""
        if len(self._free) < count:
            raise HostError(f"{count} devices are wanted, and {len(self._free)} are free")
        taken, self._free = self._free[:count], self._free[count:]
        return taken

    def give_back(self, functions):
        self._free += [function for function in functions if function not in self._free]

    def new_slot(self):
        """The ports of a VM, which no other one has used."""
        return next(self._slots)

    def new_backend_port(self):
        return f"backend{next(self._backends)}"

    def trouble(self):
        """What the kernel has said of its own mistakes; also that the machine has gone."""
        lines = [line for line in self.console.all() if TROUBLE.search(line)]
        status = self.process.poll()
        return lines + ([] if status is None else [f"its QEMU has ended with status {status}"])

    def off(self):
        process.kill(self.process)
        for port in self.ports.values():
            port.close()
