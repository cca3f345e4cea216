# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""counts BACKEND DEBUG_BACKEND BENCH BASELINE [--write]: counts what the back-end does for a fault.

System calls, instructions and locks do not depend on how busy the machine is, so they are compared
with BASELINE, which is in the repository. Each is counted for N faults and for 2 N: the difference
has nothing of the start and the end. --write makes a new BASELINE.
"""

import json
import sys
import tempfile
from pathlib import Path

from programs import instructions, locks, system_calls

# What is driven: the kind, what one of it is called, how many of them it has, and how often it is
# done. A burst is 64 faults, or 64 commands.
KINDS = {
    "fault": ("fault", 1, 400),
    "burst": ("fault in bursts of 64", 64, 30),
    "commands": ("command, 64 a kick", 64, 30),
    "replay": ("submission queued and replayed, 200 a drain", 200, 10),
}


def measure(backend, debug, bench, folder):
    """All counts, by name."""
    counts = {}
    for kind, (of, each, times) in KINDS.items():
        for what, count, program in (("system calls", system_calls, backend),
                                     ("instructions", instructions, backend),
                                     ("locks", locks, debug)):
            once = count(program, bench, kind, times, folder)
            twice = count(program, bench, kind, 2 * times, folder)
            counts[f"{what} for each {of}"] = round((twice - once) / (times * each), 3)
    return counts


def judge(counts, baseline):
    """What is wrong, as lines."""
    wrong = []
    for name in sorted(counts.keys() | baseline.keys()):
        if name not in counts or name not in baseline:
            wrong.append(f"{name}: it is not in the {'counts' if name in baseline else 'baseline'}")
            continue
        now, before, most = counts[name], baseline[name]["count"], baseline[name]["most"]
        if now > most:
            wrong.append(f"{name}: {now:g}, and it was {before:g} (at most {most:g} is let pass)")
        elif now < 2 * before - most:
            print(
                f"{name}: {now:g} is less than the {before:g} of the baseline, which may be renewed"
            )
    return wrong


def most(name, count):
    """What is let pass: compilers differ, and a system call or two is a matter of who was
    faster.
    """
    share, more = {"system": (0.05, 0.02)}.get(name.split()[0], (0.15, 0.05))
    return round(count * (1 + share) + more, 3)


def main(arguments):
    """Counts, and compares or writes."""
    *paths, baseline = (Path(argument) for argument in arguments if argument != "--write")
    with tempfile.TemporaryDirectory() as folder:
        counts = measure(*paths, Path(folder))
    for name, count in counts.items():
        print(f"{name}: {count:g}")
    if "--write" in arguments:
        text = {name: {"count": count, "most": most(name, count)} for name, count in counts.items()}
        baseline.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
        return 0
    wrong = judge(counts, json.loads(baseline.read_text(encoding="utf-8")))
    if wrong:
        print("The back-end does more for the same than it did:", *wrong, sep="\n  ")
        print("If that is meant: test-vm/bench counts --write, and say why in the commit.")
    return 1 if wrong else 0


sys.exit(main(sys.argv[1:]))
