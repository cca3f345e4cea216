# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import tempfile
import unittest

import defects
import witness
from console import Console

DETACH = defects.ALL["stall-during-detach"]
BEGIN = ("vsva-rig: kernel 7.2.13 Nested", f"vsva-rig: begin 42 {DETACH.check}")
PASSED = (f"vsva-rig: passed {DETACH.check} 21000", "vsva-rig: end")
FAILED = (f"vsva-rig: failed {DETACH.check} 21000 exit status: 101", "vsva-rig: end")
ENDLESS = "vsva-rig: sign stall without end"
MARK = "pci_cfg_write gpex-root 00:0 @0x3c <- 0x2a"
HELD = "smmuv3_stall_hold sid=0x8 stag=0x1"
RESUMED = "smmuv3_stall_resume sid=0x8 stag=0x1 known=1 retry=0"


def judge(console, log):
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.write("\n".join(log) + "\n")
        file.flush()
        accounts = witness.read(file.name)
    _, wrong, notes = defects.judge(DETACH, Console.parse([*BEGIN, *console]), accounts)
    return wrong, notes


class Judge(unittest.TestCase):
    def test_stall_without_end_and_no_other_sign_is_the_defect(self):
        wrong, notes = judge((ENDLESS, *PASSED), (MARK, HELD))
        self.assertEqual(wrong, [])
        self.assertEqual(notes[0], "this kernel has it: stall without end (1 times)")
        self.assertIn("SMMU: 1 stalls were never ended: SID 0x8 STAG 0x1", notes)

    def test_stall_without_end_that_the_smmu_does_not_have_is_the_defect_and_is_noted(self):
        wrong, notes = judge((ENDLESS, *PASSED), (MARK, HELD, RESUMED))
        self.assertEqual(wrong, [])
        self.assertEqual(
            notes,
            [
                "this kernel has it: stall without end (1 times)",
                "SMMU: every stall was ended, and yet accesses of the device do not end",
            ],
        )

    def test_stall_without_end_beside_another_sign_names_both(self):
        wrong, notes = judge(
            ("refcount_t: underflow; use-after-free.", ENDLESS, *PASSED), (MARK, HELD)
        )
        self.assertEqual(wrong, [])
        self.assertEqual(
            notes[0], "this kernel has it: use after free (1 times), stall without end (1 times)"
        )

    def test_kernel_that_ends_in_the_middle_of_it_has_the_defect(self):
        wrong, notes = judge(
            ("Internal error: Oops: 0000000096000004", "Kernel panic - not syncing"), (MARK, HELD)
        )
        self.assertEqual(wrong, [])
        self.assertEqual(notes[0], "this kernel has it: use after free (1 times)")

    def test_defect_that_does_not_show_passes_and_says_how_often_it_was_tried(self):
        wrong, notes = judge(("vsva-rig: figure rounds=400", *PASSED), (MARK, HELD, RESUMED))
        self.assertEqual((wrong, notes), ([], ["it did not show in 400 rounds"]))

    def test_check_that_fails_without_a_sign_fails(self):
        wrong, _ = judge(FAILED, (MARK, HELD, RESUMED))
        self.assertEqual(wrong, ["exit status: 101"])

    def test_stall_that_only_the_smmu_has_fails(self):
        wrong, _ = judge(PASSED, (MARK, HELD))
        self.assertEqual(wrong, ["SMMU: 1 stalls were never ended: SID 0x8 STAG 0x1"])

    def test_machine_that_did_not_begin_fails(self):
        _, wrong, _ = defects.judge(
            DETACH, Console.parse(["Booting Linux"]), {0: witness.Account()}
        )
        self.assertEqual(wrong, ["the check did not begin"])
