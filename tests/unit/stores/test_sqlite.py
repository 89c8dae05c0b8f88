"""The SQLite store beyond the contract: damage, full disks, levels and versions."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3

import pytest

from legato.core.errors import ConfigError, StateDamagedError, StorageFullError
from legato.core.types import EndReason, Receipt, SequenceKey, StateRow
from legato.stores.base import Commit, Conflict, Damaged, Gone, Missing, Ok, StoreFailedError
from legato.stores.sqlite import SqliteStore
from legato.stores.sqlite_file import FILE

A, B = SequenceKey("m", 1), SequenceKey("m", "two")
X, Y = b"x" * 16, b"y" * 16


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def store(folder, clock):
    opened = SqliteStore(folder, clock=clock)
    yield opened
    opened.close()


def commit(key: SequenceKey, step: int, incarnation: bytes = X, **changes) -> Commit:
    made = Commit(
        key, incarnation, 1, step, (Receipt(step, b"r%d" % step, b"d", b"reply"),),
        StateRow((b"%016d" % step,), ((1, 4),)), step == 1, b"", None,
        "1", "d", "kserve", 60.0, "",
    )  # fmt: skip
    return made._replace(**changes)


def damage(store: SqliteStore, key: SequenceKey) -> None:
    """Flip one bit in the middle of a record, behind the store's back."""
    with contextlib.closing(sqlite3.connect(store._file.path, isolation_level=None)) as db:
        for row, blob in db.execute("SELECT id, record FROM sequences").fetchall():
            name = str(key.correlation_id).encode() if isinstance(key.correlation_id, str) else None
            number = key.correlation_id.to_bytes(8, "little") if name is None else b"?" * 9
            if (name or number) in blob[:120]:
                middle = len(blob) // 2
                bad = blob[:middle] + bytes([blob[middle] ^ 4]) + blob[middle + 1 :]
                db.execute("UPDATE sequences SET record = ? WHERE id = ?", (bad, row))


# -- damage -------------------------------------------------------------------------------


def test_damaged_record_is_refused_and_others_go_on(store) -> None:
    """It is named, never continued and never replaced by a fresh one."""
    store.commit([commit(A, 1), commit(B, 1)])
    damage(store, B)

    assert isinstance(store.read(B), Damaged)
    assert isinstance(store.acquire(B, "a"), Damaged)
    assert store.commit([commit(B, 1, Y), commit(A, 2)]) == [Conflict(1), Ok("process")]
    assert [row.key for row in store.list()] == [A]
    assert "m/'two'" in store.statistics().problem
    assert store.statistics().writable
    with pytest.raises(StateDamagedError):
        store.fork(B, 1, SequenceKey("m", 3), Y)


def test_owner_with_a_whole_copy_heals_a_damaged_record(store) -> None:
    """The next commit writes state and receipts anew, so nothing of the old is needed."""
    store.commit([commit(A, 1), commit(B, 1)])
    damage(store, B)
    store.read(B)

    results = store.commit([commit(B, 2)])

    assert results == [Ok("process")]
    assert store.read(B)[1].data == (b"%016d" % 2,)
    assert store.statistics().problem == ""


def test_damaged_record_can_be_given_up(store) -> None:
    """By deleting the incarnation that the columns still name."""
    store.commit([commit(B, 1)])
    damage(store, B)

    result = store.delete(B, X, EndReason.CANCELLED)

    assert result == Ok("process")
    assert store.read(B).head.ending.reason is EndReason.CANCELLED
    assert store.commit([commit(B, 1, Y)]) == [Ok("process")]


def test_damaged_tombstone_is_as_good_as_none(store) -> None:
    """Of the dead there is nothing to lose, and their id is free."""
    store.commit([commit(B, 1, end=EndReason.ENDED)])
    damage(store, B)

    assert store.read(B) == Missing(None)
    assert store.commit([commit(B, 2), commit(B, 1, Y)]) == [Gone(None), Ok("process")]


def test_record_in_a_wrong_row_is_damage(store) -> None:
    """A whole record of another sequence is no state of this one."""
    store.commit([commit(A, 1), commit(B, 1)])
    with contextlib.closing(sqlite3.connect(store._file.path, isolation_level=None)) as db:
        db.execute("UPDATE sequences SET record = (SELECT record FROM sequences ORDER BY id)")

    assert not isinstance(store.read(A), Damaged)
    assert store.read(B) == Damaged("the record does not belong to its row")


def test_sweep_leaves_damaged_records_to_a_person(store, clock) -> None:
    """They neither expire nor stop the sweep."""
    store.commit([commit(A, 1), commit(B, 1)])
    damage(store, B)
    clock.now += 61.0

    first, second = store.sweep(10, ()), store.sweep(10, ())

    assert [key for key, _ in first] == [A]
    assert second == []
    assert isinstance(store.read(B), Damaged)


def test_file_that_is_no_database_refuses_to_open(store, folder, clock) -> None:
    """With its name and what to do; and the folder is free again."""
    store.close()
    whole = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(b"garbage" * 1000)

    with pytest.raises(ConfigError, match=FILE) as refused:
        SqliteStore(folder, clock=clock)

    assert refused.value.fix
    (folder / FILE).write_bytes(whole)
    SqliteStore(folder, clock=clock).close()


def test_tables_of_another_version_are_refused(store, folder, clock) -> None:
    """Both versions are named, and the file stays as it is."""
    store.close()
    with contextlib.closing(sqlite3.connect(folder / FILE, isolation_level=None)) as db:
        db.execute("PRAGMA user_version=99")
    before = (folder / FILE).read_bytes()

    with pytest.raises(ConfigError, match=r"version 99.* version 1"):
        SqliteStore(folder, clock=clock)

    assert (folder / FILE).read_bytes() == before


