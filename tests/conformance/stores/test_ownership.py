"""Who may write: contract of ``Store.acquire``, spec durability sections 2, 4 and 6."""

from __future__ import annotations

from store_kit import KEY, TOMBSTONE_S, X, Y, commit_of, commit_one, snapshot, state

from legato.core.types import EndReason
from legato.stores.base import Fenced, Held, Missing, Ok, Owned


def test_first_acquire_takes_a_created_sequence(store) -> None:
    """A sequence just created has no owner; acquiring it raises the epoch and gives the state."""
    commit_one(store, commit_of(1))

    result = store.acquire(KEY, "a")

    assert isinstance(result, Owned)
    assert (result.head.epoch, result.head.step, result.state) == (2, 1, state(1))


def test_acquire_again_by_the_owner_keeps_the_epoch(store) -> None:
    """The epoch grows only if the owner changes."""
    commit_one(store, commit_of(1))
    first = store.acquire(KEY, "a")

    again = store.acquire(KEY, "a")

    assert again.head.epoch == first.head.epoch == 2


def test_owner_commits_with_the_epoch_it_was_given(store) -> None:
    """After an acquire only the new epoch may write, and it stays in the record (D4)."""
    commit_one(store, commit_of(1))
    owned = store.acquire(KEY, "a")

    results = store.commit([commit_of(2, epoch=1), commit_of(2, epoch=owned.head.epoch)])

    assert results[0] == Fenced(2, 1)
    assert isinstance(results[1], Ok)
    assert store.read(KEY)[0].epoch == 2


def test_stealing_fences_the_other_owner(store, clock) -> None:
    """Another owner may always take a sequence; the one before is fenced, and may take it back."""
    commit_one(store, commit_of(1))
    first = store.acquire(KEY, "a")
    clock.advance(1.0)

    second = store.acquire(KEY, "b")

    assert (first.head.epoch, second.head.epoch) == (2, 3)
    assert commit_one(store, commit_of(2, epoch=2)) == Fenced(3, 1)
    assert isinstance(commit_one(store, commit_of(2, epoch=3)), Ok)
    clock.advance(1.0)
    assert store.acquire(KEY, "a").head.epoch == 4


def test_fresh_owner_is_left_alone_for_a_moment(store, clock) -> None:
    """Less than ``hold_s`` after a change of owner another one is told whom to ask (ping-pong)."""
    commit_one(store, commit_of(1))
    store.acquire(KEY, "a")
    clock.advance(0.24)
    before = snapshot(store)

    assert store.acquire(KEY, "b", hold_s=0.25) == Held("a")
    assert snapshot(store) == before
    clock.advance(0.02)
    assert isinstance(store.acquire(KEY, "b", hold_s=0.25), Owned)


def test_hold_counts_from_the_change_of_owner(store, clock) -> None:
    """An owner cannot block a sequence by acquiring it again and again (D9)."""
    commit_one(store, commit_of(1))
    store.acquire(KEY, "a")
    clock.advance(0.2)
    store.acquire(KEY, "a")
    clock.advance(0.1)

    assert isinstance(store.acquire(KEY, "b"), Owned)


def test_hold_of_zero_steals_at_once(store) -> None:
    """A caller that must have the sequence need not wait."""
    commit_one(store, commit_of(1))
    store.acquire(KEY, "a")

    assert isinstance(store.acquire(KEY, "b", hold_s=0.0), Owned)


def test_state_is_left_out_where_the_caller_has_it(store) -> None:
    """``have`` names incarnation and step; only an exact match spares the state (D5)."""
    for step in (1, 2):
        commit_one(store, commit_of(step))

    assert store.acquire(KEY, "a", have=(X, 2)).state is None
    assert store.acquire(KEY, "a", have=(X, 1)).state == state(2)
    assert store.acquire(KEY, "a", have=(Y, 2)).state == state(2)


def test_acquire_of_nothing_is_missing(store) -> None:
    """An id that never lived has no tombstone either."""
    assert store.acquire(KEY, "a") == Missing(None)


def test_acquire_of_an_ended_sequence_gives_its_tombstone(store, clock) -> None:
    """Missing tells what became of it, until the retention is over."""
    commit_one(store, commit_of(1))
    store.delete(KEY, X, EndReason.CANCELLED)

    found = store.acquire(KEY, "a")

    assert isinstance(found, Missing)
    assert found.head.ending.reason is EndReason.CANCELLED
    clock.advance(TOMBSTONE_S + 1)
    assert store.acquire(KEY, "a") == Missing(None)


def test_acquire_does_not_renew_the_idle_time(store, clock) -> None:
    """Only a commit does (spec 8)."""
    commit_one(store, commit_of(1, ttl_s=60.0))
    clock.advance(59.0)
    store.acquire(KEY, "a")
    clock.advance(2.0)

    assert isinstance(store.acquire(KEY, "a"), Missing)


def test_restart_has_no_owner(store) -> None:
    """The new incarnation begins at epoch 1, whoever owned the one before."""
    commit_one(store, commit_of(1))
    store.acquire(KEY, "a")
    commit_one(store, commit_of(1, Y, replaces=X))

    assert isinstance(commit_one(store, commit_of(2, Y)), Ok)
    assert isinstance(store.acquire(KEY, "b"), Owned)


def test_heads_given_out_are_the_callers_own(store) -> None:
    """A caller may move its copy of a head; the record does not follow."""
    commit_one(store, commit_of(1))
    head = store.acquire(KEY, "a").head

    head.step, head.receipts = 99, ()

    assert store.read(KEY)[0].step == 1
    assert len(store.read(KEY)[0].receipts) == 1
