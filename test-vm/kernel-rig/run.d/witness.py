# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The emulated SMMU's own account of stalls and of the CMD_RESUMEs that ended them, from QEMU's trace log.

It knows nothing of the kernel, the back-end or the checks in the guest: it only follows each STAG.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

MARKER = re.compile(r"\bpci_cfg_write \S+ \S+ @0x3c <- 0x([0-9a-f]+)")
EVENT = re.compile(r"\bsmmuv3_(stall\w*|cmd_resume\w*|cmd_stall_term\w*) (.*)$")
NUMBER = re.compile(r"(\w+)[=: ]\s*(0x[0-9a-f]+|\d+)\b")


@dataclass
class Account:
    """What happened while one check ran."""
    stalls: int = 0
    retried: int = 0
    aborted: int = 0
    unmatched: int = 0
    twice: int = 0
    outstanding: set = field(default_factory=set)

    @property
    def ended(self):
        return self.retried + self.aborted

    def complaints(self):
        """Violations of "answered exactly once", in words."""
        found = []
        if self.outstanding:
            found.append(f"{len(self.outstanding)} stalls were never ended: {sorted(self.outstanding)[:4]}")
        if self.unmatched:
            found.append(f"{self.unmatched} CMD_RESUMEs were for no outstanding stall")
        if self.twice:
            found.append(f"{self.twice} stalls got a STAG that was in use")
        if self.ended != self.stalls:
            found.append(f"{self.stalls} stalls, {self.ended} ended")
        return found


def read(path):
    """Accounts by the number of the check; 0 is what happened between checks."""
    accounts, current = {0: Account()}, 0
    with open(path, encoding="utf-8", errors="replace") as log:
        for line in log:
            marker = MARKER.search(line)
            if marker:
                current = int(marker[1], 16)
                accounts.setdefault(current, Account())
                continue
            event = EVENT.search(line)
            if event:
                numbers = {key: int(value, 0) for key, value in NUMBER.findall(event[2])}
                _count(accounts[current], event[1], numbers)
    return accounts


def _count(account, name, numbers):
    raise NotImplementedError(Counter)
