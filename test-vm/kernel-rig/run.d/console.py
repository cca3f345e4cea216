# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""What the rig in the guest says on the console, and what the kernel says in between."""

import re
from dataclasses import dataclass, field

LINE = re.compile(r"^vsva-rig: (\w+)(?: (.*))?$")
TEST = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)")
# What a kernel prints when it has found a mistake of its own.
KERNEL_TROUBLE = re.compile(
    r"WARNING:|BUG:|Oops|Internal error:|Unable to handle kernel|Kernel panic|refcount_t:"
)


@dataclass
class Result:
    name: str
    index: int
    passed: bool = False
    milliseconds: int = 0
    reason: str = "the machine stopped in the middle of it"
    output: list = field(default_factory=list)
    figures: dict = field(default_factory=dict)
    expected: dict | None = None


@dataclass
class Console:
    kernel: str = ""
    results: list = field(default_factory=list)
    errors: list = field(default_factory=list)
    ended: bool = False
    tests: list = field(default_factory=list)
    suites: list = field(default_factory=list)
    lines: list = field(default_factory=list)

    @classmethod
    def parse(cls, lines):
        console, current = cls(), None
        for line in lines:
            line = line.rstrip("\r\n")
            console.lines.append(line)
            if KERNEL_TROUBLE.search(line):
                where = f" during {current.name}" if current else ""
                console.errors.append(f"the kernel says{where}: {line}")
            test = TEST.match(line)
            if test:
                console.tests.append((test[1], test[2]))
            match = LINE.match(line)
            if not match:
                if current:
                    current.output.append(line)
                continue
            word, rest = match[1], match[2] or ""
            if word == "kernel":
                console.kernel = rest
            elif word == "begin":
                index, name = rest.split()
                current = Result(name, int(index))
                console.results.append(current)
            elif word in ("passed", "failed") and current:
                name, took, *reason = rest.split(" ", 2)
                current.passed = word == "passed" and name == current.name
                current.milliseconds, current.reason = int(took), " ".join(reason)
                current = None
            elif word == "expect" and current:
                pairs = (pair.split("=") for pair in rest.split())
                current.expected = {key: int(value) for key, value in pairs}
            elif word == "figure" and current:
                key, value = rest.split("=", 1)
                current.figures[key] = float(value)
            elif word == "suite":
                console.suites.append(rest)
            elif word == "error":
                console.errors.append(rest)
            elif word == "end":
                console.ended = True
        return console
