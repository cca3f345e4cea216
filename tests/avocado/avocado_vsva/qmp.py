# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""QMP with qemu.qmp in a thread of its own, so that events are taken the moment they come."""

import asyncio
import threading
from dataclasses import dataclass, field

from qemu.qmp import QMPClient
from qemu.qmp.qmp_client import ExecuteError

from . import journal
from .journal import Journal, WaitError

COMMAND_TIMEOUT = 30

__all__ = ["ExecuteError", "Qmp", "QmpEvent"]


@dataclass(frozen=True)
class QmpEvent:
    """An event with QEMU's own time stamp (seconds since 1970)."""
    time: float
    name: str
    data: dict = field(default_factory=dict)


class Qmp:
    def __init__(self, name, sock, timeout=COMMAND_TIMEOUT):
        self.name = name
        self.events = Journal(f"{name} QMP events")
        self._client = QMPClient(name)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"qmp {name}", daemon=True
        )
        self._thread.start()
        self._watcher = None
        self._call(self._connect(sock), timeout)

    def _call(self, coroutine, timeout):
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout * journal.PATIENCE)
        except TimeoutError:
            future.cancel()
            raise WaitError(f"{self.name}: no answer on QMP within {timeout:g} s") from None

    async def _connect(self, sock):
        await self._client.connect(sock)
        self._watcher = asyncio.ensure_future(self._watch())

    async def _watch(self):
        try:
            async for event in self._client.events:
                stamp = event["timestamp"]
                self.events.append(QmpEvent(stamp["seconds"] + stamp["microseconds"] / 1e6,
                                            event["event"], dict(event.get("data", {}))))
        finally:
            self.events.end("QMP has ended")

    def cmd(self, command, timeout=COMMAND_TIMEOUT, **arguments):
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        return self._call(self._client.execute(command, arguments), timeout)

    def yank_migration(self):
        """Break the migration's connection; executed at once, even if QEMU's main loop is held."""
        self._call(
            self._client.execute("yank", {"instances": [{"type": "migration"}]}, oob=True),
            COMMAND_TIMEOUT,
        )

    def hmp(self, line):
        return self._call(
            self._client.execute("human-monitor-command", {"command-line": line}), COMMAND_TIMEOUT
        )

    def wait(self, name, timeout, since=0, **data):
        """The first event of this name, from record `since` on, whose data has these values."""
        wanted = {key.replace("_", "-"): value for key, value in data.items()}

        def match(event):
            return event.name == name and all(
                event.data.get(key) == value for key, value in wanted.items()
            )

        return self.events.wait(match, f"{name} {wanted or ''}".strip(), timeout, since)[1]

    def find(self, name, since=0):
        return [event for event in self.events.all(since) if event.name == name]

    def close(self):
        async def finish():
            try:
                await self._client.disconnect()
            except Exception:  # pylint: disable=broad-except
                pass           # QEMU has gone: that is how most VMs end
            if self._watcher:
                self._watcher.cancel()
                await asyncio.gather(self._watcher, return_exceptions=True)
        if self._loop.is_closed():
            return
        try:
            self._call(finish(), 5)
        except WaitError:
            pass
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()
