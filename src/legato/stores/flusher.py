"""The background half of the SQLite store: flushes and checkpoints, never in a commit.

At level ``process`` a commit ends in the page cache; a flush every tenth of a
second bounds what a loss of power can cost to a short tail. Checkpoints move the
write-ahead log into the database file, over a connection of their own.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_INTERVAL_S = 0.1
_CHECKPOINT_BYTES = 4 * 1024 * 1024
_LAGGING_PAGES = 16_384


class Flusher:
    """A thread that starts with the first write and sleeps while there is none.

    Attributes:
        problem: Why nothing more may be written; "" = all is well. A failed flush is
            final: what it should have written may be lost, and asking again would
            say otherwise.
        lagging: The write-ahead log grows faster than it is moved; the writer itself
            should help at a quiet moment.
    """

    def __init__(self, database: Path, *, flush: bool) -> None:
        self.problem = ""
        self.lagging = False
        self._database = database
        self._log = database.with_name(database.name + "-wal")
        self._flush = flush
        self._bytes = 0
        self._dirty = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"Flusher(running={self._thread is not None}, problem={self.problem!r})"

    def written(self, size: int) -> None:
        """Note that a transaction of about ``size`` bytes was committed."""
        self._bytes += size
        if not self._dirty.is_set():
            self._dirty.set()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="legato-sqlite-flush", daemon=True
                )
                self._thread.start()

    def fail(self, problem: str) -> None:
        """Note that a flush has failed, here or in the writer."""
        self.problem = self.problem or problem

    def stop(self) -> None:
        """Wait for what is under way and end the thread."""
        self._stopping.set()
        self._dirty.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def flush(self) -> None:
        """Flush the write-ahead log; a failure is kept in :attr:`problem`."""
        try:
            file = os.open(self._log, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(file)
            finally:
                os.close(file)
        except FileNotFoundError:
            return  # nothing was written since the last checkpoint
        except OSError as error:
            self.fail(f"a flush of {self._log} failed: {error}")

    def checkpoint(self, connection: sqlite3.Connection) -> None:
        """Move what is committed into the database file, without holding up the writer."""
        self._bytes = 0
        try:
            _, pages, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.OperationalError as error:
            # A full disk stops checkpoints but loses nothing: the log still holds it all.
            if error.sqlite_errorcode == sqlite3.SQLITE_IOERR_FSYNC:
                self.fail(f"a flush of {self._database} failed: {error}")
            return
        self.lagging = pages - moved > _LAGGING_PAGES

    def _work(self) -> None:
        connection: sqlite3.Connection | None = None
        while not self.problem:
            self._dirty.wait()
            if self._stopping.wait(_INTERVAL_S):
                break
            self._dirty.clear()
            if self._stopping.is_set():  # it may have come just before the clear
                break
            if self._flush:
                self.flush()
            if self._bytes >= _CHECKPOINT_BYTES:
                connection = connection or sqlite3.connect(self._database, isolation_level=None)
                self.checkpoint(connection)
        if connection is not None:
            connection.close()
