# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The vhost-user-vsva process and its event log."""

import json
import os
import signal

from . import process
from .journal import Journal, LineReader


class StartedByQemu:
    """A program that QEMU starts itself, with options or, as on the shortest command line,
    without.
    """

    def __init__(self, program, *options):
        self.program = program
        self.options = options


class Backend:
    """
    Started at once; ready (socket bound, listening) when the constructor returns. With
    reconnect_ms, QEMU connects again when the connection has ended.
    """

    reconnect_ms = None

    def __init__(self, binary, name, folder, sockets, options=()):
        self.name = name
        self.socket_path = sockets / f"{name}.sock"
        self.events = Journal(f"{name} event log")
        self.log_path = folder / f"{name}.log"
        reader, writer = os.pipe()
        command = [binary, "--socket-path", self.socket_path, "--event-log", f"/dev/fd/{writer}",
                   "--log-level", "debug", *options]
        self.process = process.start(command, self.log_path, [writer])
        os.close(writer)
        self.event_log_path = folder / f"{name}-events.jsonl"
        LineReader(reader, self.event_log_path, self.events, self._parse)
        os.close(reader)
        try:
            self.wait("listening", 10)
        except Exception:
            self.kill()
            raise

    @staticmethod
    def _parse(line):
        if not line:
            return None
        record = json.loads(line)
        record["time"] = record.pop("t_us") / 1e6
        return record

    def wait(self, event, timeout, since=0, **ids):
        def match(record):
            return record["event"] == event and all(
                record.get(key) == value for key, value in ids.items()
            )
        return self.events.wait(match, f"{event} {ids or ''}".strip(), timeout, since)[1]

    def find(self, event, since=0):
        return [record for record in self.events.all(since) if record["event"] == event]

    def freeze(self):
        """It hangs: none of its threads runs any more when this returns."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        """End it as a crash would."""
        process.kill(self.process)

    def stop(self):
        """End it as an administrator would; its exit status."""
        self.thaw()
        return process.end(self.process)
