# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""vsva-check-device in a real kernel: what it says of a device, beside what the emulated SMMU was
given and what the kernel's driver prints of it.
"""

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import initramfs
import machine
from console import KERNEL_TROUBLE

HERE = Path(__file__).resolve().parent
TOOL = HERE.parents[2] / "deploy/libvirt/vsva-check-device"
FUNCTION, OTHER = "0000:00:01.0", "0000:00:02.0"
# What vsva-check-device and process 1 import, beside what is a part of Python's program.
LIBRARIES = ("ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libz.so.1", "libexpat.so.1",
             "libffi.so.8")
PACKAGES = ("collections", "ctypes", "encodings", "importlib", "json", "pathlib", "re")
MODULES = ("array", "_ctypes", "_json", "_posixsubprocess", "fcntl", "select", "zlib")
# drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.h
FEATURES = {"on": 1 << 11, "force": 1 << 11 | 1 << 13}
FEATURE_MASK = 1 << 11 | 1 << 13
LINE = re.compile(r"^vsva-device: (.*)$")
PRINTED = re.compile(r"arm-smmu-v3 .*\(features (0x[0-9a-f]+)\)")
# The devices have no migration in vfio-pci, and the kernel keeps no copy of its options.
ALWAYS = {"migration": "VFIO_DEVICE_FEATURE_MIGRATION failed: ENOTTY"}
NO_FWB = {**ALWAYS, "nesting": "IOMMU_VIOMMU_ALLOC failed: EOPNOTSUPP"}
# The emulated SMMU has neither then, and this one is looked at first.
NO_SUBSTREAMS = {**ALWAYS, "ID registers": "lacks 2-level tables of context descriptors"}
# All that a host can do to the device is tried on the first one.
FULL = "stall=on"
VARIANTS = {
    "stall=on": ({}, "on", 8, ALWAYS),
    "stall=force": ({"stall": "force"}, "force", 8, ALWAYS),
    "fwb=off": ({"fwb": "off"}, "on", 8, NO_FWB),
    "ssidsize=4": ({"ssidsize": "4"}, "on", 4, ALWAYS),
    "ssidsize=0": ({"ssidsize": "0"}, "on", 0, NO_SUBSTREAMS),
}


def python_files(root):
    """The part of Debian's Python in ROOT that is needed, by their names in the machine."""
    usr = root / "usr"
    stdlib = usr / "lib/python3.13"
    files = {"usr/bin/python3": usr / "bin/python3.13"}
    for name in LIBRARIES:
        files[f"lib/{name}"] = next(usr.glob(f"lib/**/{name}"))
    paths = list(stdlib.glob("*.py"))
    for package in PACKAGES:
        paths += (stdlib / package).rglob("*.py")
    for name in MODULES:
        paths += (stdlib / "lib-dynload").glob(f"{name}.*.so")
    # Links lead out of it.
    files.update(
        {f"usr/lib/python3.13/{path.relative_to(stdlib)}": path for path in paths if path.is_file()}
    )
    files["vsva-check-device"] = TOOL
    files["init.py"] = HERE.parent / "device/init.py"
    files["holder.py"] = HERE.parent / "device/holder.py"
    return files


def changed(kind, properties):
    """The machine with other properties of its SMMU."""
    words = list(kind.arguments)
    for name, value in properties.items():
        at = next(n for n, word in enumerate(words) if word.startswith(f"arm-smmuv3.{name}="))
        words[at] = f"arm-smmuv3.{name}={value}"
    return replace(kind, arguments=tuple(words))


def complaints(lines, full, stall, ssidsize, wanted):
    """What is wrong with what was said."""
    wrong = [f"the kernel says: {line.strip()}" for line in lines if KERNEL_TROUBLE.search(line)]
    wrong += [line.strip() for line in lines if line.startswith(("vsva-device-error", "vsva-rig"))]
    features = [int(match[1], 16) for line in lines if (match := PRINTED.search(line))]
    if [value & FEATURE_MASK for value in features] != [FEATURES[stall]]:
        wrong.append(f"the kernel's driver prints {features}, not stall={stall}")
    said = [json.loads(match[1]) for line in lines if (match := LINE.match(line.strip()))]
    names = [item["name"] for item in said]
    if names != (["not bound", "bound", "once more", "in use", "free again"] if full
                 else ["bound"]):
        return [*wrong, f"not all was run: {names}"]
    if not full:
        return wrong + judge(said[0], FUNCTION, stall, ssidsize, wanted)
    unbound, bound, again, used, free = said
    found = unbound["found"][FUNCTION]
    if "bound to no driver" not in found["failed"].get("driver", ""):
        wrong.append(f"not bound: {found['failed']}")
    for item in (bound, again, free):
        for address in item["found"]:
            wrong += judge(item, address, stall, ssidsize, wanted)
    if list(again["found"]) != [FUNCTION, OTHER]:
        wrong.append(f"of two devices: {list(again['found'])}")
    if "something has the device open" not in used["errors"] or used["status"] != 1:
        wrong.append(f"in use: {used['errors']}")
    return wrong


def judge(item, address, stall, ssidsize, wanted):
    found, where = item["found"][address], f"{item['name']}, {address}"
    failed = found["failed"]
    wrong = [
        f"{where}: {name} is {failed.get(name)!r}, not {text!r}"
        for name, text in wanted.items()
        if text not in failed.get(name, "")
    ]
    wrong += [f"{where}: {name}: {failed[name]}" for name in failed if name not in wanted]
    registers = found["checks"]["ID registers"]["found"]
    if ssidsize and f"stall={stall}" not in registers:
        wrong.append(f"{where}: {registers}")
    if 0 < ssidsize < 8 and f"ssidsize={ssidsize}" not in registers:
        wrong.append(f"{where}: {registers}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--qemu", type=Path, required=True)
    parser.add_argument("--kernel", type=Path, required=True)
    parser.add_argument("--python", type=Path, required=True, help="where Debian's is unpacked")
    parser.add_argument("--out", type=Path, required=True, help="folder for the logs")
    parser.add_argument("--limit", type=int, default=300, help="seconds that a machine may run")
    parser.add_argument("variants", nargs="*", help="all of them if none is named")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    archive, failed = args.out / "initramfs", 0
    files = {name: path.read_bytes() for name, path in python_files(args.python).items()}
    archive.write_bytes(initramfs.build(files))
    with open(args.out / "results.tsv", "w", encoding="utf-8") as table:
        for name in args.variants or VARIANTS:
            properties, stall, ssidsize, wanted = VARIANTS[name]
            kind = changed(machine.nested("on"), properties)
            words = ["loglevel=7", "rdinit=/usr/bin/python3", "--", "-I", "/init.py",
                     "full" if name == FULL else "quick"]
            lines = list(machine.run(kind, args.qemu, args.kernel, archive,
                                     args.out / f"{name}-emulator.log", words, args.limit))
            (args.out / f"{name}-console.log").write_text("".join(lines), encoding="utf-8")
            wrong = complaints(lines, name == FULL, stall, ssidsize, wanted)
            failed += bool(wrong)
            print(f"{'FAIL' if wrong else 'ok':>6}  {name}"
                  + "".join(f"\n        {text}" for text in wrong))
            table.write(f"{'fail' if wrong else 'pass'}\t{name}\t{'; '.join(wrong)}\n".replace(
                "\r", ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
