"""The thread that writes recordings. Steps never wait for it: what does not fit is lost."""

from __future__ import annotations

import os
import queue
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from legato.observe.log import get_logger
from legato.recorder.frames import MAGIC, whole_size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = get_logger()

MOST_QUEUED_BYTES = 64 * 1024 * 1024
MOST_QUEUED = 10_000
MOST_OPEN = 64


class Job(NamedTuple):
    """Something to append to a file.

    Attributes:
        path: The file.
        make: Makes the pieces, in the thread.
        nbytes: About how much memory it holds until then.
        failed: Called in the thread if it could not be written.
        limit: Bytes that the file may have; 0 = any.
    """

    path: Path
    make: Callable[[], list[bytes]]
    nbytes: int
    failed: Callable[[str], None]
    limit: int = 0


class Writer:
    """Appends to files, in the order of the jobs.

    Args:
        most_bytes: Bound on what waits.
        most_jobs: Bound on how many wait.
    """

    def __init__(
        self, *, most_bytes: int = MOST_QUEUED_BYTES, most_jobs: int = MOST_QUEUED
    ) -> None:
        self._most_bytes = most_bytes
        self._most_jobs = most_jobs
        self._jobs: queue.SimpleQueue[Job | threading.Event | None] = queue.SimpleQueue()
        # Each is written by one thread only; their difference is what waits.
        self._taken = self._taken_bytes = 0
        self._done = self._done_bytes = 0
        self._files: OrderedDict[Path, int] = OrderedDict()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Writer waiting={self._taken - self._done}>"

    def put(self, job: Job) -> bool:
        """Take a job without waiting; false if there is no room for it."""
        waiting = self._taken_bytes - self._done_bytes
        if self._taken - self._done >= self._most_jobs or waiting + job.nbytes > self._most_bytes:
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="legato-recorder", daemon=True)
            self._thread.start()
        self._taken += 1
        self._taken_bytes += job.nbytes
        self._jobs.put(job)
        return True

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until what was taken so far is written; false if that takes too long."""
        if self._thread is None:
            return True
        reached = threading.Event()
        self._jobs.put(reached)
        return reached.wait(timeout_s)

    def close(self) -> None:
        """Write what is left and close all files."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, threading.Event):
                job.set()
                continue
            try:
                self._write(job)
            except Exception as error:
                # A full disk, or something that no frame can hold: it ends this recording only.
                log.exception("recording_failed", file=str(job.path))
                job.failed(str(error))
                self._forget(job.path)
            self._done += 1
            self._done_bytes += job.nbytes
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def _write(self, job: Job) -> None:
        file = self._open(job.path)
        pieces = job.make()
        start = os.lseek(file, 0, os.SEEK_END)
        if job.limit and start + sum(map(len, pieces)) > job.limit:
            job.failed(f"the recording has reached its limit of {job.limit} bytes")
            return
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(file, view) :]

    def _open(self, path: Path) -> int:
        file = self._files.get(path)
        if file is not None:
            self._files.move_to_end(path)
            return file
        path.parent.mkdir(parents=True, exist_ok=True)
        size = whole_size(path) if path.exists() else 0
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._files[path] = file
        os.ftruncate(file, size)  # a frame that was torn when the process died
        if not size:
            os.write(file, MAGIC)
        if len(self._files) > MOST_OPEN:
            os.close(self._files.popitem(last=False)[1])
        return file

    def _forget(self, path: Path) -> None:
        file = self._files.pop(path, None)
        if file is not None:
            os.close(file)
