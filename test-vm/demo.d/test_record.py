# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Tests of what is read from QEMU's trace."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/avocado"))

from avocado_vsva.trace import TraceEvent


def ids(text):
    return TraceEvent(0.0, "event", text).ids()


class Ids(unittest.TestCase):

    def test_ids_are_the_numbers_after_a_word(self):
        self.assertEqual(ids("vsva0 device 0 sid 0x80 pending=010"),
                         {"device": 0, "sid": 0x80, "pending": 10})

    def test_ids_leave_out_what_comes_after_no_word(self):
        self.assertEqual(ids("type=non-iterable idstr=0000:00:01.0/gpex instance_id=0"),
                         {"idstr": 0, "instance_id": 0})
