# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""
report.json, everything that the demo has seen. Its members:

version     2 outcome     "as expected" or "not as expected"; the demo's exit status is 0 only
for the first downtime    drained_ms (run B), plain_ms (the VM without the device, median of
three), ratio: from the source's STOP event to the destination's RESUME event runs        one
object per run: name, title     "A", "B" or "plain" start           seconds since 1970; all
times below are seconds since then outcome         what became of the migration: "completed",
"failed" or "cancelled" expected        the outcome that shows that the run went as it should
as_expected     true if so, and problems is empty reason          QEMU's error text of a
failed migration problems        texts: what was not as it must be counts          dmas
(checked by the guest), faults, answers, submissions_queued, replays downtime_ms     STOP at
the source to RESUME at the destination, or null qemu_downtime_ms  the value of query-migrate,
or null steps           the eight steps of one fault: {step, time, actor, towards, event, ids}
timeline        {time, actor, event, ids} of all QMP events (actor "QEMU source", "QEMU
destination", for the plain run "QEMU destination 1" and so on), of the backends' event logs
("backend source", "backend destination") and of what the guest was told to do or answered
("guest"), in order of time. Events of a kind that happened more than 32 times are merged
between two others: such an entry has also count (how many), until (time of the last) and
last_ids (ids of the last), while time and ids are those of the first
"""

import json

from condense import condense

TIMELINE_ACTORS = ("QEMU", "backend", "guest")


def _milliseconds(seconds):
    return None if seconds is None else round(seconds * 1000, 3)


def _run(run):
    return {
        "name": run.name,
        "title": run.title,
        "start": run.start,
        "outcome": run.outcome,
        "expected": run.expected,
        "as_expected": as_expected(run),
        "reason": run.reason,
        "problems": run.problems,
        "counts": run.counts,
        "downtime_ms": _milliseconds(run.downtime),
        "qemu_downtime_ms": run.qemu_downtime_ms,
        "steps": [
            {
                "step": step.number,
                "time": round(step.time - run.start, 6),
                "actor": step.actor,
                "towards": step.towards,
                "event": step.event,
                "ids": step.ids,
            }
            for step in run.steps
        ],
        "timeline": condense(
            [
                {
                    "time": round(record.time - run.start, 6),
                    "actor": record.actor,
                    "event": record.event,
                    "ids": record.ids,
                }
                for record in sorted(run.records, key=lambda record: record.time)
                if record.actor.split()[0] in TIMELINE_ACTORS
            ]
        ),
    }


def as_expected(run):
    return run.outcome == run.expected and not run.problems


def write_report(path, runs):
    """Write report.json; the report."""
    downtime = {run.name: run.downtime for run in runs}
    drained, plain = downtime.get("B"), downtime.get("plain")
    report = {
        "version": 2,
        "outcome": "as expected" if all(map(as_expected, runs)) else "not as expected",
        "downtime": {
            "drained_ms": _milliseconds(drained),
            "plain_ms": _milliseconds(plain),
            "ratio": round(drained / plain, 2) if drained and plain else None,
        },
        "runs": [_run(run) for run in runs],
    }
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report
