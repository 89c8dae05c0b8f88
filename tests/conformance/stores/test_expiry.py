"""Idle limits and retention: contract of ``Store.sweep``, spec durability section 8, D7 and D9."""

from __future__ import annotations

import pytest
from store_kit import KEY, OTHER, TOMBSTONE_S, X, Y, commit_of, commit_one, receipt

from legato.core.types import EndReason, SequenceKey
from legato.stores.base import Duplicate, Gone, Missing, Ok


def keys_of(swept) -> list[SequenceKey]:
    return [key for key, _ in swept]


def test_sequence_lives_up_to_its_idle_limit(store, clock) -> None:
    """At exactly the limit it lives; later it has expired, to every call, swept or not."""
    commit_one(store, commit_of(1, ttl_s=60.0))
    clock.advance(60.0)
    alive = store.read(KEY)
    clock.advance(0.5)

    dead = store.read(KEY)

    assert not isinstance(alive, Missing)
    assert isinstance(dead, Missing)
    assert (dead.head.ending.reason, dead.head.ending.step) == (EndReason.EXPIRED, 1)
    assert isinstance(store.acquire(KEY, "a"), Missing)
    assert list(store.list()) == []


def test_time_before_the_beginning_does_not_count(store, clock) -> None:
    """While models load, no client can send a step, so nobody is idle."""
    commit_one(store, commit_of(1, ttl_s=60.0))
    clock.advance(50.0)
    store.read(KEY)
    clock.advance(1000.0)
    store.begin()
    clock.advance(10.0)
    alive = store.read(KEY)
    clock.advance(0.5)

    assert not isinstance(alive, Missing)
    assert isinstance(store.read(KEY), Missing)


def test_clients_have_time_to_come_back(store, clock) -> None:
    """Seconds that a server gives them do not count."""
    commit_one(store, commit_of(1, ttl_s=60.0))
    clock.advance(50.0)
    store.read(KEY)
    store.begin(5.0)
    clock.advance(15.0)
    alive = store.read(KEY)
    clock.advance(0.5)

    assert not isinstance(alive, Missing)
    assert isinstance(store.read(KEY), Missing)


def test_commit_to_an_expired_sequence_is_gone(store, clock) -> None:
    """A late step hears that the sequence expired (D7)."""
    commit_one(store, commit_of(1, ttl_s=60.0))
    clock.advance(61.0)

    result = commit_one(store, commit_of(2))

    assert isinstance(result, Gone)
    assert result.ending.reason is EndReason.EXPIRED


def test_each_commit_renews_the_idle_time(store, clock) -> None:
    """The limit counts from the last commit."""
    commit_one(store, commit_of(1, ttl_s=60.0))
    for step in (2, 3, 4):
        clock.advance(50.0)
        commit_one(store, commit_of(step, ttl_s=60.0))

    assert store.sweep(10, ()) == []
    assert store.read(KEY)[0].step == 4


def test_refused_commit_does_not_renew_the_idle_time(store, clock) -> None:
    """Duplicates and conflicts change nothing, times included (D3)."""
    commit_one(store, commit_of(1, ttl_s=60.0))
    clock.advance(50.0)
    commit_one(store, commit_of(1, ttl_s=60.0))
    commit_one(store, commit_of(5, ttl_s=60.0))
    clock.advance(11.0)

    assert isinstance(store.read(KEY), Missing)


def test_idle_clock_stands_still_while_a_step_waits(store, clock) -> None:
    """A step that arrived in time is committed, however long it waited or ran."""
    commit_one(store, commit_of(1, ttl_s=60.0))
    clock.advance(100.0)

    late = commit_one(store, commit_of(2, ttl_s=60.0, waited_s=39.0))
    in_time = commit_one(store, commit_of(2, ttl_s=60.0, waited_s=41.0))

    assert isinstance(late, Gone)
    assert isinstance(in_time, Ok)


def test_new_limit_of_a_commit_counts_at_once(store, clock) -> None:
    """A commit may shorten, lengthen, set or lift the limit."""
    commit_one(store, commit_of(1, ttl_s=1000.0))
    commit_one(store, commit_of(2, ttl_s=10.0))
    clock.advance(10.5)

    assert isinstance(store.read(KEY), Missing)
    assert keys_of(store.sweep(10, ())) == [KEY]

    commit_one(store, commit_of(1, Y, ttl_s=10.0))
    commit_one(store, commit_of(2, Y, ttl_s=0.0))
    clock.advance(10_000.0)
    assert store.sweep(10, ()) == []
    commit_one(store, commit_of(3, Y, ttl_s=10.0))
    clock.advance(11.0)
    assert keys_of(store.sweep(10, ())) == [KEY]


def test_sequence_without_a_limit_never_expires(store, clock) -> None:
    """A limit of 0 is none."""
    commit_one(store, commit_of(1, ttl_s=0.0))
    clock.advance(1e9)

    assert store.sweep(10, ()) == []
    assert store.read(KEY)[0].step == 1


