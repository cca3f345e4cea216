# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A growing list of records that threads can wait on, and readers that fill one from a file
descriptor.
"""

import os
import threading
import time


# What each limit is multiplied by, where all takes longer.
PATIENCE = 1


class WaitError(Exception):
    """What was waited for did not come."""


class Journal:
    """Records in order of arrival. Every wait is bounded, and ends at once when the source has
    ended.
    """

    def __init__(self, name):
        self.name = name
        self._records = []
        self._ended = None
        self._changed = threading.Condition()

    def __len__(self):
        with self._changed:
            return len(self._records)

    def all(self, since=0):
        with self._changed:
            return self._records[since:]

    def append(self, record):
        with self._changed:
            self._records.append(record)
            self._changed.notify_all()

    def end(self, reason):
        with self._changed:
            self._ended = self._ended or reason
            self._changed.notify_all()

    def wait_end(self, timeout):
        """Wait until the source has ended."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended is not None, timeout * PATIENCE):
                raise WaitError(f"{self.name}: it has not ended within {timeout:g} s")

    def _find(self, match, since):
        for index in range(since, len(self._records)):
            if match(self._records[index]):
                return index
        return None

    def wait(self, match, what, timeout, since=0):
        """Index and record of the first record from `since` on for which match() is true."""
        deadline = time.monotonic() + timeout * PATIENCE
        with self._changed:
            looked_at = since
            while True:
                index = self._find(match, looked_at)
                if index is not None:
                    return index, self._records[index]
                looked_at = max(since, len(self._records))
                left = deadline - time.monotonic()
                if self._ended is None and left > 0:
                    self._changed.wait(left)
                    continue
                why = self._ended or f"nothing within {timeout:g} s"
                last = "".join(f"\n    {record}" for record in self._records[-8:])
                raise WaitError(
                    f"{self.name}: waited for {what}: {why}; the last records:{last or ' none'}"
                )

    def absent(self, match, duration, since=0):
        """Watch for `duration` seconds; the record that should not have come, or None."""
        deadline = time.monotonic() + duration
        with self._changed:
            while True:
                index = self._find(match, since)
                if index is not None:
                    return self._records[index]
                left = deadline - time.monotonic()
                if left <= 0 or self._ended is not None:
                    return None
                self._changed.wait(left)


class LineReader(threading.Thread):
    """Copies what arrives on a descriptor (its own duplicate) to a log file, and line by line
    into a journal.
    """

    def __init__(self, fd, log_path, journal, parse):
        super().__init__(name=f"read {journal.name}", daemon=True)
        self._fd = os.dup(fd)
        self._log_path = log_path
        self._journal = journal
        self._parse = parse
        self.start()

    def run(self):
        rest = b""
        with open(self._log_path, "ab", buffering=0) as log:
            while True:
                try:
                    chunk = os.read(self._fd, 65536)
                except OSError:
                    chunk = b""
                if not chunk:
                    break
                log.write(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    record = self._parse(line.decode("utf-8", "replace").rstrip("\r"))
                    if record is not None:
                        self._journal.append(record)
        os.close(self._fd)
        self._journal.end("it has ended")
