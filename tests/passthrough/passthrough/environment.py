# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""What the machine that stands for a host (L1) is made of, and what is in it."""

from dataclasses import dataclass
from pathlib import Path

from avocado_vsva.environment import files_of

VARIABLES = {
    "qemu": ("VSVA_QEMU", "the patched qemu-system-aarch64"),
    "kernel": ("VSVA_L1_KERNEL", "the host's kernel"),
    "initrd": ("VSVA_L1_INITRD", "the host's initramfs, with all that runs there"),
}

# In the host's initramfs.
QEMU = "/qemu-system-aarch64"
BACKEND = "/vhost-user-vsva"
DRIVER = "/vsva_vfio_pci.ko"
PLAIN = ("/guest/plain-kernel", "/guest/plain-initramfs")
GUEST = ("/guest/kernel", "/guest/initramfs")


@dataclass(frozen=True)
class HostEnvironment:
    qemu: Path
    kernel: Path
    initrd: Path

    @classmethod
    def load(cls):
        return cls(**files_of(VARIABLES, "test-vm/check passthrough"))
