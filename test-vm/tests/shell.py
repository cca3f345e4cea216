# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Functions of test-vm/lib with programs of the test's own in place of the machine's."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

TEST_VM = Path(__file__).resolve().parent.parent


class ShellTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "bin").mkdir()
        self.environment = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "VSVA_OUT": f"{self.folder}/out",
            "FOLDER": str(self.folder),
        }

    def program(self, path, text):
        """An executable shell script at PATH in the test's folder; in bin it hides the
        machine's.
        """
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        file.chmod(0o755)

    def shell(self, script, stdin="", status=0):
        """What the script, after all of test-vm/lib, writes to standard output, and to standard
        error.
        """
        sources = "".join(
            f". '{TEST_VM}/lib/{name}.sh'\n" for name in ("all", "results", "qtest", "rig")
        )
        done = subprocess.run(
            ["bash", "-c", sources + script, "test"],
            input=stdin,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout, done.stderr
