"""Fork, import, delete, read and list: spec durability sections 4 and 8."""

from __future__ import annotations

from dataclasses import replace

from store_kit import KEY, OTHER, X, Y, Z, commit_of, commit_one, receipt, snapshot, state

from legato.core.types import EndReason, SequenceKey, StateRow
from legato.stores.base import Conflict, Duplicate, Fenced, Gone, Missing, Ok, Owned

TARGET = SequenceKey("model", "copy")


def begin(store, steps: int = 2, key: SequenceKey = KEY, **changes) -> None:
    for step in range(1, steps + 1):
        commit_one(store, commit_of(step, key=key, **changes))


# -- fork -------------------------------------------------------------------------


def test_fork_copies_state_and_step_but_no_receipts(store, clock) -> None:
    """The copy has its own incarnation, epoch 0 and nothing a retry could match."""
    begin(store)
    clock.advance(5.0)

    result = store.fork(KEY, 2, TARGET, Y)

    head, row = store.read(TARGET)
    assert isinstance(result, Ok)
    assert (head.incarnation, head.epoch, head.step, head.receipts) == (Y, 0, 2, ())
    assert (head.version, head.model_digest, head.ttl_s) == ("3", "abcdef", 60.0)
    assert head.created == clock.now
    assert row == state(2)
    assert store.live("model") == 2


def test_fork_and_source_go_their_own_ways(store) -> None:
    """Neither branch sees the other's steps (D2)."""
    begin(store)
    store.fork(KEY, 2, TARGET, Y)

    commit_one(store, commit_of(3, key=TARGET, incarnation=Y, epoch=0, state=state(77)))
    commit_one(store, commit_of(3))

    assert store.read(TARGET)[1] == state(77)
    assert store.read(KEY)[1] == state(3)


def test_retry_meant_for_the_source_is_no_duplicate_on_the_copy(store) -> None:
    """The copy has applied no request, so the same step and request id is refused there (D3)."""
    begin(store)
    store.fork(KEY, 2, TARGET, Y)

    result = commit_one(store, commit_of(2, key=TARGET, incarnation=Y, epoch=0))

    assert result == Conflict(2)


def test_first_owner_of_a_fork_gets_epoch_one(store) -> None:
    """Nobody owns a fork; acquiring it fences whoever writes with epoch 0."""
    begin(store)
    store.fork(KEY, 2, TARGET, Y)

    owned = store.acquire(TARGET, "a")

    assert (owned.head.epoch, owned.state) == (1, state(2))
    late = commit_one(store, commit_of(3, key=TARGET, incarnation=Y, epoch=0))
    assert late == Fenced(1, 2)


def test_fork_repeated_is_a_duplicate(store) -> None:
    """Also when source or copy have moved on, or the source has ended."""
    begin(store)
    store.fork(KEY, 2, TARGET, Y)
    commit_one(store, commit_of(3))
    moved = store.fork(KEY, 2, TARGET, Y)
    store.delete(KEY, X, EndReason.ENDED)
    ended = store.fork(KEY, 2, TARGET, Y)

    for result in (moved, ended):
        assert isinstance(result, Duplicate)
        assert result.receipt[1:] == (b"", b"", b"")


def test_fork_needs_the_source_at_the_named_step(store) -> None:
    """A source at another step is a conflict that tells its step."""
    begin(store)

    assert store.fork(KEY, 1, TARGET, Y) == Conflict(2)
    assert store.fork(KEY, 3, TARGET, Y) == Conflict(2)
    assert store.read(TARGET) == Missing(None)


def test_fork_of_nothing_is_gone(store) -> None:
    """A source that is unknown or ended cannot be copied (D7)."""
    unknown = store.fork(KEY, 1, TARGET, Y)
    begin(store)
    store.delete(KEY, X, EndReason.CANCELLED)

    dead = store.fork(KEY, 2, TARGET, Y)

    assert unknown == Gone(None)
    assert dead.ending.reason is EndReason.CANCELLED
    assert store.read(TARGET) == Missing(None)


