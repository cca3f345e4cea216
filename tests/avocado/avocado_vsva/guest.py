# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The guest program: a command a line over its virtio-serial port, a JSON object a line back."""

import itertools
import json
import time

from . import journal
from .journal import Journal, LineReader

COMMAND_TIMEOUT = 30

# An answer moves with the guest: a number is given once for all machines.
_numbers = itertools.count(1)


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
        self.lines.wait(
            lambda line: line.get("event") == "ready", "the guest program", timeout, since
        )

    def tell(self, command):
        """Send a command whose answer nobody waits for; the id that the answer will carry."""
        number = str(next(_numbers))
        self._sock.sendall(f"#{number} {command}\n".encode())
        return number

    def ask(self, command, timeout=COMMAND_TIMEOUT):
        """Send a command; its answer, whatever it says."""
        since = len(self.lines)
        number = self.tell(command)
        return self.lines.wait(
            lambda line: line.get("id") == number, f"the answer to '{command}'", timeout, since
        )[1]

    def cmd(self, command, timeout=COMMAND_TIMEOUT):
        """Send a command that must succeed."""
        answer = self.ask(command, timeout)
        if answer.get("ok") is not True:
            raise GuestError(f"{self.name} guest: '{command}' answered {answer}")
        return answer

    def release_faults(self):
        """Let the held faults go on. A machine that waits for them alone may be gone before the
        answer comes.
        """
        self.tell("hold off")

    def wait(self, what, timeout=30):
        """Wait in the guest for "idle", "completed=N" or "waiters=N"."""
        return self.cmd(
            f"wait {what} timeout={int(timeout * 1000 * journal.PATIENCE)}", timeout + 10
        )

    def verify(self):
        """Every finished request: data, checksum, executed once, in order."""
        return self.cmd("verify", 120)

    def close(self):
        self._sock.close()
