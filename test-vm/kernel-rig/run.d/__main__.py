# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Runs the checks against a real kernel in a virtual machine and compares them with the emulated SMMU's own account."""

import argparse
import sys
from pathlib import Path

import initramfs
import machine
import witness
from console import Console


def arguments():
    parser = argparse.ArgumentParser(prog="run.d", description=__doc__)
    parser.add_argument("--machine", choices=("nested", "mock"), required=True)
    parser.add_argument("--stall", choices=("on", "force"), default="on", help="stall model of the emulated SMMU")
    parser.add_argument("--qemu", type=Path, required=True)
    parser.add_argument("--kernel", type=Path, required=True)
    parser.add_argument("--rig", type=Path, required=True, help="vsva-kernel-rig, static, for the machine")
    parser.add_argument("--backend", type=Path, required=True, help="vhost-user-vsva, static, for the machine")
    parser.add_argument("--out", type=Path, required=True, help="folder for the logs")
    parser.add_argument("--limit", type=int, default=300, help="seconds that the machine may run")
    parser.add_argument("checks", nargs="*", help="all of them if none is named")
    return parser.parse_args()


def main():
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    archive, log = args.out / "initramfs", args.out / "emulator.log"
    archive.write_bytes(initramfs.build({"init": args.rig.read_bytes(), "vhost-user-vsva": args.backend.read_bytes()}))
    kind = machine.nested(args.stall) if args.machine == "nested" else machine.mock()
    checks = ["vsva.checks=" + ",".join(args.checks)] if args.checks else []
    lines = []
    with open(args.out / "console.log", "w", encoding="utf-8") as copy:
        for line in machine.run(kind, args.qemu, args.kernel, archive, log, checks, args.limit):
            copy.write(line.rstrip("\r\n") + "\n")
            lines.append(line)
    console = Console.parse(lines)
    accounts = witness.read(log) if kind.witness else None
    return report(args, console, accounts)


def report(args, console, accounts):
    """One line a check; 0 if all is well."""
    variant = args.machine if args.machine == "mock" else f"nested, stall={args.stall}"
    print(f"kernel {console.kernel or '(it did not come up)'}, {variant}", flush=True)
    failed = len(console.errors)
    for result in console.results:
        complaints = [] if result.passed else [result.reason]
        if accounts is not None:
            account = accounts.get(result.index, witness.Account())
            complaints += [f"SMMU: {text}" for text in account.complaints(result.expected)]
        word = "FAIL" if complaints else "ok"
        print(f"{word:>6}  {result.name} ({result.milliseconds} ms)" + "".join(f"\n        {c}" for c in complaints))
        if complaints:
            failed += 1
            print("".join(f"        | {line}\n" for line in result.output[-40:]), end="")
        for key, value in result.figures.items():
            print(f"        {key} = {value:g}")
    for error in console.errors:
        print(f"  FAIL  {error}")
    if not console.ended and not console.errors:
        print("  FAIL  the checks did not come to their end")
        failed += 1
    missing = set(args.checks) - {result.name for result in console.results}
    for name in sorted(missing):
        print(f"  FAIL  {name} did not run")
    failed += len(missing)
    passed = sum(1 for result in console.results if result.passed) if not failed else len(console.results) - failed
    print(f"{max(passed, 0)} passed, {failed} failed")
    return 1 if failed or not console.results else 0


sys.exit(main())
