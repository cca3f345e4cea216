# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""
What QEMU and the backends have recorded of a test, against the rules of a front end
(docs/protocol.md, section 10): the program vsva-model-replay of model/ feeds it to the front
end's state machine.
"""

import subprocess

TIMEOUT = 60


class RulesBroken(Exception):
    """A step of the trace that the rules forbid."""


class Replay:
    def __init__(self, program):
        self._program = program
        self._words = []
        self._undrained = False
        self._backends = []

    def add(self, vm, backends, vsva=None):
        """A VM that has been started; the backend, or the relay before it, of each of its
        devices; their properties.
        """
        self._words += ["--qemu", vm.trace_path]
        if (vsva or {}).get("x-unsafe-no-drain") == "on":
            self._undrained = True
        for device, backend in backends.items():
            backend = getattr(backend, "backend", backend)
            self._backends.append(backend)
            self._words += ["--backend", f"{backend.event_log_path}={vm.trace_path}@{device}"]

    def check(self):
        """To be called when all of them have ended. One that was killed leaves the beginning of
        a trace.
        """
        if not self._words:
            return
        for backend in self._backends:
            backend.events.wait_end(TIMEOUT)
        command = [self._program, *self._words, *(["--without-drain"] if self._undrained else [])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        if done.returncode:
            raise RulesBroken((done.stderr or done.stdout).strip())