def test_fork_over_another_live_sequence_is_a_conflict(store) -> None:
    """The target's own sequence is left alone."""
    begin(store, 2)
    begin(store, 3, key=TARGET, incarnation=Z)
    before = snapshot(store, TARGET)

    assert store.fork(KEY, 2, TARGET, Y) == Conflict(3)
    assert store.fork(KEY, 2, KEY, Y) == Conflict(2)
    assert snapshot(store, TARGET) == before


def test_fork_does_not_raise_the_dead(store) -> None:
    """A late repeat of a fork whose target has ended is Gone (D7); a new one may use the id."""
    begin(store)
    store.fork(KEY, 2, TARGET, Y)
    store.delete(TARGET, Y, EndReason.CANCELLED)

    assert store.fork(KEY, 2, TARGET, Y).ending.reason is EndReason.CANCELLED
    assert isinstance(store.fork(KEY, 2, TARGET, Z), Ok)


def test_fork_may_have_an_idle_limit_of_its_own(store, clock) -> None:
    """Given, it counts from the fork; 0 is none."""
    begin(store)
    store.fork(KEY, 2, TARGET, Y, ttl_s=10.0)
    store.fork(KEY, 2, OTHER, Z, ttl_s=0.0)
    clock.advance(11.0)

    assert isinstance(store.read(TARGET), Missing)
    assert [key for key, _ in store.sweep(10, ())] == [TARGET]
    clock.advance(100.0)
    assert store.read(OTHER)[0].ttl_s == 0.0


# -- import ------------------------------------------------------------------------------


def test_import_makes_the_record_as_given(store, clock) -> None:
    """Epoch, step, receipts and times of creation come from the head."""
    begin(store)
    head, row = store.read(KEY)
    given = replace(head, incarnation=Y, epoch=5, created=12.5, dialect="native")
    clock.advance(1.0)

    result = store.put(TARGET, given, row)

    assert isinstance(result, Ok)
    assert store.read(TARGET) == (given, row)
    assert isinstance(commit_one(store, commit_of(3, key=TARGET, incarnation=Y, epoch=5)), Ok)


def test_import_over_a_live_sequence_is_refused(store) -> None:
    """Also over itself: an import is no repeatable step."""
    begin(store)
    head, row = store.read(KEY)
    before = snapshot(store)

    assert store.put(KEY, replace(head, incarnation=Y, step=9), row) == Conflict(2)
    assert store.put(KEY, head, row) == Conflict(2)
    assert snapshot(store) == before


def test_import_does_not_raise_the_dead(store) -> None:
    """An ended incarnation stays so; as a new incarnation its state may return (D7)."""
    begin(store)
    head, row = store.read(KEY)
    store.delete(KEY, X, EndReason.CANCELLED)

    assert isinstance(store.put(KEY, head, row), Gone)
    assert isinstance(store.put(KEY, replace(head, incarnation=Y), row), Ok)
    assert store.read(KEY)[1] == state(2)


def test_imported_sequence_expires_like_any_other(store, clock) -> None:
    """Its idle time starts at the import."""
    begin(store)
    head, row = store.read(KEY)
    store.put(TARGET, replace(head, incarnation=Y, ttl_s=10.0), row)
    clock.advance(11.0)

    assert isinstance(store.acquire(TARGET, "a"), Missing)
    assert isinstance(store.acquire(KEY, "a"), Owned)


# -- delete -----------------------------------------------------------------------------------


def test_delete_ends_with_the_reason_given(store) -> None:
    """Reason, step and receipts stay in the tombstone; a step in flight is Gone."""
    begin(store)

    result = store.delete(KEY, X, EndReason.EVICTED)

    found = store.read(KEY)
    late = commit_one(store, commit_of(3))
    assert isinstance(result, Ok)
    assert (found.head.ending.reason, found.head.ending.step) == (EndReason.EVICTED, 2)
    assert found.head.receipts == (receipt(2),)
    assert late.ending.reason is EndReason.EVICTED
    assert store.live("model") == 0


