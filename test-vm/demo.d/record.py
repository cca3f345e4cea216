# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""What happened in one run, gathered from QMP, the backends' event logs, QEMU's trace and the
guest's answers.
"""

import time
from dataclasses import dataclass, field

from avocado_vsva.trace import read_trace


@dataclass(frozen=True)
class Record:
    time: float
    actor: str
    event: str
    ids: dict = field(default_factory=dict)


@dataclass
class Run:
    """time: seconds since 1970 by the host's clock, which all processes share."""
    name: str
    title: str
    expected: str
    start: float = field(default_factory=time.time)
    outcome: str = ""
    reason: str = ""
    records: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    counts: dict = field(default_factory=dict)
    problems: list = field(default_factory=list)
    downtime: float | None = None
    qemu_downtime_ms: int | None = None

    def note(self, actor, event, **ids):
        self.records.append(Record(time.time(), actor, event, ids))

    def require(self, condition, problem):
        """Collects what is not as it must be; a run with a problem is not as expected."""
        if not condition:
            self.problems.append(problem)

    def gather(self, side, vm, backend=None):
        """Take over all that a VM and its backend have said; side is "source" or "destination"."""
        for event in vm.qmp.events.all():
            self.records.append(Record(event.time, f"QEMU {side}", event.name, event.data))
        for record in backend.events.all() if backend else ():
            ids = {
                key: value for key, value in record.items() if key not in ("time", "event", "actor")
            }
            self.records.append(Record(record["time"], f"backend {side}", record["event"], ids))
        for event in read_trace(vm.trace_path):
            self.records.append(Record(event.time, f"trace {side}", event.name, event.ids()))
        self.records.sort(key=lambda record: record.time)

    def find(self, actor, event, **ids):
        return [record for record in self.records if record.actor == actor and record.event == event
                and all(record.ids.get(key) == value for key, value in ids.items())]

    def first(self, actor, event, after=0.0, **ids):
        return next(
            (record for record in self.find(actor, event, **ids) if record.time >= after), None
        )
