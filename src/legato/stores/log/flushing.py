"""The background flush of level ``process``.

A commit there ends in the page cache, which survives the death of the process.
Flushing every tenth of a second bounds what a loss of power can cost.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from legato.stores.log.segments import StoreFailedError

if TYPE_CHECKING:
    from legato.stores.log.segments import Segments


class BackgroundFlush:
    """A thread that starts with the first write and sleeps while there is none.

    A flush that fails is noted by the segments, which then refuse everything; the
    committing thread learns it there.
    """

    def __init__(self, segments: Segments, interval_s: float) -> None:
        self._segments = segments
        self._interval_s = interval_s
        self._written = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"BackgroundFlush(running={self._thread is not None})"

    def wake(self) -> None:
        """Note that something was written."""
        if self._written.is_set():
            return
        self._written.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="legato-flush", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread; what is written is the caller's to flush."""
        self._stopping.set()
        self._written.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while True:
            self._written.wait()
            if self._stopping.wait(self._interval_s):
                return
            self._written.clear()
            try:
                self._segments.flush()
            except StoreFailedError:
                return
