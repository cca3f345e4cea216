# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Programs that run in the host, as the ones of this machine look."""

import json
import signal
import subprocess

from avocado_vsva import process
from avocado_vsva.backend import Backend
from avocado_vsva.journal import Journal, LineReader

from . import environment

# An emulated host is slow to end a program whose memory is pinned.
WAIT_AT_LEAST = 60


class RemoteProcess:
    """What of subprocess.Popen is used."""

    def __init__(self, host, pid):
        self.pid = pid
        self.returncode = None
        self._host = host

    def _ended(self, reply):
        return reply.get("event") == "exit" and reply["pid"] == self.pid

    def _take(self, reply):
        self.returncode = reply["code"] if "code" in reply else -reply.get("signal", 1)
        return self.returncode

    def poll(self):
        if self.returncode is None:
            for reply in self._host.replies.all():
                if self._ended(reply):
                    return self._take(reply)
            if self._host.process.poll() is not None:
                self.returncode = -signal.SIGKILL
        return self.returncode

    def wait(self, timeout):
        timeout = max(timeout, WAIT_AT_LEAST)
        if self.poll() is None:
            try:
                self._take(
                    self._host.replies.wait(self._ended, f"process {self.pid} to end", timeout)[1]
                )
            except Exception as error:
                raise subprocess.TimeoutExpired(f"process {self.pid} of L1", timeout) from error
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            self._host.request("signal", pid=self.pid, signal=int(number))

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class RemoteBackend(Backend):
    """The release binary in the host, with its default confinement; on the socket of another one
    that it follows.
    """

    def __init__(
        self, host, name, folder, options=(), follows=None
    ):  # pylint: disable=super-init-not-called
        self.name = name
        self._host = host
        self.socket_path = follows.socket_path if follows else f"/run/{name}.sock"
        self.events = Journal(f"{name} event log")
        self.log_path = folder / f"{name}.log"
        self.event_log_path = folder / f"{name}-events.jsonl"
        port = host.new_backend_port()
        LineReader(host.ports[port].fileno(), self.event_log_path, self.events, self._parse)
        command = [
            environment.BACKEND,
            "--socket-path",
            self.socket_path,
            "--event-log",
            f"/run/ports/{port}",
            "--log-level",
            "debug",
            *options,
        ]
        self.process = host.start(command, f"/run/{name}.log")
        try:
            self.wait("listening", 60)
        except Exception:
            self.kill()
            raise

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def kill(self):
        super().kill()
        self._keep_log()

    def stop(self):
        status = super().stop()
        self._keep_log()
        return status

    def _keep_log(self):
        if self._host.process.poll() is None:
            self.log_path.write_text(self._host.read(f"/run/{self.name}.log"), encoding="utf-8")
            self.events.end("the back-end has ended")
