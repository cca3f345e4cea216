# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The guest program: a command a line over its virtio-serial port, a JSON object a line back."""

import json
import time

from .journal import Journal, LineReader

COMMAND_TIMEOUT = 30


class GuestError(Exception):
    """The guest program refused a command, or answered something that is not JSON."""


class Guest:
    def __init__(self, name, sock, log_path):
        self.name = name
        self._sock = sock
        self.lines = Journal(f"{name} guest")
        LineReader(sock.fileno(), log_path, self.lines, self._parse)

    @staticmethod
    def _parse(line):
        if not line.strip():
            return None
        try:
            record = json.loads(line)
        except ValueError:
            record = {"ok": False, "error": f"not JSON: {line!r}"}
        record["time"] = time.time()
        return record

    def wait_ready(self, timeout=60, since=0):
        """The program has opened its port: after the boot, and again after each reboot."""
        self.lines.wait(lambda line: line.get("event") == "ready", "the guest program", timeout, since)

    def ask(self, command, timeout=COMMAND_TIMEOUT):
        """Send a command; its answer, whatever it says."""
        since = len(self.lines)
        self._sock.sendall(command.encode() + b"\n")
        return self.lines.wait(lambda line: "event" not in line, f"the answer to '{command}'", timeout, since)[1]

    def cmd(self, command, timeout=COMMAND_TIMEOUT):
        """Send a command that must succeed."""
        answer = self.ask(command, timeout)
        if answer.get("ok") is not True:
            raise GuestError(f"{self.name} guest: '{command}' answered {answer}")
        return answer

    def wait(self, what, timeout=30):
        """Wait in the guest for "idle", "completed=N" or "waiters=N"."""
        return self.cmd(f"wait {what} timeout={int(timeout * 1000)}", timeout + 10)

    def verify(self):
        """Every finished request: data, checksum, executed once, in order."""
        return self.cmd("verify", 120)

    def close(self):
        self._sock.close()
