# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Starts the programs under test so that none of them outlives the test, even one that is
killed.
"""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# The kernel takes the thread that has started a program for its parent, and avocado ends the thread
# that runs a test before tearDown begins: this one lives as long as the process.
_parent = ThreadPoolExecutor(1, "start")


def start(command, log_path, inherited=()):
    """The command line is the first line of the log, what the program says follows."""
    return _parent.submit(_start, command, log_path, inherited).result()


def _start(command, log_path, inherited):
    with open(log_path, "wb") as log:
        log.write((" ".join(map(str, command)) + "\n").encode())
        log.flush()
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=inherited,
        )


def end(process, timeout=10):
    """Ask it to end, kill it if it does not; its exit status."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return kill(process)


def kill(process):
    if process.poll() is None:
        process.kill()
    return process.wait(10)


def children(pid):
    """The processes that a process has started and that run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # It has ended.
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found
