"""The waiting that no batch should do: a thread for flushes in the background.

At level ``process`` a commit ends in the page cache, which survives the death of the
process; flushing every tenth of a second bounds what a loss of power can cost. At every
level a checkpoint is put in place here, because flushing it can take long.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from legato.stores.base import StoreFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.stores.log.segments import Segments


class BackgroundFlush:
    """A thread that starts with the first write and sleeps while there is none.

    A flush that fails is noted by the segments, which then refuse everything; the
    committing thread learns it there.

    Args:
        segments: What is flushed.
        interval_s: Seconds from a write to its flush.
    """

    def __init__(self, segments: Segments, interval_s: float) -> None:
        self._segments = segments
        self._interval_s = interval_s
        self._written = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._job: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"BackgroundFlush(running={self._thread is not None})"

    def wake(self) -> None:
        """Note that something was written."""
        if not self._written.is_set():
            self._written.set()
            self._start()

    def submit(self, job: Callable[[], None]) -> bool:
        """Run a job there soon; false if one is waiting already."""
        if self._job is not None:
            return False
        self._job = job
        self.wake()
        return True

    def stop(self) -> None:
        """End the thread; what is written is the caller's to flush."""
        self._stopping.set()
        self._written.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="legato-flush", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._written.wait()
            self._stopping.wait(self._interval_s)
            self._written.clear()
            self._run_job()
            # Once failed it fails at once, without trying again; the next commit tells.
            with contextlib.suppress(StoreFailedError):
                self._segments.flush()
        self._run_job()

    def _run_job(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            job()
