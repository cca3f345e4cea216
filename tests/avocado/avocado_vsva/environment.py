# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Where the programs under test are: set by test-vm/, or by hand."""

import os
from dataclasses import dataclass
from pathlib import Path

VARIABLES = {
    "qemu": ("VSVA_QEMU", "the patched qemu-system-aarch64"),
    "kernel": ("VSVA_KERNEL", "the guest kernel's Image"),
    "initrd": ("VSVA_INITRD", "the guest's initramfs"),
    "backend": ("VSVA_BACKEND", "the vhost-user-vsva binary"),
    "replay": ("VSVA_REPLAY", "the vsva-model-replay binary"),
}


@dataclass(frozen=True)
class Environment:
    qemu: Path
    kernel: Path
    initrd: Path
    backend: Path
    replay: Path
    out: Path

    @classmethod
    def load(cls):
        out = Path(os.environ.get("VSVA_OUT", "vsva-out")).resolve()
        return cls(out=out, **files_of(VARIABLES, "test-vm/check"))


def files_of(variables, setter):
    """The file that each variable of the environment names; `setter` is the command that sets
    them.
    """
    found, missing = {}, []
    for field, (variable, meaning) in variables.items():
        path = Path(os.environ.get(variable, ""))
        if path.is_file():
            found[field] = path.resolve()
        else:
            missing.append(f"{variable} ({meaning})")
    if missing:
        raise FileNotFoundError(
            "not set or not a file: " + ", ".join(missing) + f"; {setter} sets all of them"
        )
    return found
