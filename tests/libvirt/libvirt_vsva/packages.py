# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The Debian packages: VSVA_PACKAGES names them."""

import os
import shutil
import subprocess
from pathlib import Path

QEMU = "/usr/bin/qemu-system-aarch64-vsva"
BACKEND = "/usr/libexec/vhost-user-vsva/vhost-user-vsva"
PROFILE = "/etc/apparmor.d/vhost-user-vsva"


def packages():
    """Name and path of each."""
    paths = map(Path, os.environ.get("VSVA_PACKAGES", "").split())
    found = {path.name.split("_")[0]: path for path in paths}
    if not found:
        raise FileNotFoundError("VSVA_PACKAGES is not set; test-vm/check sets it")
    return found


def copy_packages(host, folder):
    host.path(folder).mkdir()
    for package in packages().values():
        shutil.copy(package, host.path(folder))


def copy_newer(host, folder, scratch):
    """Put a later version, with another program and another profile, in the place of the package
    vhost-user-vsva.
    """
    package, tree = packages()["vhost-user-vsva"], scratch / f"{host.name}-newer"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    for path, text in ((BACKEND, b"\n"), (PROFILE, b"# of the later version\n")):
        with (tree / path[1:]).open("ab") as file:
            file.write(text)
    control = tree / "DEBIAN/control"
    control.write_text(
        control.read_text(encoding="utf-8").replace("\nVersion: ", "\nVersion: 9:"),
        encoding="utf-8",
    )
    subprocess.run(
        [
            "dpkg-deb",
            "--build",
            "--root-owner-group",
            "-Znone",
            tree,
            host.path(folder) / package.name,
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
