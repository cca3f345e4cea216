# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The emulated SMMU's own account of stalls and of the CMD_RESUMEs that ended them, from QEMU's
trace log.

It knows nothing of the kernel, the back-end or the checks in the guest: it only follows each
STAG.
"""

import re
from dataclasses import dataclass, field

MARKER = re.compile(r"\bpci_cfg_write gpex-root \S+ @0x3c <- 0x([0-9a-f]+)")
EVENT = re.compile(r"\bsmmuv3_(stall_hold|stall_resume|stall_term|stall_cancel) (.*)$")
NUMBER = re.compile(r"(\w+)=(0x[0-9a-f]+|\d+)\b")


@dataclass
class Account:
    """What happened while one check ran."""
    stalls: int = 0
    retried: int = 0
    aborted: int = 0
    unmatched: int = 0
    reused: int = 0
    outstanding: set = field(default_factory=set)
    cancelled: set = field(default_factory=set)

    def complaints(self, expected):
        """What contradicts "answered exactly once", or what the check says of itself, in words."""
        found = []
        if self.outstanding:
            some = ", ".join(
                f"SID {sid:#x} STAG {stag:#x}" for sid, stag in sorted(self.outstanding)[:4]
            )
            found.append(f"{len(self.outstanding)} stalls were never ended: {some}")
        if self.unmatched:
            found.append(f"{self.unmatched} CMD_RESUMEs were for no outstanding stall")
        if self.reused:
            found.append(f"{self.reused} stalls got a STAG that was in use")
        if self.stalls != self.retried + self.aborted + len(self.outstanding):
            found.append(f"{self.stalls} stalls, {self.retried} retried, {self.aborted} aborted")
        for name in ("retried", "aborted"):
            if expected is not None and getattr(self, name) != expected[name]:
                found.append(f"{getattr(self, name)} {name}, the check says {expected[name]}")
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
    stall = numbers["sid"], numbers.get("stag")
    if name == "stall_hold":
        account.stalls += 1
        account.reused += stall in account.outstanding
        account.outstanding.add(stall)
        account.cancelled.discard(stall)
    elif name == "stall_resume" and _is_unmatched(account, stall, numbers["known"]):
        account.unmatched += 1
    elif name == "stall_resume":
        account.outstanding.remove(stall)
        account.retried += numbers["retry"] == 1
        account.aborted += numbers["retry"] == 0
    elif name == "stall_term":
        ended = {outstanding for outstanding in account.outstanding if outstanding[0] == stall[0]}
        account.outstanding -= ended
        account.aborted += len(ended)
    elif name == "stall_cancel":
        # VFIO resets a device that its owner closes. Nothing waits for the CMD_RESUME any more, and
        # still there must be one: the kernel cannot know.
        account.cancelled |= {one for one in account.outstanding if one[0] == stall[0]}


def _is_unmatched(account, stall, known):
    return stall not in account.outstanding or bool(known) == (stall in account.cancelled)
