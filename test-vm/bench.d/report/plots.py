# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Two pictures: each ratio beside its target, and how much the rounds of each differ."""

import math

from svg import Svg

WIDTH, LEFT, RIGHT, ROW, TOP = 1000, 440, 70, 24, 70
MET, MISSED, PLAIN = "#1e8449", "#c0392b", "#7f8c8d"


def _limit(entry):
    """The number in a target, if it is one of the ratio."""
    words = (entry["target"] or "").split()
    if len(words) >= 3 and words[0] == "ratio":
        return float(words[2])
    return None


def _colour(entry):
    return {True: MET, False: MISSED, None: PLAIN}[entry["met"]]


class _Axis:
    """A logarithmic axis over all of some values."""

    def __init__(self, svg, values, bottom):
        low, high = min(values), max(values)
        self._low = math.log10(low) - 0.05
        self._scale = (WIDTH - LEFT - RIGHT) / (math.log10(high) + 0.05 - self._low)
        for exponent in range(math.floor(self._low), math.ceil(math.log10(high)) + 1):
            for digit in (1, 2, 5):
                value = digit * 10.0**exponent
                if low <= value <= high:
                    x = self.at(value)
                    svg.line(x, TOP - 8, x, bottom, "#dddddd")
                    svg.text(x, TOP - 14, f"{value:g}", size=10, anchor="middle", fill="#555555")

    def at(self, value):
        """Where a value is."""
        return LEFT + (math.log10(value) - self._low) * self._scale


def _begin(title, text, entries, values):
    bottom = TOP + ROW * len(entries)
    svg = Svg(WIDTH, bottom + 20)
    svg.text(16, 26, title, size=17, weight="bold")
    svg.text(16, 44, text, size=12)
    axis = _Axis(svg, values, bottom)
    for index, entry in enumerate(entries):
        svg.text(LEFT - 10, TOP + index * ROW + 15, entry["name"], size=12, anchor="end")
    return svg, axis


def write_ratios(path, results):
    """Bars from 1 to each ratio."""
    entries = [entry for entry in results if entry["ratio"]]
    if not entries:
        return
    values = [1.0, *(entry["ratio"] for entry in entries), *filter(None, map(_limit, entries))]
    svg, axis = _begin(
        "Ratios to the floor or peer of the same run",
        "Green: the target (black mark) is met. Red: it is missed. Grey: there is none.",
        entries,
        values,
    )
    for index, entry in enumerate(entries):
        y = TOP + index * ROW
        first, last = sorted((axis.at(1.0), axis.at(entry["ratio"])))
        svg.box(first, y + 4, max(2.0, last - first), 14, _colour(entry))
        svg.text(last + 6, y + 15, f"{entry['ratio']:.2f}", size=11, halo=True)
        limit = _limit(entry)
        if limit:
            svg.line(axis.at(limit), y + 1, axis.at(limit), y + 21, "#17202a", width=2.5)
    path.write_text(svg.finish(), encoding="utf-8")


def write_rounds(path, results):
    """A dot for each round."""
    entries = [entry for entry in results if entry["ratio"] and len(entry["runs"]) > 1]
    if not entries:
        return
    values = [value for entry in entries for value in entry["runs"] if value > 0]
    svg, axis = _begin(
        "The same ratio, round by round",
        "A dot is a round of each of the two, by turns.",
        entries,
        values,
    )
    for index, entry in enumerate(entries):
        for value in entry["runs"]:
            svg.disc(axis.at(value), TOP + index * ROW + 11, 3, _colour(entry))
    path.write_text(svg.finish(), encoding="utf-8")
