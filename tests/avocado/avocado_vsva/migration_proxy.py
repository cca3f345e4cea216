# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""
Stands between a source and its destination, and can stop taking what the source sends: to the
source, the destination or the network hangs. The connection stays, and so does the way back.
"""

import array
import fcntl
import socket
import termios
import threading
import time

CHUNK = 65536
LOOK = 0.05
UNCHANGED = 10     # looks


class MigrationProxy:
    def __init__(self, path, destination_path):
        self.uri = f"unix:{path}"
        self._destination_path = destination_path
        self._taking = threading.Event()
        self._taking.set()
        self._ends = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        threading.Thread(target=self._run, name="migration proxy", daemon=True).start()

    def hang(self):
        self._taking.clear()

    def wait_source_blocked(self, timeout=30):
        """Wait until the source can send nothing more: what waits here to be taken does not grow
        any longer.
        """
        deadline, last, unchanged = time.monotonic() + timeout, 0, 0
        while unchanged < UNCHANGED:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"the source has filled its connection with {last} bytes, and goes on"
                )
            waiting = array.array("i", [0])
            fcntl.ioctl(self._ends[0], termios.FIONREAD, waiting)
            unchanged = unchanged + 1 if waiting[0] == last > 0 else 0
            last = waiting[0]
            time.sleep(LOOK)

    def close(self):
        self._listener.close()
        self._taking.set()
        for end in self._ends:
            self._shut(end)

    def _run(self):
        try:
            source, _ = self._listener.accept()
        except OSError:
            return
        with source, socket.socket(socket.AF_UNIX) as destination:
            self._ends = [source, destination]
            destination.connect(str(self._destination_path))
            back = threading.Thread(
                target=self._pump, args=(destination, source, lambda taking: None), daemon=True
            )
            back.start()
            self._pump(source, destination, threading.Event.wait)
            back.join()

    def _pump(self, reader, writer, before):
        try:
            while True:
                before(self._taking)
                data = reader.recv(CHUNK)
                if not data:
                    break
                writer.sendall(data)
        except OSError:
            pass   # one side has gone: so does the other one's connection
        self._shut(reader)
        self._shut(writer)

    @staticmethod
    def _shut(end):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass   # it has gone already