def test_folder_of_the_log_is_refused(folder, clock) -> None:
    """A change of ``--store`` must not look like the loss of all sequences."""
    folder.mkdir()
    (folder / "FORMAT").write_text("legato log 1\n")

    with pytest.raises(ConfigError, match="legato log 1"):
        SqliteStore(folder, clock=clock)

    assert not (folder / FILE).exists()


# -- full disks and failed flushes --------------------------------------------------------------


def test_full_disk_changes_nothing_and_passes(store) -> None:
    """The whole batch is refused, health says so, and it recovers when there is room again."""
    store.commit([commit(A, 1)])
    big = StateRow((bytes(1_000_000),), ((1, 250_000),))
    pages = store._file.rows("PRAGMA page_count")[0][0]
    store._file.rows(f"PRAGMA max_page_count={pages + 2}")

    with pytest.raises(StorageFullError) as refused:
        store.commit([commit(A, 2), commit(B, 1, state=big)])

    full = store.statistics()
    assert refused.value.retry_after_s
    assert store.read(A)[0].step == 1
    assert store.read(B) == Missing(None)
    assert (full.live, full.writable) == (1, False)
    assert "full" in full.problem
    store._file.rows("PRAGMA max_page_count=1000000")
    assert store.commit([commit(A, 2), commit(B, 1, state=big)]) == [Ok("process")] * 2
    assert store.statistics().writable
    assert store.live("m") == 2


def test_after_a_failed_flush_nothing_is_taken(store) -> None:
    """What was acknowledged may be lost on the disk; only a restart can tell."""
    store.commit([commit(A, 1)])

    store._file.flusher.fail("a flush failed")

    with pytest.raises(StoreFailedError, match="a flush failed"):
        store.commit([commit(A, 2)])
    assert not store.statistics().writable
    assert store.read(A)[0].step == 1


# -- levels ------------------------------------------------------------------------


def synchronous(store: SqliteStore) -> int:
    return store._file.rows("PRAGMA synchronous")[0][0]


def test_level_disk_flushes_every_commit(folder, clock) -> None:
    """And is kept off the event loop."""
    store = SqliteStore(folder, clock=clock, level="disk")

    results = store.commit([commit(A, 1), commit(B, 1, level="process")])

    assert synchronous(store) == 2
    assert results == [Ok("disk")] * 2
    assert not store.inline
    store.close()


def test_one_sequence_may_ask_for_the_disk(store) -> None:
    """Its batch is flushed, the next one is not."""
    statements: list[str] = []
    store._file._db.set_trace_callback(statements.append)

    store.commit([commit(A, 1), commit(B, 1, level="disk")])

    begin = statements.index("BEGIN IMMEDIATE")
    assert "PRAGMA synchronous=FULL" in statements[:begin]
    assert statements.index("PRAGMA synchronous=NORMAL") > statements.index("COMMIT")
    assert (synchronous(store), store.inline) == (1, True)


def test_level_that_it_cannot_keep_is_refused(folder, clock) -> None:
    """A level is never lowered silently."""
    with pytest.raises(ConfigError, match="replicated"):
        SqliteStore(folder, clock=clock, level="replicated")

    assert not folder.exists()


# -- time and work -----------------------------------------------------------------


def test_files_left_by_a_kill_hold_everything(store, tmp_path, clock) -> None:
    """Without a close, the write-ahead log is read and the time goes on from the last write."""
    store.commit([commit(A, 1)])
    clock.now += 40.0
    store.commit([commit(A, 2), commit(B, 1)])
    shutil.copytree(store._file.path.parent, tmp_path / "copy")
    later = FakeClock()
    later.now = 5e9

    survivor = SqliteStore(tmp_path / "copy", clock=later)

    assert [(row.key, row.head.step, row.idle_s) for row in survivor.list()] == [
        (A, 2, 0.0),
        (B, 1, 0.0),
    ]
    later.now += 60.5
    assert isinstance(survivor.read(A), Missing)
    survivor.close()


def test_commits_do_not_touch_the_index_of_deadlines(store, clock) -> None:
    """Only a sweep moves a deadline on, so a step writes one row and no index."""
    store.commit([commit(A, 1)])
    clock.now += 30.0
    store.commit([commit(A, 2)])
    kept = store._file.rows("SELECT due FROM sequences")
    clock.now += 31.0
    store.sweep(10, ())

    assert kept == [(1060.0,)]
    assert store._file.rows("SELECT due FROM sequences") == [(1090.0,)]


def test_quiet_sweep_saves_the_time_now_and_then(store, clock) -> None:
    """A kill costs a sequence at most some seconds of its remaining time."""
    store.commit([commit(A, 1)])
    clock.now += 5.0
    store.sweep(10, ())
    early = store._file.rows("SELECT time FROM store")
    clock.now += 6.0
    store.sweep(10, ())

    assert early == [(1000.0,)]
    assert store._file.rows("SELECT time FROM store") == [(1011.0,)]


def test_failed_batch_leaves_the_counts_alone(store) -> None:
    """An error in the middle of a batch undoes the entries before it."""
    unfit = commit(B, 1, incarnation=b"short")

    with pytest.raises(ValueError, match="16 bytes"):
        store.commit([commit(A, 1), unfit])

    assert store.read(A) == Missing(None)
    assert (store.live("m"), store.statistics().live) == (0, 0)


def test_repr_tells_file_and_count(store) -> None:
    """For people who debug."""
    store.commit([commit(A, 1)])

    assert repr(store) == f"SqliteStore({str(store._file.path)!r}, live=1)"
