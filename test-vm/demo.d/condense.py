# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""
A timeline without thousands of entries that say the same.

What happens often (a fault, an answer, a submission) is merged from one event that is rare (a
drain begins, the vCPUs stop) to the next, so that no merged entry reaches across one of
those, and what came before it can still be told from what came after it.
"""

from collections import Counter

# Of this many of one kind in a timeline, each is still an entry of its own.
RARE = 32


def _kind(entry):
    return entry["actor"], entry["event"]


def condense(timeline):
    """Merge the frequent entries of a timeline that is sorted by time."""
    kinds = Counter(map(_kind, timeline))
    condensed, merged = [], {}
    for entry in timeline:
        kind = _kind(entry)
        if kinds[kind] <= RARE:
            merged.clear()
            condensed.append(entry)
        elif kind not in merged:
            merged[kind] = dict(entry)
            condensed.append(merged[kind])
        else:
            first = merged[kind]
            first.update(
                count=first.get("count", 1) + 1, until=entry["time"], last_ids=entry["ids"]
            )
    return condensed
