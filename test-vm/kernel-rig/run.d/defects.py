# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Defects of kernels that docs/production.md names: what provokes them, and how they show.

A kernel that has one of them is no failure, and neither is one that has it no longer. What is
wrong is a machine that shows neither.
"""

import re
from dataclasses import dataclass

from witness import Account

# The check itself tells it, as the kernel says nothing: accesses of the device do not end. Seen
# with 7.3.4 also when every stall that the emulated SMMU logged had been ended; what the SMMU says
# of it stands in the notes.
ENDLESS = "stall without end"


@dataclass(frozen=True)
class Defect:
    """What is run, on which CPU, and what the kernel then says."""
    check: str
    cpu: str
    signs: dict


ALL = {
    # This CPU has longer addresses than the emulated SMMU, which is then without FEAT_SVA.
    "attach-without-sva": Defect(
        check="test_fault_with_ssid_reaches_the_guest",
        cpu="neoverse-n1",
        signs={"NULL dereference at attach": re.compile(r"\biopf_queue_add_device\+0x")},
    ),
    # What is used after its end may show in more than one way, and may be the queue itself.
    "stall-during-detach": Defect(
        check="provoke_stalls_during_detach",
        cpu="cortex-a57",
        signs={
            "WARN in iommu_report_device_fault": re.compile(r"WARNING: .*io-pgfault\.c:\d+"),
            "use after free": re.compile(
                r"use-after-free|refcount_t:|Unable to handle kernel|Internal error:"
                r"|kernel BUG at|list_(add|del) corruption|BUG: "
            ),
            ENDLESS: re.compile(rf"^vsva-rig: sign {ENDLESS}$"),
        },
    ),
}


def judge(defect, console, accounts):
    """Name, complaints and notes, as of a check."""
    if not console.results:
        return "known defect", ["the check did not begin"], []
    result = console.results[0]
    account = accounts.get(result.index, Account())
    contradictions = [f"SMMU: {text}" for text in account.complaints(None)]
    counts = {
        says: sum(1 for line in console.lines if sign.search(line))
        for says, sign in defect.signs.items()
    }
    if counts.get(ENDLESS) and not account.outstanding:
        contradictions.append(
            "SMMU: every stall was ended, and yet accesses of the device do not end"
        )
    seen = [f"{says} ({count} times)" for says, count in counts.items() if count]
    if seen:
        return "known defect", [], ["this kernel has it: " + ", ".join(seen), *contradictions]
    wrong = [*contradictions, *console.errors]
    if not result.passed:
        wrong.append(result.reason)
    rounds = "".join(f" in {value:g} {key}" for key, value in result.figures.items())
    return "known defect", wrong, [f"it did not show{rounds}"]
