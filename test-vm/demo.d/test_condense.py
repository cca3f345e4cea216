# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Tests of what the report's timeline is made of: python3 -m unittest discover test-vm/demo.d"""

import copy
import unittest

from condense import RARE, condense


def entry(time, event, number=0):
    return {"time": time, "actor": "backend", "event": event, "ids": {"number": number}}


def total(timeline, event):
    """How often it happened."""
    return sum(one.get("count", 1) for one in timeline if one["event"] == event)


def often(event, first, count):
    return [entry(first + index, event, index) for index in range(count)]


class Condense(unittest.TestCase):

    def test_condense_rare_events_leaves_them_as_they_are(self):
        timeline = often("attach", 0, RARE)
        self.assertEqual(condense(timeline), timeline)

    def test_condense_frequent_events_keeps_count_first_and_last(self):
        merged, = condense(often("replay", 10, RARE + 1))
        self.assertEqual(merged, {**entry(10, "replay"), "count": RARE + 1, "until": 10 + RARE,
                                  "last_ids": {"number": RARE}})

    def test_condense_interleaved_kinds_are_counted_apart(self):
        timeline = [entry(time, "read" if time % 3 else "answer") for time in range(6 * RARE)]
        condensed = condense(timeline)
        self.assertEqual(len(condensed), 2)
        for event in ("read", "answer"):
            self.assertEqual(total(condensed, event), total(timeline, event))

    def test_condense_never_merges_across_a_rare_event(self):
        stop = entry(50.5, "STOP")
        timeline = sorted([*often("replay", 0, 100), stop], key=lambda one: one["time"])
        before, between, after = condense(timeline)
        self.assertEqual((before["count"], before["until"]), (51, 50))
        self.assertEqual(between, stop)
        self.assertEqual((after["time"], after["count"], after["until"]), (51, 49, 99))

    def test_condense_leaves_its_argument_unchanged(self):
        timeline = often("replay", 0, 2 * RARE)
        before = copy.deepcopy(timeline)
        condense(timeline)
        self.assertEqual(timeline, before)


if __name__ == "__main__":
    unittest.main()
