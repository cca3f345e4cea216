# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The virtual machines that stand for hosts."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """A kind of host, its emulator's arguments and its log."""
    arguments: tuple
    append: str
    witness: bool


# Warnings are to be seen, and a machine that cannot go on ends.
KERNEL = ("loglevel=6", "oops=panic", "panic=-1")
DEVICES = ("vsva-testdev,addr=01.0", "vsva-testdev,addr=02.0")


def nested(stall, cpu="cortex-a57"):
    """arm64 with an SMMUv3 that stalls. STALL is the emulated SMMU's stall model."""
    arguments = [
        "-machine",
        "virt,iommu=smmuv3,gic-version=3",
        "-cpu",
        cpu,
        "-smp",
        "2",
        "-m",
        "512",
        "-global",
        f"arm-smmuv3.stall={stall}",
        "-global",
        "arm-smmuv3.fwb=on",
        "-global",
        "arm-smmuv3.ssidsize=8",
        "-trace",
        "smmuv3_stall*",
        "-trace",
        "smmuv3_cmd_resume*",
        "-trace",
        "smmuv3_cmd_stall*",
        "-trace",
        "pci_cfg_write",
    ]
    for device in DEVICES:
        arguments += ["-device", device]
    return Machine(tuple(arguments), "console=ttyAMA0", witness=True)


def mock():
    """x86_64 with nothing but a console."""
    return Machine(
        ("-machine", "q35", "-cpu", "qemu64", "-smp", "2", "-m", "512"),
        "console=ttyS0",
        witness=False,
    )


def run(machine, qemu, kernel, initramfs, log, checks, limit):
    """Boots it and yields the console's lines until it is off."""
    command = [
        str(qemu),
        "-nodefaults",
        "-nographic",
        "-no-reboot",
        "-accel",
        "tcg",
        *machine.arguments,
        "-kernel",
        str(kernel),
        "-initrd",
        str(initramfs),
        "-serial",
        "stdio",
        "-D",
        str(log),
        "-append",
        " ".join([*KERNEL, machine.append, *checks]),
    ]
    Path(log).write_bytes(b"")
    with subprocess.Popen(
        ["timeout", "--kill-after=5", str(limit), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as emulator:
        for line in emulator.stdout:
            yield line.decode("utf-8", errors="replace")
    if emulator.returncode == 124:
        yield f"vsva-rig: error the machine was still running after {limit} s"
    elif emulator.returncode != 0:
        yield f"vsva-rig: error the emulator ended with status {emulator.returncode}"
