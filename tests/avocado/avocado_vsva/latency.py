# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The longest time for which a VM does not answer: on QMP, and to its guest's accesses to a
device.
"""

import threading
import time

from .journal import WaitError
from .qmp import ExecuteError

PAUSE = 0.01


class Latency:
    """Asks all the time, in threads of its own, until it is closed."""

    def __init__(self, vm, guest=True):
        self._vm = vm
        self._end = threading.Event()
        self.longest = {}
        self._threads = [self._start("qmp", self._query)]
        if guest:
            self._threads.append(self._start("guest", self._read_device))

    def _start(self, name, ask):
        self.longest[name] = 0.0
        thread = threading.Thread(
            target=self._run, args=(name, ask), name=f"latency {name}", daemon=True
        )
        thread.start()
        return thread

    def _query(self):
        self._vm.qmp.cmd("query-vsva")

    def _read_device(self):
        """Its registers, by MMIO; the command itself comes and goes by the main loop."""
        self._vm.guest.cmd("status 0")

    def _run(self, name, ask):
        while not self._end.is_set():
            begin = time.monotonic()
            try:
                ask()
            except (ExecuteError, WaitError):
                if not self._end.is_set():
                    self.longest[name] = float("inf")
                return
            except Exception:  # pylint: disable=broad-except
                return         # QEMU has gone: whoever waits for that notices
            self.longest[name] = max(self.longest[name], time.monotonic() - begin)
            self._end.wait(PAUSE)

    def close(self):
        self._end.set()
        for thread in self._threads:
            thread.join()
        return self.longest
