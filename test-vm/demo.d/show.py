# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""What the demo prints."""

from report import as_expected

WORDS = {
    ("QEMU source", "VSVA_DRAIN_STARTED"): "drain begins: portal trapped, device told to quiesce",
    ("QEMU source", "VSVA_DRAIN_COMPLETED"): "drain complete: no fault outstanding",
    ("QEMU source", "STOP"): "vCPUs stopped",
    ("QEMU source", "RESUME"): "vCPUs run again",
    ("QEMU destination", "RESUME"): "vCPUs run",
    ("QEMU destination", "VSVA_RELEASED"): "replay done, fast path back",
    ("backend source", "save"): "state written to the stream",
    ("backend destination", "load"): "state loaded",
    ("guest", "hold_released"): "handler may go on",
    ("guest", "verified"): "every DMA checked",
}


def _ids(ids):
    parts = []
    for key, value in ids.items():
        parts.append(f"{key} {value:#x}" if key in ("addr", "address") else f"{key} {value}")
    return ", ".join(parts)


def _line(time, actor, text, number=""):
    print(f"  {number:>2}  {time * 1000:10.3f} ms  {actor:<20} {text}")


def starting(number, total, title):
    print(f"\n[{number}/{total}] {title}", flush=True)


def run(one):
    lines = [
        (step.time, step.actor, f"{step.event} ({_ids(step.ids)})", step.number)
        for step in one.steps
    ]
    for (actor, event), words in WORDS.items() if one.steps else ():
        record = one.first(actor, event)
        if record:
            lines.append(
                (record.time, actor, f"{words} ({_ids(record.ids)})" if record.ids else words, "")
            )
    for time, actor, text, number in sorted(lines, key=lambda line: line[0]):
        _line(time - one.start, actor, text, number)
    print(f"  migration {one.outcome or 'has not ended'}{': ' + one.reason if one.reason else ''}")
    if one.counts:
        print(
            "  "
            + ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in one.counts.items())
        )
    if one.downtime is not None:
        print(f"  downtime {one.downtime * 1000:.2f} ms")
    for problem in one.problems:
        print(f"  NOT AS EXPECTED: {problem}")
    print(f"  {'as expected' if as_expected(one) else 'NOT AS EXPECTED'}", flush=True)


def summary(report, out):
    downtime = report["downtime"]
    print()
    for one in report["runs"]:
        print(f"run {one['name']:<6} migration {one['outcome']:<10} "
              f"{'as expected' if one['as_expected'] else 'NOT AS EXPECTED'}")
    if downtime["ratio"] is not None:
        print(
            f"downtime of run B {downtime['drained_ms']:.2f} ms, "
            f"without the device {downtime['plain_ms']:.2f} ms, "
            f"ratio {downtime['ratio']}"
        )
    print(
        f"report: {out / 'report.json'}\npicture: {out / 'timeline.svg'}\nlogs: {out / 'logs'}",
        flush=True,
    )