def test_sweep_ends_what_expired_and_tells_each_once(store, clock) -> None:
    """The swept come with their head and ending, and are no longer live."""
    commit_one(store, commit_of(1, ttl_s=60.0))
    commit_one(store, commit_of(1, key=OTHER, ttl_s=120.0))
    clock.advance(61.0)

    swept = store.sweep(10, ())

    ((key, head),) = swept
    assert (key, head.incarnation, head.step) == (KEY, X, 1)
    assert (head.ending.reason, head.ending.step) == (EndReason.EXPIRED, 1)
    assert store.sweep(10, ()) == []
    assert store.live("model") == 1
    assert store.statistics().live == 1


def test_expired_sequence_is_told_even_if_a_call_met_it_first(store, clock) -> None:
    """Meeting an expired sequence does not hide it from the next sweep."""
    commit_one(store, commit_of(1, ttl_s=60.0))
    clock.advance(61.0)
    store.read(KEY)
    store.acquire(KEY, "a")
    commit_one(store, commit_of(2))
    store.delete(KEY, X, EndReason.CANCELLED)

    assert keys_of(store.sweep(10, ())) == [KEY]


def test_sweep_stops_at_its_limit(store, clock) -> None:
    """One call ends no more than asked; the rest follows."""
    keys = [SequenceKey("model", number) for number in range(7)]
    store.commit([commit_of(1, key=key, ttl_s=60.0) for key in keys])
    clock.advance(61.0)

    swept = [keys_of(store.sweep(3, ())) for _ in range(4)]

    assert [len(part) for part in swept] == [3, 3, 1, 0]
    assert sorted(key for part in swept for key in part) == keys


def test_sweep_leaves_busy_sequences(store, clock) -> None:
    """A sequence with a step in flight is not removed under it; the step may still land."""
    commit_one(store, commit_of(1, ttl_s=60.0))
    clock.advance(61.0)

    assert store.sweep(10, {KEY}) == []
    assert isinstance(commit_one(store, commit_of(2, ttl_s=60.0, waited_s=5.0)), Ok)
    clock.advance(61.0)
    assert keys_of(store.sweep(10, set())) == [KEY]


def test_busy_sequences_do_not_keep_others_from_the_sweep(store, clock) -> None:
    """However many are busy, the next sweeps reach the rest."""
    keys = [SequenceKey("model", number) for number in range(6)]
    store.commit([commit_of(1, key=key, ttl_s=60.0) for key in keys])
    clock.advance(61.0)

    assert sorted(keys_of(store.sweep(2, set(keys[:4])))) == keys[4:]


def test_create_takes_the_place_of_an_expired_sequence(store, clock) -> None:
    """An id is free as soon as its sequence has expired, swept or not."""
    commit_one(store, commit_of(1, ttl_s=60.0))
    clock.advance(61.0)

    result = commit_one(store, commit_of(1, Y))

    late = commit_one(store, commit_of(2, X))
    assert isinstance(result, Ok)
    assert late.ending.reason is EndReason.EXPIRED
    assert store.live("model") == 1
    assert store.sweep(10, ()) == []


def test_repeat_of_the_last_step_of_an_expired_sequence_is_a_duplicate(store, clock) -> None:
    """The receipt outlives the sequence for the retention time (D3)."""
    commit_one(store, commit_of(1, ttl_s=60.0))
    clock.advance(61.0)
    unswept = commit_one(store, commit_of(1, ttl_s=60.0))
    store.sweep(10, ())

    assert unswept == Duplicate(receipt(1))
    assert commit_one(store, commit_of(1, ttl_s=60.0)) == Duplicate(receipt(1))


@pytest.mark.parametrize("swept", [True, False])
def test_tombstone_is_kept_for_the_retention_and_no_longer(store, clock, swept) -> None:
    """A late step is told what happened, until the retention is over; then it is unknown."""
    commit_one(store, commit_of(1, ttl_s=60.0))
    clock.advance(61.0)
    if swept:
        store.sweep(10, ())
    clock.advance(TOMBSTONE_S - 2.0)
    kept = store.read(KEY)
    clock.advance(2.0)

    assert kept.head.ending.reason is EndReason.EXPIRED
    assert store.read(KEY) == Missing(None)
    assert commit_one(store, commit_of(2)) == Gone(None)


def test_sweep_drops_old_tombstones(store, clock) -> None:
    """Tombstones do not pile up, whether they came by a step, a delete or a sweep."""
    keys = [SequenceKey("model", number) for number in range(3)]
    store.commit([commit_of(1, key=keys[0], end=EndReason.ENDED), commit_of(1, key=keys[1])])
    store.commit([commit_of(1, key=keys[2], ttl_s=5.0)])
    store.delete(keys[1], X, EndReason.EVICTED)
    clock.advance(6.0)
    store.sweep(10, ())
    before = store.statistics().tombstones
    clock.advance(TOMBSTONE_S + 1.0)

    store.sweep(10, ())

    assert before == 3
    assert store.statistics().tombstones == 0


def test_clock_set_back_raises_nobody(store, clock) -> None:
    """A store's time never goes back: the dead stay dead, and time goes on from there (D7, D9)."""
    commit_one(store, commit_of(1, ttl_s=60.0))
    clock.advance(61.0)
    store.read(KEY)
    clock.advance(-3600.0)
    dead = store.read(KEY)
    commit_one(store, commit_of(1, Y, ttl_s=60.0))
    clock.advance(61.0)

    assert isinstance(dead, Missing)
    assert isinstance(store.read(KEY), Missing)
