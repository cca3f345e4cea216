# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The programs that the end-to-end tests start."""

import importlib.util
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

PROCESS = Path(__file__).resolve().parents[2] / "tests" / "avocado" / "avocado_vsva" / "process.py"
TIMEOUT = 60
START = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("process", sys.argv[1])
process = importlib.util.module_from_spec(spec)
spec.loader.exec_module(process)
runs, says = os.pipe()
program = process.start(["sh", "-c", f"echo runs >&{says}; exec sleep 600"], sys.argv[2], [says])
os.read(runs, 16)
print(program.pid, flush=True)
sys.stdin.read()
"""


def load():
    spec = importlib.util.spec_from_file_location("process", PROCESS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Processes(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.log = Path(folder.name) / "log"

    def test_program_whose_starter_thread_has_ended_goes_on(self):
        process = load()
        theirs, ours = os.pipe()
        runs, says = os.pipe()
        started, thread_id = [], []

        def start():
            thread_id.append(threading.get_native_id())
            command = ["sh", "-c", f"echo runs >&{says}; read line <&{theirs}; exit 7"]
            started.append(process.start(command, self.log, [theirs, says]))
            os.read(runs, 16)

        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
        self.addCleanup(process.kill, started[0])
        end = time.monotonic() + TIMEOUT
        while os.path.exists(f"/proc/self/task/{thread_id[0]}") and time.monotonic() < end:
            time.sleep(0.001)
        os.write(ours, b"go on\n")
        self.assertEqual(started[0].wait(TIMEOUT), 7)
        for fd in (theirs, ours, runs, says):
            os.close(fd)

    def test_program_whose_starter_is_killed_ends(self):
        with subprocess.Popen(
            [sys.executable, "-c", START, PROCESS, self.log],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as starter:
            program = os.pidfd_open(int(starter.stdout.readline()))
            self.addCleanup(os.close, program)
            starter.kill()
        self.assertEqual(select.select([program], [], [], TIMEOUT)[0], [program])
