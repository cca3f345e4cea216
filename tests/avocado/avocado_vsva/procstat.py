# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""CPU time of one thread of a process, by its name."""

import time
from pathlib import Path

MIGRATION_THREAD = "mig/src/main"


class ThreadCpu:
    """The share of one CPU that a thread has used since this was made."""

    def __init__(self, pid, thread_name):
        self._task = self._find(pid, thread_name)
        self._start_wall = time.monotonic()
        self._start_cpu = self._cpu_seconds()

    @staticmethod
    def _find(pid, thread_name):
        names = []
        for task in Path(f"/proc/{pid}/task").iterdir():
            name = (task / "comm").read_text(encoding="ascii").strip()
            if name == thread_name:
                return task
            names.append(name)
        raise LookupError(
            f"process {pid} has no thread named {thread_name}, only {', '.join(sorted(names))}"
        )

    def _cpu_seconds(self):
        return int((self._task / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9

    def share(self):
        return (self._cpu_seconds() - self._start_cpu) / (time.monotonic() - self._start_wall)