def test_delete_again_changes_nothing(store) -> None:
    """The second one is Gone, with the first ending."""
    begin(store)
    store.delete(KEY, X, EndReason.EVICTED)
    before = snapshot(store)

    again = store.delete(KEY, X, EndReason.CANCELLED)

    assert again.ending.reason is EndReason.EVICTED
    assert snapshot(store) == before


def test_delete_of_another_incarnation_is_gone(store) -> None:
    """A late delete does not hit the sequence that took the id since."""
    begin(store)
    before = snapshot(store)

    assert store.delete(KEY, Y, EndReason.CANCELLED) == Gone(None)
    assert store.delete(OTHER, X, EndReason.CANCELLED) == Gone(None)
    assert snapshot(store) == before


def test_commit_that_stood_before_a_delete_is_still_a_duplicate(store) -> None:
    """The receipts of a deleted sequence answer the retry of its last step (D3)."""
    begin(store)
    store.delete(KEY, X, EndReason.CANCELLED)

    assert commit_one(store, commit_of(2)) == Duplicate(receipt(2))


# -- looking --------------------------------------------------------------------------------------


def test_read_changes_nothing(store, clock) -> None:
    """Reading takes no ownership and does not renew the idle time."""
    begin(store)
    store.acquire(KEY, "a")
    clock.advance(59.0)
    head, _ = store.read(KEY)
    clock.advance(2.0)

    assert head.epoch == 2
    assert isinstance(store.read(KEY), Missing)


def test_listing_shows_the_living_oldest_first(store, clock) -> None:
    """With head, bytes of state and idle time; of all models or of one."""
    third = SequenceKey("other", 1)
    begin(store, 1, key=OTHER)
    begin(store, 1, key=third)
    begin(store, 1, key=KEY)
    begin(store, 1, key=TARGET)
    store.delete(TARGET, X, EndReason.ENDED)
    clock.advance(3.0)
    grown = StateRow((b"0" * 24,), ((1, 6),))
    commit_one(store, commit_of(2, key=OTHER, state=grown))

    rows = list(store.list())

    assert [row.key for row in rows] == [OTHER, third, KEY]
    assert [row.head.step for row in rows] == [2, 1, 1]
    assert [row.state_bytes for row in rows] == [24, 16, 16]
    assert [row.idle_s for row in rows] == [0.0, 3.0, 3.0]
    assert [row.key for row in store.list("other")] == [third]
    assert list(store.list("nobody")) == []


def test_re_created_sequence_is_the_youngest(store) -> None:
    """Age counts from the creation of the incarnation."""
    begin(store, 1, key=KEY)
    begin(store, 1, key=OTHER)
    commit_one(store, commit_of(1, Y, replaces=X))

    assert [row.key for row in store.list()] == [OTHER, KEY]


def test_listing_may_be_walked_while_the_store_works(store) -> None:
    """It shows the store as it was at the call, or leaves out what changed; it never breaks."""
    keys = [SequenceKey("model", number) for number in range(50)]
    store.commit([commit_of(1, key=key) for key in keys])
    walk = store.list()
    first = next(walk)

    store.commit([commit_of(1, key=SequenceKey("model", 100 + n)) for n in range(50)])
    store.delete(keys[1], X, EndReason.ENDED)

    assert first.key == keys[0]
    assert {row.key for row in walk} >= set(keys[2:])


def test_counts_follow_every_change(store) -> None:
    """``live`` counts a model's, ``statistics`` all; state bytes leave with their sequence."""
    begin(store, 1, key=KEY)
    begin(store, 1, key=SequenceKey("other", 1))
    store.fork(KEY, 1, TARGET, Y)
    full = store.statistics()
    store.delete(KEY, X, EndReason.ENDED)

    part = store.statistics()

    assert (full.live, full.tombstones, full.writable, full.problem) == (3, 0, True, "")
    assert (part.live, part.tombstones) == (2, 1)
    assert full.stored_bytes >= 48
    assert (store.live("model"), store.live("other"), store.live("nobody")) == (1, 1, 0)


def test_store_says_what_it_is(store, case) -> None:
    """Name and level are for people, ``inline`` for the engine."""
    assert store.name == case.name
    assert store.level == case.level
    assert isinstance(store.inline, bool)
