# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""
Stands between QEMU and a backend's vhost-user socket, and stops the backend (SIGSTOP) in
front of a request.

The rings, the attach channel and the state pipe do not pass here: their descriptors do.
"""

import os
import socket
import struct
import threading

HEADER = struct.Struct("<III")
MAX_FDS = 16

GET_FEATURES = 1
GET_VRING_BASE = 11
SET_DEVICE_STATE_FD = 42
CHECK_DEVICE_STATE = 43


class Relay:
    """To be given to a Vm in the backend's place."""

    def __init__(self, backend, sockets):
        self.backend = backend
        self.socket_path = sockets / f"{backend.name}-relay.sock"
        self.stopped = threading.Event()
        self._stop_at = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket_path))
        self._listener.listen(1)
        threading.Thread(target=self._run, name=f"relay {backend.name}", daemon=True).start()

    def stop_at(self, request):
        """Stop the backend in front of QEMU's next request of this kind."""
        self._stop_at = request

    def close(self):
        self._listener.close()

    def _run(self):
        try:
            front, _ = self._listener.accept()
        except OSError:
            return
        with front, socket.socket(socket.AF_UNIX) as back:
            back.connect(str(self.backend.socket_path))
            replies = threading.Thread(
                target=self._pump, args=(back, front, lambda request: None), daemon=True
            )
            replies.start()
            self._pump(front, back, self._look)
            replies.join()

    def _look(self, request):
        if request == self._stop_at:
            self.backend.freeze()
            self.stopped.set()

    @staticmethod
    def _pump(source, sink, look):
        try:
            while True:
                data, fds = Relay._message(source)
                if not data:
                    break
                look(HEADER.unpack_from(data)[0])
                socket.send_fds(sink, [data], fds)
                for fd in fds:
                    os.close(fd)
        except OSError:
            pass   # one side has gone: so does the other one's connection
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass   # it has gone already

    @staticmethod
    def _message(source):
        data, fds, _, _ = socket.recv_fds(source, HEADER.size, MAX_FDS)
        while data and (missing := Relay._missing(data)) > 0:
            more = source.recv(missing)
            if not more:
                return b"", fds
            data += more
        return data, fds

    @staticmethod
    def _missing(data):
        if len(data) < HEADER.size:
            return HEADER.size - len(data)
        return HEADER.size + HEADER.unpack_from(data)[2] - len(data)
