# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""An initramfs from a few files (cpio, the "newc" format), without root and the same for the
same files.
"""

import stat
from pathlib import PurePath


def _entry(name, mode, data, inode, device=(0, 0)):
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return header + bytes(-len(header) % 4) + data + bytes(-len(data) % 4)


def build(files):
    """The archive; FILES maps names to contents. The console that process 1 gets is in it too."""
    folders = sorted(
        {"dev", *(str(parent) for name in files for parent in PurePath(name).parents)} - {"."}
    )
    entries = [(folder, stat.S_IFDIR | 0o755, b"", (0, 0)) for folder in folders]
    entries.append(("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)))
    entries += [(name, stat.S_IFREG | 0o755, data, (0, 0)) for name, data in files.items()]
    archive = b"".join(_entry(name, mode, data, inode, device)
                       for inode, (name, mode, data, device) in enumerate(entries, 1))
    return archive + _entry("TRAILER!!!", 0, b"", 0)
