# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""
timeline.svg, by `vhost-user-vsva report`: from the back-ends' event logs, and what QEMU, the
device and the guest have said beside them, which the logs do not have (docs/report.md, "What
others know").
"""

import json
import subprocess

SIDES = ("source", "destination")
# Steps that no back-end sees.
STEPS = {
    1: "DMA faults: fault record",
    3: "event queue",
    4: "page fault handler, held",
    5: "CMD_RESUME",
    7: "page response",
    8: "access again, DMA goes on",
}
# actor and event, from, towards, kind, words
MOMENTS = (
    ("guest", "hold_released", "guest", "guest", "fault", "page fault handler goes on"),
    ("QEMU source", "STOP", "vSMMU", "vSMMU", "stop", "vCPUs stopped"),
    ("QEMU destination", "RESUME", "QEMU destination", "QEMU destination", "stop", "vCPUs run"),
    ("guest", "verified", "QEMU destination", "QEMU destination", "replay", "every DMA checked"),
)


def _line(time, event, **members):
    return {"t_us": round(time * 1e6), "actor": "demo", "event": event, **members}


def notes(run):
    """What the event logs of a run do not have."""
    lines = [_line(run.start, "section", title=f"Run {run.name}", note=f"migration {run.outcome}")]
    for step in run.steps:
        if step.number in STEPS:
            lines.append(
                _line(
                    step.time,
                    "mark",
                    **{"from": step.actor, "to": step.towards},
                    text=STEPS[step.number],
                    kind="fault",
                    step=step.number,
                )
            )
    for actor, event, source, towards, kind, words in MOMENTS:
        if record := run.first(actor, event):
            lines.append(
                _line(record.time, "mark", **{"from": source, "to": towards}, text=words, kind=kind)
            )
    stop = run.first("QEMU source", "STOP")
    resume = run.first("QEMU destination", "RESUME") or run.first("QEMU source", "RESUME")
    if stop and resume:
        lines.append(
            _line(
                stop.time,
                "span",
                text="vCPUs stopped",
                kind="stop",
                until_us=round(resume.time * 1e6),
            )
        )
    return lines


def write_events(path, logs, runs, side):
    """The event logs of one side in all runs, as one."""
    lines = []
    for run in runs:
        name = f"run-{run.name.lower()}"
        with open(logs / name / f"{name}-{side}-backend-events.jsonl", encoding="utf-8") as log:
            lines += map(json.loads, log)
        if side == "source":
            lines += notes(run)
    lines.sort(key=lambda line: line["t_us"])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_timeline(path, program, logs, runs):
    """Draw runs A and B."""
    runs = [run for run in runs if run.name in ("A", "B")]
    events = [logs / f"{side}.jsonl" for side in SIDES]
    for side, log in zip(SIDES, events):
        write_events(log, logs, runs, side)
    return subprocess.run(
        [program, "report", "--output", path, *events],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
