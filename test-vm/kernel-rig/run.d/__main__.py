# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Runs the checks against a real kernel in a virtual machine and compares them with the emulated
SMMU's own account.
"""

import argparse
import sys
import time
from pathlib import Path

import defects
import initramfs
import machine
import witness
from console import Console


def arguments():
    parser = argparse.ArgumentParser(prog="run.d", description=__doc__)
    parser.add_argument("--machine", choices=("nested", "mock"), required=True)
    parser.add_argument(
        "--stall", choices=("on", "force"), default="on", help="stall model of the emulated SMMU"
    )
    parser.add_argument("--qemu", type=Path, required=True)
    parser.add_argument("--kernel", type=Path, required=True)
    parser.add_argument(
        "--rig", type=Path, required=True, help="vsva-kernel-rig, static, for the machine"
    )
    parser.add_argument(
        "--backend", type=Path, required=True, help="vhost-user-vsva, static, for the machine"
    )
    parser.add_argument("--suite", type=Path, action="append", default=[],
                        help="a static test program of the crate to run instead of the checks")
    parser.add_argument(
        "--backend-path", default="vhost-user-vsva", help="where the suites look for the back-end"
    )
    parser.add_argument(
        "--skip", action="append", default=[], help="tests or checks whose names begin like this"
    )
    parser.add_argument(
        "--defect",
        choices=defects.ALL,
        help="provoke a known defect of the kernel instead of the checks",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the logs")
    parser.add_argument("--limit", type=int, default=300, help="seconds that the machine may run")
    parser.add_argument("checks", nargs="*", help="all of them if none is named")
    args = parser.parse_args()
    if args.defect:
        args.checks = [defects.ALL[args.defect].check]
    return args


# With STALL_MODEL 0b10 a stream cannot have its faults terminated; and the load is the same in both
# models.
NOT_FORCED = ("test_veventq", "test_100000")


def main():
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    archive, log = args.out / "initramfs", args.out / "emulator.log"
    files = {"init": args.rig, args.backend_path.lstrip("/"): args.backend}
    files.update((f"suites/{suite.name}", suite) for suite in args.suite)
    archive.write_bytes(initramfs.build({name: path.read_bytes() for name, path in files.items()}))
    if args.machine == "mock":
        kind = machine.mock()
    else:
        kind = machine.nested(args.stall, *([defects.ALL[args.defect].cpu] if args.defect else []))
    options = [f"vsva.clock={int(time.time())}"]
    if args.checks:
        options.append("vsva.checks=" + ",".join(args.checks))
    skip = [*args.skip, *(NOT_FORCED if args.machine == "nested" and args.stall == "force" else ())]
    if skip:
        options.append("vsva.skip=" + ",".join(skip))
    lines = []
    with open(args.out / "console.log", "w", encoding="utf-8") as copy:
        for line in machine.run(kind, args.qemu, args.kernel, archive, log, options, args.limit):
            copy.write(line.rstrip("\r\n") + "\n")
            lines.append(line)
    console = Console.parse(lines)
    accounts = witness.read(log) if kind.witness else None
    if args.defect:
        results = [defects.judge(defects.ALL[args.defect], console, accounts)]
    else:
        results = judge(args, console, accounts)
    variant = args.machine if args.machine == "mock" else f"nested, stall={args.stall}"
    print(f"kernel {console.kernel or '(it did not come up)'}, {variant}")
    with open(args.out / "results.tsv", "w", encoding="utf-8") as table:
        for name, notes, detail in results:
            print(
                f"{'FAIL' if notes else 'ok':>6}  {name}"
                + "".join(f"\n        {note}" for note in notes + detail)
            )
            table.write(f"{'fail' if notes else 'pass'}\t{name}\t{'; '.join(notes or detail)}\n")
    failed = sum(1 for _, notes, _ in results if notes)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed or not results else 0


def judge(args, console, accounts):
    """For each check its name, what is wrong, and what else there is to say."""
    results = []
    for result in console.results:
        wrong = [] if result.passed else [result.reason]
        if accounts is not None:
            account = accounts.get(result.index, witness.Account())
            wrong += [f"SMMU: {text}" for text in account.complaints(result.expected)]
        detail = [f"{key} = {value:g}" for key, value in result.figures.items()]
        if wrong:
            detail += [f"| {line}" for line in result.output[-40:]]
        results.append((result.name, wrong, detail))
    results += [(name, [] if outcome == "ok" else [outcome], []) for name, outcome in console.tests]
    wrong = list(console.errors)
    wrong += [f"suite {suite}" for suite in console.suites if not suite.endswith("exit status: 0")]
    if len(console.suites) != len(args.suite):
        wrong.append(f"{len(console.suites)} of {len(args.suite)} suites ran to their end")
    if not console.ended:
        wrong.append("the checks did not come to their end")
    missing = sorted(set(args.checks) - {result.name for result in console.results})
    wrong += [f"{name} did not run" for name in missing]
    if accounts is not None:
        wrong += [f"SMMU, between the checks: {text}" for text in accounts[0].complaints(None)]
    results.append((f"{args.machine} machine", wrong, []))
    return results


sys.exit(main())
