# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""timeline.svg: runs A and B to scale, then run B as a sequence of who told whom what. Drawn from the report alone."""

from condense import select
from sequence import sequence_rows
from svg import Svg

WIDTH = 1240
LEFT, RIGHT = 150, 40
STRIP_TOP, STRIP_HEIGHT = 92, 150
ROW_HEIGHT = 34
LANES = {"guest": 215, "device": 395, "vSMMU": 575, "backend": 755, "backend destination": 935,
         "QEMU destination": 1115}
LANE_TITLES = {"guest": "guest", "device": "device", "vSMMU": "QEMU, vSMMU", "backend": "backend",
               "backend destination": "backend", "QEMU destination": "QEMU, device"}
SUBMISSIONS = (("backend source", "submission_queued", "#b9770e"), ("backend destination", "replay", "#1e8449"))
FAULT, DRAIN, STOP, QUEUE, REPLAY = "#c0392b", "#2471a3", "#212f3c", "#b9770e", "#1e8449"


def _run(report, name):
    return next(run for run in report["runs"] if run["name"] == name)


def _times(run, actor, event):
    return [entry["time"] for entry in select(run["timeline"], actor, event)]


def _first(times, default=None):
    return times[0] if times else default


def _spans(run):
    """(row, text, colour, begin, end) of what lasted."""
    steps = {step["step"]: step["time"] for step in run["steps"]}
    drain = _first(_times(run, "QEMU source", "VSVA_DRAIN_STARTED"))
    drained = _first(_times(run, "QEMU source", "VSVA_DRAIN_COMPLETED"))
    stop = _first(_times(run, "QEMU source", "STOP"))
    resume = _first(_times(run, "QEMU destination", "RESUME"), _first(_times(run, "QEMU source", "RESUME")))
    released = _first(_times(run, "QEMU destination", "VSVA_RELEASED"))
    spans = []
    if 1 in steps and 8 in steps:
        spans.append((0, "fault outstanding", FAULT, steps[1], steps[8]))
    if drain is not None and drained is not None:
        spans.append((1, "drain", DRAIN, drain, drained))
    if stop is not None and resume is not None:
        spans.append((2, "vCPUs stopped", STOP, stop, resume))
    if resume is not None and released is not None:
        spans.append((3, "replay", REPLAY, resume, released))
    return spans


def _strip(svg, run, top, begin, end):
    """One run on a linear axis: four rows of bars, and a row for when submissions were queued and replayed."""
    scale = (WIDTH - LEFT - RIGHT) / (end - begin)

    def at(time):
        return LEFT + (time - begin) * scale

    svg.text(20, top + 18, f"Run {run['name']}", size=16, weight="bold")
    svg.text(20, top + 36, f"migration {run['outcome']}", size=12)
    for row, text, colour, first, last in _spans(run):
        y = top + 6 + row * 26
        x, width = at(max(first, begin)), max(2.0, at(min(last, end)) - at(max(first, begin)))
        svg.box(x, y, width, 18, colour)
        label = f"{text}, {(last - first) * 1000:.1f} ms"
        if len(label) * 7 + 12 < width:
            svg.text(x + 6, y + 13, label, size=12, fill="#ffffff")
        elif x + width + 8 + len(label) * 7 < WIDTH - RIGHT:
            svg.text(x + width + 6, y + 14, label, size=12, fill=colour)
        else:
            svg.text(x - 6, y + 14, label, size=12, fill=colour, anchor="end")
    for actor, event, colour in SUBMISSIONS:
        for entry in select(run["timeline"], actor, event):
            first, last = max(entry["time"], begin), min(entry.get("until", entry["time"]), end)
            if first <= last:
                svg.box(at(first), top + 112, max(1.0, at(last) - at(first)), 12, colour)
    svg.text(LEFT - 8, top + 122, "submissions", size=11, anchor="end")
    svg.line(LEFT, top + 128, WIDTH - RIGHT, top + 128, "#888888")
    for tick in _ticks(end - begin):
        svg.line(LEFT + tick * scale, top + 125, LEFT + tick * scale, top + 131, "#888888")
        svg.text(LEFT + tick * scale, top + 144, f"{tick * 1000:g} ms", size=10, anchor="middle", fill="#555555")


def _ticks(length):
    step = next((step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if length / step <= 14), 60)
    return [round(index * step, 3) for index in range(int(length / step) + 1)]


def _bounds(run):
    spans = _spans(run)
    begin = min((first for _, _, _, first, _ in spans), default=0.0)
    end = max((last for _, _, _, _, last in spans), default=1.0)
    margin = max(0.01, (end - begin) * 0.04)
    return begin - margin, end + margin


def _sequence(svg, run, top):
    rows = sequence_rows(run)
    bottom = top + 74 + len(rows) * ROW_HEIGHT
    svg.text(20, top, "Run B, step by step (time flows down, not to scale)", size=16, weight="bold")
    svg.text((LANES["guest"] + LANES["backend"]) / 2, top + 26, "source", size=13, anchor="middle", fill="#555555")
    svg.text((LANES["backend destination"] + LANES["QEMU destination"]) / 2, top + 26, "destination", size=13,
             anchor="middle", fill="#555555")
    for lane, x in LANES.items():
        svg.box(x - 62, top + 34, 124, 24, "#eaf0f6", stroke="#7f8c8d")
        svg.text(x, top + 51, LANE_TITLES[lane], size=13, anchor="middle", weight="bold")
        svg.line(x, top + 58, x, bottom, "#bbbbbb")
    for index, row in enumerate(rows):
        y = top + 92 + index * ROW_HEIGHT
        colour = {"fault": FAULT, "drain": DRAIN, "stop": STOP, "queue": QUEUE, "replay": REPLAY}[row.kind]
        svg.text(128, y + 4, f"{row.time * 1000:.3f} ms", size=11, anchor="end", fill="#555555")
        if row.number:
            svg.disc(28, y, 11, colour)
            svg.text(28, y + 4, str(row.number), size=12, anchor="middle", weight="bold", fill="#ffffff")
        first, last = LANES[row.actor], LANES[row.towards]
        if first == last:
            svg.disc(first, y, 4, colour)
            room = WIDTH - first > len(row.text) * 7 + 20
            svg.text(first + (9 if room else -9), y + 4, row.text, size=12, fill=colour,
                     anchor="start" if room else "end", halo=True)
        else:
            svg.arrow(first, y, last, colour)
            svg.text((first + last) / 2, y - 5, row.text, size=12, fill=colour, anchor="middle", halo=True)
    return bottom


def write_timeline(path, report):
    run_a, run_b = _run(report, "A"), _run(report, "B")
    rows = len(sequence_rows(run_b))
    top = STRIP_TOP + 2 * (STRIP_HEIGHT + 16)
    svg = Svg(WIDTH, top + 130 + rows * ROW_HEIGHT)
    svg.text(20, 34, "A DMA fault's round trip, and a live migration in the middle of it", size=20, weight="bold")
    svg.text(20, 58, "Red: the fault. Blue: the drain. Black: vCPUs stopped. Ochre: submissions trapped and queued. "
             "Green: the replay at the destination.", size=12)
    for index, run in enumerate((run_a, run_b)):
        _strip(svg, run, STRIP_TOP + index * (STRIP_HEIGHT + 16), *_bounds(run))
    _sequence(svg, run_b, top + 24)
    path.write_text(svg.finish(), encoding="utf-8")
