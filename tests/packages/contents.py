# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""What is in the Debian packages, without installing them. VSVA_PACKAGES names them."""

import gzip
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def named(variable):
    """The packages that it has, by name."""
    return {
        Path(path).name.split("_")[0]: Path(path) for path in os.environ.get(variable, "").split()
    }


PACKAGES = named("VSVA_PACKAGES")
ARM64 = named("VSVA_PACKAGES_ARM64")
MAN = "usr/share/man"
# What prints the options that a page must have.
PAGES = {
    "man1/vhost-user-vsva.1": ["usr/libexec/vhost-user-vsva/vhost-user-vsva"],
    "man1/vhost-user-vsva-status.1": ["usr/libexec/vhost-user-vsva/vhost-user-vsva", "status"],
    "man1/vhost-user-vsva-report.1": ["usr/libexec/vhost-user-vsva/vhost-user-vsva", "report"],
    "man1/vhost-user-vsva-trace.1": ["usr/libexec/vhost-user-vsva/vhost-user-vsva", "trace"],
    "man1/vsva-domain.1": ["usr/bin/vsva-domain", "add"],
    "man8/vsva-check-device.8": ["usr/bin/vsva-check-device"],
    "man8/vsva-check-host.8": ["usr/bin/vsva-check-host"],
    "man8/vsva-upgrade.8": ["usr/bin/vsva-upgrade"],
}
# Options of virsh, in examples.
OTHERS = {"--inactive", "--security-info", "--validate"}
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/{}",
    "zsh": "usr/share/zsh/vendor-completions/_{}",
    "fish": "usr/share/fish/vendor_completions.d/{}.fish",
}
# Programs, and what of each has options of its own.
COMPLETED = {
    "usr/libexec/vhost-user-vsva/vhost-user-vsva": ([], ["status"], ["report"], ["trace"]),
    "usr/bin/vsva-domain": (["add"], ["update"], ["remove"]),
    "usr/bin/vsva-check-device": ([],),
    "usr/bin/vsva-check-host": ([],),
    "usr/bin/vsva-upgrade": ([],),
}


def run(*words, **options):
    done = subprocess.run(
        list(map(str, words)), check=False, capture_output=True, text=True, **options
    )
    if done.returncode != 0:
        raise AssertionError(f"{words} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def field(package, name):
    return run("dpkg-deb", "--field", package, name).strip()


def options_of_page(path):
    text = gzip.decompress(path.read_bytes()).decode().replace("\\-", "-")
    return options_in(re.sub(r"\\f[A-Z]", " ", text)) - OTHERS


def options_in(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))


def tree(package):
    """Type, mode and path of what is in it, the folders aside."""
    for line in run("dpkg-deb", "--contents", package).splitlines():
        fields = line.split(None, 5)
        if not fields[0].startswith("d"):
            yield f"{fields[0]} {fields[1]} {fields[5]}"


