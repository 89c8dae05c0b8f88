"""Flushes and checkpoints of the SQLite store."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from legato.stores import flusher as module
from legato.stores.flusher import Flusher


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "test.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("CREATE TABLE t (a BLOB)")
        db.execute("INSERT INTO t VALUES (zeroblob(20000))")
        yield path, db


def test_flush_syncs_the_write_ahead_log(database, monkeypatch) -> None:
    """And nothing else: the database file is flushed by checkpoints."""
    path, _ = database
    synced = []
    monkeypatch.setattr(
        module.os, "fdatasync", lambda file: synced.append(Path(f"/proc/self/fd/{file}").readlink())
    )
    flusher = Flusher(path, flush=True)

    flusher.flush()

    assert synced == [Path(f"{path}-wal")]
    assert flusher.problem == ""


def test_failed_flush_is_final(database, monkeypatch) -> None:
    """The first problem is kept; a later flush that works does not take it back."""
    path, _ = database

    def fail(_file: int) -> None:
        raise OSError(5, "Input/output error")

    flusher = Flusher(path, flush=True)
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fdatasync", fail)
        flusher.flush()
    flusher.flush()

    assert "Input/output error" in flusher.problem
    assert str(path) in flusher.problem


def test_flush_without_a_log_is_none(tmp_path) -> None:
    """Nothing written is nothing to flush."""
    flusher = Flusher(tmp_path / "none.sqlite", flush=True)

    flusher.flush()

    assert flusher.problem == ""


def test_checkpoint_moves_the_log_into_the_file(database) -> None:
    """Over a connection of its own; the writer's stays as it is."""
    path, _ = database
    before = path.stat().st_size
    flusher = Flusher(path, flush=True)

    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        flusher.checkpoint(other)

    assert path.stat().st_size >= before + 20000
    assert not flusher.lagging


def test_checkpoint_that_cannot_keep_up_says_so(database, monkeypatch) -> None:
    """A reader of old pages holds up checkpoints; the writer is asked to help."""
    path, db = database
    monkeypatch.setattr(module, "_LAGGING_PAGES", 2)
    flusher = Flusher(path, flush=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchone()
        db.execute("INSERT INTO t VALUES (zeroblob(40000))")

        flusher.checkpoint(db)
        held_up = flusher.lagging
        reader.execute("COMMIT")
        flusher.checkpoint(db)

    assert (held_up, flusher.lagging) == (True, False)


def test_stopping_is_safe_at_any_moment(database) -> None:
    """Never started, just started, or in the middle of its work: it ends."""
    path, _ = database
    Flusher(path, flush=True).stop()
    for _ in range(20):
        flusher = Flusher(path, flush=True)
        flusher.written(10)
        flusher.stop()

        assert repr(flusher) == "Flusher(running=False, problem='')"


def test_stop_between_the_wait_and_the_work_ends_the_thread(database, monkeypatch) -> None:
    """A stop that comes just before the note of new work is wiped out is not lost."""
    path, _ = database
    flusher = Flusher(path, flush=True)
    flusher._dirty.set()

    def stop_while_waiting(_timeout: float) -> bool:
        flusher._stopping.set()  # ... after the wait has already answered "no"
        flusher._dirty.set()
        return False

    monkeypatch.setattr(flusher._stopping, "wait", stop_while_waiting)

    flusher._work()

    assert not flusher._dirty.is_set()
