# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Tests of what the picture is told."""

import json
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/avocado"))

from picture import notes, write_events
from record import Record, Run
from steps import Step


def run():
    one = Run("B", "with drain", "completed", start=10.0, outcome="completed")
    one.steps = [
        Step(1, 11.0, "device", "backend", "stall", {}),
        Step(2, 11.1, "backend", "vSMMU", "read", {}),
    ]
    one.records = [Record(12.0, "QEMU source", "STOP"), Record(12.5, "QEMU destination", "RESUME")]
    return one


class Notes(unittest.TestCase):

    def test_notes_have_the_steps_that_no_back_end_sees_and_the_stop(self):
        lines = notes(run())
        self.assertEqual(lines[0]["title"], "Run B")
        self.assertEqual([line["step"] for line in lines if "step" in line], [1])
        span, = [line for line in lines if line["event"] == "span"]
        self.assertEqual((span["t_us"], span["until_us"]), (12_000_000, 12_500_000))

    def test_events_of_a_side_are_in_order_of_time_with_the_notes_of_the_source(self):
        with tempfile.TemporaryDirectory() as folder:
            logs = Path(folder)
            (logs / "run-b").mkdir()
            for side in ("source", "destination"):
                (logs / f"run-b/run-b-{side}-backend-events.jsonl").write_text(
                    '{"t_us": 11500000, "actor": "backend", "event": "listening"}\n',
                    encoding="utf-8",
                )
                write_events(logs / f"{side}.jsonl", logs, [run()], side)
            source, destination = (
                list(
                    map(
                        json.loads,
                        (logs / f"{side}.jsonl").read_text(encoding="utf-8").splitlines(),
                    )
                )
                for side in ("source", "destination")
            )
        self.assertEqual(
            [line["event"] for line in source],
            ["section", "mark", "listening", "mark", "span", "mark"],
        )
        self.assertEqual([line["event"] for line in destination], ["listening"])


if __name__ == "__main__":
    unittest.main()
