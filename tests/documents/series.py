# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""What the QEMU series adds, as it is after its last patch."""

import re
from pathlib import Path

SERIES = Path(__file__).resolve().parents[2] / "qemu-patches"
HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")


class File:
    """The lines of one of QEMU's files that the series shows: their numbers are keys' positions."""

    def __init__(self):
        # (text, whether the series has added it); None: not shown.
        self.lines = []

    def apply(self, start, hunk):
        index = max(0, start - 1)
        self.lines += [None] * (index - len(self.lines))
        for line in hunk:
            kind, text = line[:1] or " ", line[1:]
            if kind == "+":
                self.lines.insert(index, (text, True))
                index += 1
                continue
            if index == len(self.lines):
                self.lines.append(None)
            known = self.lines[index]
            if known is not None and known[0] != text:
                raise AssertionError(f"a patch changes {known[0]!r}, and it is {text!r} to it")
            if kind == "-":
                del self.lines[index]
            else:
                self.lines[index] = (text, known is not None and known[1])
                index += 1

    def added(self):
        """Its added lines; what is between them is left out."""
        return "\n".join(line[0] if line and line[1] else "" for line in self.lines)


def hunks(patch):
    """(path, new start, lines) of each hunk."""
    path = start = None
    lines, left_old, left_new = [], 0, 0
    for line in patch.read_text(encoding="utf-8").split("\n"):
        if left_old or left_new:
            lines.append(line)
            left_old -= line[:1] != "+" and line[:1] != "\\"
            left_new -= line[:1] != "-" and line[:1] != "\\"
            if not left_old and not left_new:
                yield path, start, [line for line in lines if line[:1] != "\\"]
                lines = []
        elif line.startswith("+++ "):
            path = line[4:].removeprefix("b/")
        elif match := HUNK.match(line):
            counts = re.findall(r"[-+]\d+(?:,(\d+))?", line)[:2]
            left_old, left_new = (int(count or 1) for count in counts)
            start = int(match[2]) if left_new else int(match[2]) + 1


def added_text():
    """{path: added lines} of the C files that are part of QEMU, not of its tests."""
    files = {}
    for patch in sorted(SERIES.glob("0*.patch")):
        for path, start, lines in hunks(patch):
            try:
                files.setdefault(path, File()).apply(start, lines)
            except AssertionError as error:
                raise AssertionError(
                    f"{patch.name}: {path}, near line {start}: {error}; "
                    "export the series again with git format-patch"
                ) from None
    return {
        path: file.added()
        for path, file in files.items()
        if path.endswith((".c", ".h")) and not path.startswith("tests/")
    }
