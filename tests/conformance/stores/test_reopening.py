"""What outlives the process: spec durability sections 2 (D1, D5, D7), 5 and 8."""

from __future__ import annotations

import os

import pytest
from store_kit import KEY, OTHER, TOMBSTONE_S, X, Y, Z, commit_of, commit_one, receipt, snapshot

from legato.core.errors import ConfigError
from legato.core.types import EndReason, SequenceKey
from legato.stores.base import Conflict, Duplicate, Fenced, Gone, Missing, Ok, Owned

THIRD = SequenceKey("other model", 2**64 - 1)


def fill(store) -> list[SequenceKey]:
    """Records of every kind: stepped, owned, forked, restarted, ended, deleted."""
    keys = [KEY, OTHER, THIRD, *(SequenceKey("model", n) for n in range(100, 104))]
    for step in (1, 2, 3):
        commit_one(store, commit_of(step))
    commit_one(store, commit_of(1, key=OTHER))
    store.acquire(OTHER, "a")
    commit_one(store, commit_of(2, key=OTHER, epoch=2, receipts=(receipt(1), receipt(2))))
    store.fork(KEY, 3, THIRD, Y, ttl_s=0.0)
    commit_one(store, commit_of(1, key=keys[3]))
    commit_one(store, commit_of(1, key=keys[3], incarnation=Z, replaces=X, level="disk"))
    commit_one(store, commit_of(1, key=keys[4], end=EndReason.ENDED))
    commit_one(store, commit_of(1, key=keys[5]))
    store.delete(keys[5], X, EndReason.EVICTED)
    return keys


def test_everything_is_there_again(open_durable) -> None:
    """Records, tombstones, counts and order are as they were, bit for bit (D1, D5)."""
    store = open_durable()
    keys = fill(store)
    before = [snapshot(store, key) for key in keys]
    listed = [(row.key, row.state_bytes) for row in store.list()]
    counts = store.statistics()

    store = open_durable()

    after = store.statistics()
    assert [snapshot(store, key) for key in keys] == before
    assert [(row.key, row.state_bytes) for row in store.list()] == listed
    assert (after.live, after.tombstones) == (counts.live, counts.tombstones)
    assert (store.live("model"), store.live("other model")) == (3, 1)


def test_sequences_go_on_where_they_were(open_durable) -> None:
    """The next step is applied, the last one is a duplicate, others are conflicts (D2, D3)."""
    store = open_durable()
    fill(store)

    store = open_durable()

    assert commit_one(store, commit_of(3)) == Duplicate(receipt(3))
    assert commit_one(store, commit_of(3, request_id="other")) == Conflict(3)
    assert isinstance(commit_one(store, commit_of(4)), Ok)


def test_the_dead_stay_dead(open_durable) -> None:
    """Ended, deleted and displaced incarnations are refused with their ending (D7)."""
    store = open_durable()
    keys = fill(store)

    store = open_durable()

    displaced = commit_one(store, commit_of(2, key=keys[3]))
    ended = commit_one(store, commit_of(2, key=keys[4]))
    deleted = commit_one(store, commit_of(1, key=keys[5], request_id="late"))
    reasons = [result.ending.reason for result in (displaced, ended, deleted)]
    assert reasons == [EndReason.DISPLACED, EndReason.ENDED, EndReason.EVICTED]


def test_epochs_go_on_growing(open_durable) -> None:
    """An epoch that was given out is never given to another owner (D4)."""
    store = open_durable()
    commit_one(store, commit_of(1))
    before = store.acquire(KEY, "a").head.epoch

    store = open_durable()

    after = store.acquire(KEY, "b")
    assert isinstance(after, Owned)
    assert after.head.epoch > before
    assert commit_one(store, commit_of(2, epoch=before)) == Fenced(after.head.epoch, 1)


def test_owners_of_a_former_opening_hold_nothing(open_durable) -> None:
    """Their process is gone, so nobody has to wait for them."""
    store = open_durable()
    commit_one(store, commit_of(1))
    store.acquire(KEY, "a")

    store = open_durable()

    assert isinstance(store.acquire(KEY, "b", hold_s=60.0), Owned)


@pytest.mark.parametrize("away", [0.0, 5.0, 1e6, -1e6])
def test_deadlines_are_restored_as_remaining_time(open_durable, clock, away) -> None:
    """Time spent switched off does not count, nor what the wall clock did meanwhile (D9)."""
    store = open_durable()
    commit_one(store, commit_of(1, ttl_s=60.0))
    clock.advance(45.0)
    store.close()
    clock.advance(away)

    store = open_durable()

    clock.advance(14.5)
    alive = store.read(KEY)
    (row,) = store.list()
    clock.advance(1.0)
    dead = store.read(KEY)
    assert not isinstance(alive, Missing)
    assert row.idle_s == pytest.approx(59.5)
    assert dead.head.ending.reason is EndReason.EXPIRED
    assert [key for key, _ in store.sweep(10, ())] == [KEY]


def test_tombstones_are_kept_for_the_time_that_remains(open_durable, clock) -> None:
    """Retention, like a deadline, counts only while the store is open."""
    store = open_durable()
    commit_one(store, commit_of(1, end=EndReason.ENDED))
    clock.advance(TOMBSTONE_S - 10.0)
    store.close()
    clock.advance(1e6)

    store = open_durable()

    clock.advance(9.0)
    kept = store.read(KEY)
    clock.advance(2.0)
    store.sweep(10, ())
    assert kept.head.ending.reason is EndReason.ENDED
    assert store.read(KEY) == Missing(None)
    assert commit_one(store, commit_of(2)) == Gone(None)
    assert store.statistics().tombstones == 0


def test_swept_sequences_stay_swept(open_durable, clock) -> None:
    """A sweep is as durable as a commit, and tells each sequence once."""
    store = open_durable()
    commit_one(store, commit_of(1, ttl_s=60.0))
    clock.advance(61.0)
    store.sweep(10, ())

    store = open_durable()

    assert store.sweep(10, ()) == []
    assert store.live("model") == 0
    assert store.read(KEY).head.ending.reason is EndReason.EXPIRED


def test_one_store_per_folder(open_durable, durable_case, tmp_path, clock) -> None:
    """A second one is refused with the folder and the process that has it; the first goes on."""
    store = open_durable()
    commit_one(store, commit_of(1))

    with pytest.raises(ConfigError) as refused:
        durable_case.open(tmp_path / "data", clock)

    assert str(tmp_path / "data") in str(refused.value)
    assert str(os.getpid()) in str(refused.value)
    assert isinstance(commit_one(store, commit_of(2)), Ok)


def test_folder_of_an_unknown_format_is_refused(
    open_durable, durable_case, tmp_path, clock
) -> None:
    """Bytes of another version are never guessed at, and stay as they are."""
    open_durable().close()
    mark = tmp_path / "data" / "FORMAT"
    mark.write_text("legato from the future 99\n")

    with pytest.raises(ConfigError) as refused:
        durable_case.open(tmp_path / "data", clock)

    assert "99" in str(refused.value)
    assert str(mark.parent) in str(refused.value)
    assert mark.read_text() == "legato from the future 99\n"
    mark.unlink()


def test_closing_twice_does_no_harm(open_durable) -> None:
    """Shutdown paths may meet."""
    store = open_durable()
    commit_one(store, commit_of(1))

    store.close()
    store.close()

    assert open_durable().read(KEY)[0].step == 1
