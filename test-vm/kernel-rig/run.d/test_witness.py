# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import tempfile
import unittest

from witness import read

HOLD = "smmuv3_stall_hold sid=0x8 stag=0x1b0 addr=0x1000"
CANCEL = "smmuv3_stall_cancel sid=0x8"


def resume(retry, known):
    return f"smmuv3_stall_resume sid=0x8 stag=0x1b0 retry={retry} known={known}"


class Witness(unittest.TestCase):
    def complaints(self, *lines, retried=0, aborted=0):
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as log:
            log.write("\n".join(lines) + "\n")
            log.flush()
            return read(log.name)[0].complaints({"retried": retried, "aborted": aborted})

    def test_stall_resumed_once_is_as_it_must_be(self):
        self.assertEqual(self.complaints(HOLD, resume(1, 1), retried=1), [])

    def test_stall_never_resumed_is_told(self):
        self.assertIn("1 stalls were never ended: SID 0x8 STAG 0x1b0", self.complaints(HOLD))

    def test_stall_resumed_twice_is_told(self):
        said = self.complaints(HOLD, resume(1, 1), resume(1, 0), retried=1)
        self.assertEqual(said, ["1 CMD_RESUMEs were for no outstanding stall"])

    def test_stall_cancelled_by_a_reset_is_resumed_once_all_the_same(self):
        self.assertEqual(self.complaints(HOLD, CANCEL, resume(0, 0), aborted=1), [])

    def test_stall_cancelled_by_a_reset_and_never_resumed_is_told(self):
        said = self.complaints(HOLD, CANCEL)
        self.assertIn("1 stalls were never ended: SID 0x8 STAG 0x1b0", said)

    def test_stall_cancelled_by_a_reset_and_resumed_twice_is_told(self):
        said = self.complaints(HOLD, CANCEL, resume(0, 0), resume(0, 0), aborted=1)
        self.assertEqual(said, ["1 CMD_RESUMEs were for no outstanding stall"])

    def test_stall_that_the_smmu_does_not_know_without_a_reset_is_told(self):
        said = self.complaints(HOLD, resume(0, 0))
        self.assertIn("1 CMD_RESUMEs were for no outstanding stall", said)


if __name__ == "__main__":
    unittest.main()
