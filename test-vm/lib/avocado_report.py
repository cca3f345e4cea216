# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Prints avocado's JSON report as lines of: pass|fail|skip, name, note, folder with logs,
separated by tabs.
"""

import json
import re
import sys

KINDS = {"PASS": "pass", "WARN": "pass", "SKIP": "skip", "CANCEL": "skip"}


def one_line(text):
    return " ".join(str(text or "").split())[:200] or "-"


def main(path):
    with open(path, encoding="utf-8") as report:
        tests = json.load(report)["tests"]
    for test in tests:
        kind = KINDS.get(test["status"], "fail")
        name = re.sub(r"^\d+-", "", test["id"])
        name = re.sub(r"^(\./)?", "", name)
        note = one_line(test.get("fail_reason") or test.get("whiteboard") or test["status"])
        print(kind, name, note if kind != "pass" else "-", test.get("logdir") or "-", sep="\t")


if __name__ == "__main__":
    main(sys.argv[1])
