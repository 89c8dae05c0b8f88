"""States that grow, in SQLite: written in parts, read as one, refused when a part is wrong."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from legato.core.errors import StateDamagedError, StorageFullError
from legato.core.pages import Added, GrownRow, Pages
from legato.core.types import EndReason, Receipt, SequenceKey, StateRow
from legato.stores import sqlite_parts
from legato.stores.base import Commit, Damaged, Ok, Owned
from legato.stores.sqlite import SqliteStore

A, B = SequenceKey("m", 1), SequenceKey("m", "two")
X, Y = b"x" * 16, b"y" * 16
CONSTANT = b"constant" * 500


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def store(folder):
    opened = SqliteStore(folder, clock=FakeClock())
    yield opened
    opened.close()


def grown(step: int) -> GrownRow:
    pages = Pages((), 2, 8)
    for number in range(step):
        pages = pages.add(bytes([number % 256]) * 16)
    row = GrownRow((pages, CONSTANT), ((1, 2, step, 8), (1, 1000)))
    row.change = (Added(2, bytes([(step - 1) % 256]) * 16), None)
    return row


def commit(key: SequenceKey, step: int, **changes) -> Commit:
    made = Commit(
        key, X, 1, step, (Receipt(step, b"", b"", b"reply"),), grown(step), step == 1, b"", None,
        "1", "d", "kserve", 0.0, "",
    )  # fmt: skip
    return made._replace(**changes)


def grow(store: SqliteStore, key: SequenceKey, *steps: int, **changes) -> None:
    for step in steps:
        assert store.commit([commit(key, step, **changes)]) == [Ok("process")]


def parts(store: SqliteStore) -> int:
    if not store._file.grown:
        return 0
    ((count,),) = store._file.rows("SELECT count(*) FROM parts")
    return count


def newest_size(store: SqliteStore) -> int:
    ((size,),) = store._file.rows("SELECT length(record) FROM sequences")
    return size


def alter(store: SqliteStore, statement: str) -> None:
    """Change the file behind the store's back."""
    with contextlib.closing(sqlite3.connect(store._file.path, isolation_level=None)) as db:
        db.execute(statement)


def test_a_step_writes_what_it_adds(store) -> None:
    """The records behind it stay where they are."""
    grow(store, A, 1)
    whole = newest_size(store)

    grow(store, A, 2, 3, 4)

    assert whole > len(CONSTANT)
    assert newest_size(store) < 400
    assert parts(store) == 3
    assert store.read(A)[1] == grown(4)


def test_a_whole_record_takes_the_place_of_its_parts(store) -> None:
    """When they are as much as the last one."""
    counts = []
    for step in range(1, 60):
        grow(store, A, step)
        counts.append(parts(store))
        assert store.read(A)[1] == grown(step)

    assert 5 < max(counts) < 30
    assert counts.count(0) >= 2


def test_a_state_has_a_greatest_number_of_parts(store, monkeypatch) -> None:
    """However small they are."""
    monkeypatch.setattr(sqlite_parts, "MOST_PARTS", 2)

    grow(store, A, *range(1, 4))
    assert parts(store) == 2
    grow(store, A, 4)

    assert parts(store) == 0
    assert store.read(A)[1] == grown(4)


def test_nobody_else_pays_for_it(store, folder) -> None:
    """Without a state that grows there is no table, and older versions read the file."""
    grow(store, A, 1)
    plain = StateRow((b"s" * 16,), ((1, 4),))
    store.commit([commit(B, 1, state=plain), commit(B, 2, state=plain)])
    assert store._file.rows("PRAGMA user_version") == [(1,)]

    grow(store, A, 2)

    assert store._file.rows("PRAGMA user_version") == [(2,)]
    store.close()
    again = SqliteStore(folder, clock=FakeClock())
    assert again.read(A)[1] == grown(2)
    grow(again, A, 3)
    assert again.read(A)[1] == grown(3)
    again.close()


def test_a_table_that_was_not_committed_is_made_again(store, monkeypatch) -> None:
    """A full disk takes the table back with the step."""
    grow(store, A, 1)
    run = store._file.run

    def full(statement: str, values: tuple = ()) -> None:
        if statement.startswith("UPDATE store"):
            error = sqlite3.OperationalError("full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        run(statement, values)

    monkeypatch.setattr(store._file, "run", full)
    with pytest.raises(StorageFullError):
        store.commit([commit(A, 2)])
    monkeypatch.undo()
    assert not store._file.grown
    assert store.read(A)[1] == grown(1)

    grow(store, A, 2)

    assert store.read(A)[1] == grown(2)


def test_branches_ends_and_new_owners_leave_no_parts_behind(store) -> None:
    """Each of them writes a whole state, or none."""
    grow(store, A, 1, 2, 3)
    store.fork(A, 3, B, Y)
    assert store.read(B)[1] == grown(3)

    owned = store.acquire(A, "b", hold_s=0.0)
    assert isinstance(owned, Owned)
    assert (owned.state, parts(store)) == (grown(3), 0)

    grow(store, A, 4, epoch=owned.head.epoch)
    assert parts(store) == 1
    store.delete(A, X, EndReason.ENDED)
    assert parts(store) == 0
    grow(store, A, 1, incarnation=Y)
    grow(store, A, 2, incarnation=Y)
    store.commit([commit(A, 1, incarnation=b"z" * 16, replaces=Y)])
    assert parts(store) == 0


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE parts SET record = zeroblob(length(record)) WHERE number = 1", "record"),
        ("DELETE FROM parts WHERE number = 1", "is not what it was"),
        ("DELETE FROM parts WHERE number = 0", "is missing"),
        ("UPDATE parts SET number = number + 10 WHERE number = 0", "is not what it was"),
    ],
)
def test_a_wrong_part_is_refused_by_name(store, statement, problem) -> None:
    """The sequence it belongs to, and no other."""
    grow(store, A, 1, 2, 3)
    store.commit([commit(B, 1)])
    alter(store, statement)

    found = store.read(A)

    assert isinstance(found, Damaged)
    assert problem in found.problem
    assert isinstance(store.acquire(A, "b"), Damaged)
    with pytest.raises(StateDamagedError, match="source cannot be read"):
        store.fork(A, 3, SequenceKey("m", "copy"), Y)
    assert "m/1" in store.statistics().problem
    assert store.read(B)[1] == grown(1)


def test_a_change_that_is_not_known_is_written_whole(store) -> None:
    """So is a state that came from elsewhere."""
    grow(store, A, 1, 2)
    unknown = grown(3)
    unknown.change = None

    store.commit([commit(A, 3, state=unknown)])

    assert parts(store) == 0
    assert store.read(A)[1] == grown(3)
