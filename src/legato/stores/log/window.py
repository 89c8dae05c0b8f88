"""Reading a segment from front to back in pieces.

Not by mapping it: a bad sector would then be a signal that kills the process,
where a read is an error that can be told.
"""

from __future__ import annotations

import os

_CHUNK = 4 * 1024 * 1024


class Window:
    """A sliding piece of a file."""

    def __init__(self, fd: int, size: int, chunk: int = _CHUNK) -> None:
        self._fd = fd
        self._size = size
        self._chunk = chunk
        self.start = 0
        self.data = b""

    def reach(self, offset: int, need: int) -> int:
        """Make ``data`` hold ``need`` bytes from ``offset`` (fewer at the end of the file).

        Returns:
            Where ``offset`` lies in ``data``.
        """
        at = offset - self.start
        if at < 0 or at + min(need, self._size - offset) > len(self.data):
            wanted = min(max(need, self._chunk), self._size - offset)
            self.data = os.pread(self._fd, max(wanted, 0), offset)
            self.start = offset
            at = 0
        return at
