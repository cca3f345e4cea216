# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""QEMU's trace log (log backend, with -msg timestamp=on): one time stamp and one event a line."""

import re
from dataclasses import dataclass
from datetime import datetime

LINE = re.compile(r"^(\d{4}-\d\d-\d\dT[\d:.]+)(Z|[+-]\d\d:?\d\d) (\w+) ?(.*)$")
FIELD = re.compile(r"\b([A-Za-z_][\w-]*)[=: ]\s*(0x[0-9a-fA-F]+|\d+)\b")


@dataclass(frozen=True)
class TraceEvent:
    time: float
    name: str
    text: str

    def ids(self):
        """Numbers of the line by the word before them."""
        return {
            key: int(value, 16 if value.startswith("0x") else 10)
            for key, value in FIELD.findall(self.text)
        }


def read_trace(path):
    """All trace events of a log file; other lines of the log are left out."""
    events = []
    with open(path, encoding="utf-8", errors="replace") as log:
        for line in log:
            match = LINE.match(line.rstrip("\n"))
            if match:
                stamp = datetime.fromisoformat(match[1] + match[2].replace("Z", "+00:00"))
                events.append(TraceEvent(stamp.timestamp(), match[3], match[4]))
    return events
