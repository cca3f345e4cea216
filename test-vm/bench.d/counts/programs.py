# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The back-end under a program that counts."""

import re
import socket
import subprocess

# Nothing here takes this long, also on a busy machine.
HANG = 300
# A lock that is held makes a thread wait: that depends on the machine.
WAITING = {"futex"}
# The main thread, whose ticks depend on the time that has gone by.
MAIN_THREAD = 1


def _drive(counter, backend, bench, kind, times, folder):
    """Runs the back-end for one connection, with a front end that does something to it."""
    path = folder / "counts.sock"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        fd = listener.fileno()
        command = [*counter, backend, "--one-off", "--log-level", "warn", "--seccomp", "none",
                   "--sandbox", "none", "--fd", str(fd)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[fd])
    with process:
        try:
            subprocess.run([bench, "drive", path, kind, str(times)], check=True, timeout=HANG)
            if process.wait(timeout=HANG) != 0:
                raise RuntimeError(
                    f"{counter[0]}: the back-end has ended with {process.returncode}"
                )
        finally:
            process.kill()


def system_calls(backend, bench, kind, times, folder):
    """System calls of all threads."""
    table = folder / "strace"
    counter = ["strace", "-f", "-qq", "-c", "-U", "calls,name", "-o", table]
    _drive(counter, backend, bench, kind, times, folder)
    rows = (line.split() for line in table.read_text(encoding="utf-8").splitlines())
    counts = {row[1]: int(row[0]) for row in rows if len(row) == 2 and row[0].isdigit()}
    return sum(count for name, count in counts.items() if name not in WAITING | {"total"})


def _callgrind(backend, bench, kind, times, folder):
    """The files of all threads but the main one."""
    for old in folder.glob("callgrind*"):
        old.unlink()
    counter = ["valgrind", "-q", "--tool=callgrind", "--separate-threads=yes",
               f"--callgrind-out-file={folder}/callgrind"]
    _drive(counter, backend, bench, kind, times, folder)
    files = folder.glob("callgrind-*")
    return [file for file in files if int(file.name.rsplit("-", 1)[1]) > MAIN_THREAD]


def instructions(backend, bench, kind, times, folder):
    """Instructions of all threads but the main one."""
    total = 0
    for file in _callgrind(backend, bench, kind, times, folder):
        found = re.search(
            r"^(?:totals|summary): (\d+)", file.read_text(encoding="utf-8"), re.MULTILINE
        )
        total += int(found.group(1)) if found else 0
    return total


def locks(debug, bench, kind, times, folder):
    """Locks of mutexes, by a program in which the function that locks is not inlined."""
    total = 0
    for file in _callgrind(debug, bench, kind, times, folder):
        names, callee = {}, ""
        for line in file.read_text(encoding="utf-8").splitlines():
            named = re.match(r"c?fn=\((\d+)\)(?: (.*))?", line)
            if named:
                names.setdefault(named.group(1), named.group(2))
                callee = names[named.group(1)] or ""
            elif line.startswith("calls=") and re.search(r"mutex::Mutex<.*>::lock", callee):
                total += int(line[6:].split()[0])
    if total == 0:
        raise RuntimeError(f"{debug}: it has no function that locks")
    return total