class Contents(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="vsva-packages-"))
        for name, package in PACKAGES.items():
            run("dpkg-deb", "--extract", package, cls.folder / name)
        cls.root = cls.folder / "vhost-user-vsva"

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def test_each_package_has_the_files_of_its_list_and_no_others(self):
        for name, package in PACKAGES.items():
            with self.subTest(name):
                wanted = (HERE / f"{name}.list").read_text(encoding="utf-8").splitlines()
                found = [line for line in tree(package) if "/patches/" not in line]
                self.assertEqual(sorted(found), sorted(wanted))

    def test_package_of_qemu_has_the_series(self):
        folder = self.folder / "qemu-system-arm-vsva/usr/share/doc/qemu-system-arm-vsva/patches"
        names = sorted(path.name.removesuffix(".gz") for path in folder.iterdir())
        self.assertEqual(
            names, sorted(path.name for path in (ROOT / "qemu-patches").glob("[0-9]*.patch"))
        )

    def test_arm64_packages_have_the_same_files_and_need_the_same_but_libraries(self):
        if not ARM64:
            self.skipTest("they were not built")
        self.assertEqual(set(ARM64), set(PACKAGES))
        for name, package in ARM64.items():
            with self.subTest(name):
                self.assertEqual(field(package, "Architecture"), "arm64")
                # Static programs need a word to lintian.
                native, arm64 = (
                    {line for line in tree(one) if "lintian" not in line}
                    for one in (PACKAGES[name], package)
                )
                self.assertEqual(arm64, native)
                for kind in ("Depends", "Recommends"):
                    wanted = {
                        need
                        for need in field(PACKAGES[name], kind).split(", ")
                        if not need.startswith(("lib", "zlib"))
                    }
                    self.assertLessEqual(wanted, set(field(package, kind).split(", ")))
                self.assertNotRegex(field(package, "Depends"), r"\blib(c6|glib|fdt)")

    def test_arm64_programs_are_static_and_for_arm64(self):
        if not ARM64:
            self.skipTest("they were not built")
        for name, path in (
            ("vhost-user-vsva", "usr/libexec/vhost-user-vsva/vhost-user-vsva"),
            ("qemu-system-arm-vsva", "usr/bin/qemu-system-aarch64-vsva"),
        ):
            with self.subTest(name):
                folder = self.folder / f"{name}.arm64"
                run("dpkg-deb", "--extract", ARM64[name], folder)
                program = folder / path
                self.assertIn("AArch64", run("readelf", "--file-header", program))
                self.assertNotIn("NEEDED", run("readelf", "--dynamic", program))
                if emulator := os.environ.get("VSVA_QEMU_AARCH64"):
                    self.assertRegex(
                        run(emulator, program, "--version"), "vhost-user-vsva|QEMU emulator version"
                    )

    def test_files_in_etc_are_conffiles(self):
        control = self.folder / "control"
        run("dpkg-deb", "--control", PACKAGES["vhost-user-vsva"], control)
        conffiles = (control / "conffiles").read_text(encoding="utf-8").split()
        files = [
            f"/{path.relative_to(self.root)}"
            for path in (self.root / "etc").rglob("*")
            if path.is_file()
        ]
        self.assertEqual(sorted(conffiles), sorted(files))

    def test_man_pages_are_well_formed(self):
        for path in (self.folder).glob(f"*/{MAN}/*/*.gz"):
            with self.subTest(path.name):
                done = subprocess.run(
                    ["man", "--warnings", "-E", "UTF-8", "-l", path],
                    capture_output=True,
                    text=True,
                    check=True,
                    env={**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
                )
                self.assertEqual(done.stderr, "")
                self.assertIn("NAME", done.stdout)

    def test_man_pages_have_the_options_of_the_programs(self):
        for page, (program, *words) in PAGES.items():
            with self.subTest(page):
                help_text = run(self.root / program, *words, "--help")
                self.assertEqual(
                    options_of_page(self.root / MAN / f"{page}.gz"), options_in(help_text)
                )

    def test_completions_have_the_options_of_the_programs_and_their_shells_load_them(self):
        for program, commands in COMPLETED.items():
            program = self.root / program
            wanted = set().union(
                *(options_in(run(program, *words, "--help")) for words in commands)
            )
            for shell, path in COMPLETIONS.items():
                path = self.root / path.format(program.name)
                with self.subTest(program.name, shell=shell):
                    text = path.read_text(encoding="utf-8")
                    if shell == "fish":
                        text = re.sub(r" -l ([a-z-]+)", r" --\1", text)
                    self.assertLessEqual(wanted, options_in(text))
                    if shutil.which(shell):
                        run(shell, "-n", path)

    def test_licences_of_the_crates_are_there(self):
        text = gzip.decompress(
            (self.root / "usr/share/doc/vhost-user-vsva/crates.gz").read_bytes()
        ).decode()
        for crate in ("clap", "vhost-user-backend", "vm-memory", "rustix"):
            self.assertRegex(text, rf"(?m)^{crate} [\d.]+: ")
        self.assertIn("Permission is hereby granted, free of charge", text)


if __name__ == "__main__":
    unittest.main()
