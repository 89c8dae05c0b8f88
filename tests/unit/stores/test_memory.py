"""The memory store beyond the contract: what it keeps, and how much work it does."""

from __future__ import annotations

import pytest

from legato.core.types import EndReason, Receipt, SequenceKey, StateRow
from legato.stores.base import Commit, Duplicate, Ok
from legato.stores.memory import MemoryStore

SHAPES = ((1, 4),)


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return MemoryStore(clock=clock, tombstone_s=10.0)


def commit(number: int, step: int, *, ttl_s: float = 60.0, size: int = 16, **changes) -> Commit:
    shapes = SHAPES if size == 16 else ((1, size // 4),)
    entry = Commit(
        SequenceKey("m", number), b"x" * 16, 1, step, (Receipt(step, b"r", b"d", b"reply"),),
        StateRow((bytes(size),), shapes), step == 1, b"", None, "1", "d", "kserve", ttl_s, "",
    )  # fmt: skip
    return entry._replace(**changes)


def test_commit_keeps_the_writers_own_objects(store) -> None:
    """State and receipts are immutable, so nothing is copied or encoded."""
    entry = commit(1, 1)

    store.commit([entry])

    head, state = store.read(entry.key)
    assert state is entry.state
    assert head.receipts is entry.receipts


def test_results_of_a_batch_share_one_object(store) -> None:
    """A commit that succeeds makes no object of its own."""
    results = store.commit([commit(number, 1) for number in range(4)])

    assert {id(result) for result in results} == {id(results[0])}
    assert results[0] == Ok("none")


def test_commits_do_not_touch_the_queue(store, clock) -> None:
    """A sequence is queued once; only a sweep moves it on."""
    store.commit([commit(1, 1)])
    for step in range(2, 50):
        clock.now += 1.0
        store.commit([commit(1, step)])

    assert len(store._queue) == 1
    clock.now += 20.0
    assert store.sweep(10, ()) == []
    assert [item[0] for item in store._queue] == [1000.0 + 48.0 + 60.0]


def test_sweep_looks_at_a_bounded_number_of_records(store, clock) -> None:
    """However many fall due together, one call handles a few times its limit."""
    store.commit([commit(number, 1) for number in range(1000)])
    clock.now += 50.0
    store.commit([commit(number, 2) for number in range(1000)])
    clock.now += 20.0

    store.sweep(5, ())

    left = sum(due < clock.now for due, *_ in store._queue)
    assert left == 1000 - (4 * 5 + 64)


def test_queue_forgets_sequences_that_ended(store, clock) -> None:
    """Short sequences with long limits leave no entries behind for hours."""
    for number in range(1, 2001):
        clock.now += 0.1
        store.commit([commit(number, 1, ttl_s=86400.0)])
        store.commit([commit(number, 2, ttl_s=86400.0, end=EndReason.ENDED)])
        store.sweep(100, ())

    kept = store.statistics().tombstones
    assert kept == pytest.approx(100, abs=2)
    assert len(store._queue) <= 2 * kept + 65


def test_order_forgets_sequences_that_were_replaced(store) -> None:
    """Restarting one id over and over does not grow the listing."""
    store.commit([commit(1, 1)])
    for number in range(1000):
        incarnation = number.to_bytes(16, "big")
        before = store.read(SequenceKey("m", 1))[0].incarnation
        store.commit([commit(1, 1, incarnation=incarnation, replaces=before)])

    assert len(store._ordered) <= 2 * 66
    assert len(list(store.list())) == 1


def test_state_bytes_follow_growing_states(store) -> None:
    """States whose shapes change are counted anew, and leave when their sequence ends."""
    store.commit([commit(1, 1), commit(2, 1)])
    start = store.statistics().stored_bytes
    store.commit([commit(1, 2, size=400)])
    grown = store.statistics().stored_bytes
    store.delete(SequenceKey("m", 1), b"x" * 16, EndReason.ENDED)

    assert (start, grown, store.statistics().stored_bytes) == (32, 416, 16)


def test_tombstone_lets_go_of_the_state(store) -> None:
    """An ended sequence keeps its receipts only."""
    store.commit([commit(1, 1, end=EndReason.ENDED)])

    (record,) = store._records.values()
    assert record.last.state == StateRow((), ())
    assert isinstance(store.commit([commit(1, 1, end=EndReason.ENDED)])[0], Duplicate)


def test_repr_tells_the_counts(store) -> None:
    """For people who debug."""
    store.commit([commit(1, 1), commit(2, 1, end=EndReason.ENDED)])

    assert repr(store) == "MemoryStore(live=1, records=2)"
