# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Defects of kernels that docs/production.md names: what provokes them, and how they show.

A kernel that has one of them is no failure, and neither is one that has it no longer. What is wrong is a machine that
shows neither.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Defect:
    """What is run, on which CPU, and what the kernel then says."""
    check: str
    cpu: str
    sign: re.Pattern
    says: str
    fatal: bool


ALL = {
    # This CPU has longer addresses than the emulated SMMU, which is then without FEAT_SVA.
    "attach-without-sva": Defect(
        check="test_fault_with_ssid_reaches_the_guest", cpu="neoverse-n1",
        sign=re.compile(r"\biopf_queue_add_device\+0x"),
        says="NULL dereference at attach", fatal=True),
    "stall-during-detach": Defect(
        check="provoke_stalls_during_detach", cpu="cortex-a57",
        sign=re.compile(r"WARNING: .*io-pgfault\.c:\d+"),
        says="WARN in iommu_report_device_fault", fatal=False),
}


def judge(defect, console, accounts):
    """Name, complaints and notes, as of a check."""
    signs = [line for line in console.lines if defect.sign.search(line)]
    result = console.results[0] if console.results else None
    passed = result is not None and result.passed
    wrong = [] if result else ["the check did not begin"]
    if signs and defect.fatal:
        notes = [f"this kernel has it: {defect.says}"]
    else:
        notes = [f"this kernel has it: {defect.says}, {len(signs)} times"] if signs else ["it did not show"]
        if result and not passed:
            wrong.append(result.reason)
        if result:
            wrong += [f"SMMU: {text}" for text in accounts[result.index].complaints(None)]
        wrong += [error for error in console.errors if not defect.sign.search(error)]
        wrong += [] if console.ended else ["the machine did not come to its end"]
    return "known defect", wrong, notes
