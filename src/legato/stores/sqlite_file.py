"""The file of the SQLite store: lock, tables, transactions, and errors in our own words."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

from legato.core.errors import (
    ConfigError,
    ServerError,
    StateDamagedError,
    StorageFullError,
    StoreUnavailableError,
)
from legato.stores.base import StoreFailedError
from legato.stores.flusher import Flusher
from legato.stores.folder import FolderLock, claim_format

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE = "sequences.sqlite"
FORMAT = 1
"""Version of the tables (``user_version``)."""

GROWN_FORMAT = 2
"""Their version once the state of a sequence that grows is in them."""

_MARK = f"legato sqlite {FORMAT}"

# ``due`` is when to look whether a row is over, not when it is: commits do not touch it
# (nor its index), sweep moves it on. ``session`` tells owners of this opening from older ones.
_TABLES = """
CREATE TABLE sequences (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key BLOB NOT NULL UNIQUE,
    model TEXT NOT NULL,
    live INTEGER NOT NULL,
    incarnation BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    step INTEGER NOT NULL,
    owned_since REAL NOT NULL,
    session INTEGER NOT NULL,
    due REAL,
    state_bytes INTEGER NOT NULL,
    record BLOB NOT NULL
) STRICT;
CREATE INDEX alive ON sequences (model) WHERE live;
CREATE INDEX due ON sequences (due) WHERE due IS NOT NULL;
CREATE TABLE store (session INTEGER NOT NULL, time REAL) STRICT;
INSERT INTO store VALUES (0, NULL);
"""

_PARTS = """
CREATE TABLE parts (
    sequence INTEGER NOT NULL,
    number INTEGER NOT NULL,
    size INTEGER NOT NULL,
    record BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX part ON parts (sequence, number, size);
"""

_BAD_FILE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})


class SqliteFile:
    """One open database in a folder that this process holds.

    Attributes:
        session: How often the file was opened, this time included.
        saved_time: The store's time when it was last written, ``None`` = never.
        flusher: Flushes and checkpoints in the background.
        full: Why the last write found no room; "" = it did.
        grown: There is a table for the parts of states that grow.

    Raises:
        ConfigError: The folder is in use, of another format, or not a database.
    """

    def __init__(self, folder: Path, level: str) -> None:
        self.path = folder / FILE
        self.full = ""
        self.grown = False
        self._level = level
        self._lock = FolderLock(folder)
        try:
            claim_format(folder, _MARK)
            self._db = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, timeout=5.0
            )
            self.flusher = Flusher(self.path, flush=level == "process")
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise
        except (sqlite3.Error, StateDamagedError) as error:
            self._lock.release()
            raise ConfigError(
                f"the store cannot be opened: {error}",
                file=str(self.path),
                fix="restore the file from a copy, or move it away to begin with nothing",
            ) from error
        except BaseException:
            self._lock.release()
            raise

    def __repr__(self) -> str:
        return f"SqliteFile({str(self.path)!r}, open={self._lock.held})"

    def _open(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version not in (0, FORMAT, GROWN_FORMAT):
            raise ConfigError(
                f"the tables have version {version}; this version reads version {FORMAT} and "
                f"{GROWN_FORMAT}",
                file=str(self.path),
                fix="use the version of Legato that wrote them, or another folder",
            )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA wal_autocheckpoint=0")  # see Flusher
        self._db.execute("PRAGMA journal_size_limit=67108864")
        self._synchronise(full=self._level == "disk")
        if version == 0:
            with self.transaction():
                for statement in _TABLES.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={FORMAT}")
        self.grown = version == GROWN_FORMAT
        ((session, self.saved_time),) = self.rows("SELECT session, time FROM store")
        self.session: int = session + 1
        with self.transaction():
            self._db.execute("UPDATE store SET session = ?", (self.session,))

    @property
    def is_open(self) -> bool:
        """Not closed yet."""
        return self._lock.held

    @property
    def stored_bytes(self) -> int:
        """Bytes of the database and its write-ahead log."""
        log = self.path.with_name(self.path.name + "-wal")
        return sum(path.stat().st_size for path in (self.path, log) if path.exists())

    def close(self) -> None:
        """Move the write-ahead log into the file and let go of the folder."""
        self.flusher.stop()
        self._db.close()
        self._lock.release()

    def rows(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Run a query and return what it gives.

        Raises:
            StateDamagedError: The file is not a whole database.
            StoreUnavailableError: SQLite failed otherwise.
        """
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def run(self, statement: str, values: tuple[object, ...] = ()) -> None:
        """Run a statement inside :meth:`transaction`, which handles its errors."""
        self._db.execute(statement, values)

    def make_parts(self) -> None:
        """Make the table for parts of states, unless it is there; inside :meth:`transaction`."""
        if not self.grown:
            for statement in _PARTS.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version={GROWN_FORMAT}")
            self.grown = True

    @contextlib.contextmanager
    def transaction(self, *, full: bool = False) -> Iterator[None]:
        """All or nothing, flushed to the disk where ``full`` or the level asks for it.

        Raises:
            StorageFullError: No room; nothing was written.
            StoreFailedError: A flush failed, now or before; the process must exit.
            StoreUnavailableError: SQLite failed otherwise; the outcome is not known.
        """
        if self.flusher.problem:
            raise StoreFailedError(self.flusher.problem)
        raised = full and self._level != "disk"
        grown = self.grown
        try:
            if raised:
                self._synchronise(full=True)
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
            self.full = ""
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
                self.grown = grown
            if isinstance(error, sqlite3.Error):
                raise self._translated(error) from error
            raise
        finally:
            if raised:
                self._synchronise(full=False)

    def help_flusher(self) -> None:
        """Move the write-ahead log on, if the flusher falls behind; not in a commit."""
        if self.flusher.lagging:
            self.flusher.checkpoint(self._db)

    def _synchronise(self, *, full: bool) -> None:
        self._db.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")

    def _translated(self, error: sqlite3.Error) -> ServerError | StoreFailedError:
        code = getattr(error, "sqlite_errorcode", 0)
        if code in _FULL:
            self.full = f"{self.path} cannot grow: {error}"
            return StorageFullError(f"{self.full}; nothing was changed", retry_after_s=1.0)
        if code in _BAD_FILE:
            return StateDamagedError(f"{self.path} is damaged: {error}")
        if code == sqlite3.SQLITE_IOERR_FSYNC:
            self.flusher.fail(f"a flush of {self.path} failed: {error}")
            return StoreFailedError(self.flusher.problem)
        return StoreUnavailableError(f"the store failed: {error}", retry_after_s=0.2)
