# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The rows of the picture's sequence part: the eight steps and what the migration did between them."""

from dataclasses import dataclass

from condense import select, total


@dataclass(frozen=True)
class Row:
    time: float
    actor: str
    towards: str
    text: str
    kind: str
    number: int = 0


MOMENTS = (
    # actor and event in the timeline, from, towards, kind, words
    ("QEMU source", "VSVA_DRAIN_STARTED", "vSMMU", "backend", "drain", "drain begins, portal trapped"),
    ("guest", "hold_released", "guest", "guest", "fault", "page fault handler goes on"),
    ("QEMU source", "VSVA_DRAIN_COMPLETED", "backend", "vSMMU", "drain", "drained"),
    ("QEMU source", "STOP", "vSMMU", "vSMMU", "stop", "vCPUs stopped"),
    ("backend destination", "load", "backend", "backend destination", "stop", "state stream"),
    ("QEMU destination", "RESUME", "QEMU destination", "QEMU destination", "stop", "vCPUs run"),
    ("QEMU destination", "VSVA_RELEASED", "backend destination", "QEMU destination", "replay", "fast path is back"),
    ("guest", "verified", "QEMU destination", "QEMU destination", "replay", "every DMA checked"),
)
SHORT = {
    1: "DMA faults: fault record",
    2: "event record",
    3: "event queue",
    4: "page fault handler, held",
    5: "CMD_RESUME",
    6: "CMD_RESUME",
    7: "page response",
    8: "access again, DMA goes on",
}


def sequence_rows(run):
    rows = [Row(step["time"], step["actor"], step["towards"], SHORT[step["step"]], "fault", step["step"])
            for step in run["steps"]]
    for actor, event, source, towards, kind, words in MOMENTS:
        entries = select(run["timeline"], actor, event)
        if entries:
            rows.append(Row(entries[0]["time"], source, towards, words, kind))
    queued = select(run["timeline"], "backend source", "submission_queued")
    if queued:
        text = f"{total(queued)} submissions trapped and queued"
        rows.append(Row(queued[0]["time"], "guest", "backend", text, "queue"))
    replayed = select(run["timeline"], "backend destination", "replay")
    if replayed:
        rows.append(Row(replayed[0]["time"], "backend destination", "QEMU destination",
                        f"{total(replayed)} replayed in order", "replay"))
    return sorted(rows, key=lambda row: row.time)
