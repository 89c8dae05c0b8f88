"""The compare-and-set: contract of ``Store.commit``, spec durability sections 2, 4 and 7."""

from __future__ import annotations

import pytest
from store_kit import KEY, OTHER, X, Y, Z, commit_of, commit_one, receipt, snapshot, state

from legato.core.types import EndReason, SequenceKey
from legato.stores.base import Conflict, Duplicate, Fenced, Gone, Missing, Ok


def test_create_makes_a_record_as_committed(store, clock) -> None:
    """A first commit makes a live record with all its fields, and idle time starts."""
    result = commit_one(store, commit_of(1))

    assert isinstance(result, Ok)
    head, row = store.read(KEY)
    assert (head.incarnation, head.epoch, head.step) == (X, 1, 1)
    assert head.receipts == (receipt(1),)
    assert (head.version, head.model_digest, head.dialect) == ("3", "abcdef", "kserve")
    assert (head.ttl_s, head.created, head.ending) == (60.0, clock.now, None)
    assert row == state(1)


def test_each_step_replaces_state_and_receipts(store) -> None:
    """The record holds the state and the receipts of the newest commit only (D2)."""
    commit_one(store, commit_of(1))
    kept = (receipt(1), receipt(2))

    result = commit_one(store, commit_of(2, receipts=kept))

    head, row = store.read(KEY)
    assert isinstance(result, Ok)
    assert (head.step, head.receipts, row) == (2, kept, state(2))


def test_ok_tells_the_level_reached(store, case) -> None:
    """Ok carries what the commit survives, raised where the sequence asks for more."""
    plain = commit_one(store, commit_of(1))
    raised = commit_one(store, commit_of(1, key=OTHER, level="disk"))

    assert (plain, raised) == (Ok(case.level), Ok(case.raised))
    assert store.level == case.level


@pytest.mark.parametrize("step", [1, 2, 4, 5])
def test_a_commit_must_follow_the_record(store, step) -> None:
    """A commit of any step but the next is a conflict and changes nothing (D2, D4)."""
    for number in (1, 2):
        commit_one(store, commit_of(number))
    before = snapshot(store)

    result = commit_one(store, commit_of(step, create=False, request_id="another"))

    assert result == Conflict(2)
    assert snapshot(store) == before


def test_commit_repeated_after_a_dropped_reply_is_a_duplicate(store) -> None:
    """The same commit again finds itself and changes nothing (D3)."""
    commit_one(store, commit_of(1))
    entry = commit_of(2)
    commit_one(store, entry)
    before = snapshot(store)

    again = [commit_one(store, entry) for _ in range(3)]

    assert again == [Duplicate(receipt(2))] * 3
    assert snapshot(store) == before


def test_create_repeated_is_a_duplicate(store) -> None:
    """A creation whose reply was lost finds itself (D3)."""
    commit_one(store, commit_of(1))

    assert commit_one(store, commit_of(1)) == Duplicate(receipt(1))


def test_duplicate_gives_the_stored_receipt(store) -> None:
    """The receipt of a duplicate is the one kept, not the one sent: byte for byte (D3)."""
    commit_one(store, commit_of(1))
    other_bytes = (receipt(1)._replace(response=b"computed again, otherwise"),)

    result = commit_one(store, commit_of(1, receipts=other_bytes))

    assert result == Duplicate(receipt(1))


@pytest.mark.parametrize("change", [{"request_id": "other"}, {"digest": b"e" * 8}])
def test_another_request_for_a_taken_step_is_a_conflict(store, change) -> None:
    """Request id and input digest both decide whether a commit is a repeat (D3)."""
    commit_one(store, commit_of(1))
    commit_one(store, commit_of(2))

    assert commit_one(store, commit_of(2, **change)) == Conflict(2)
    assert commit_one(store, commit_of(1, X, **change)) == Conflict(2)


def test_a_repeat_of_an_older_step_is_a_conflict(store) -> None:
    """Only the newest step can be a duplicate; an older one does not move the record (D2)."""
    for step in (1, 2, 3):
        commit_one(store, commit_of(step))
    before = snapshot(store)

    assert commit_one(store, commit_of(2)) == Conflict(3)
    assert snapshot(store) == before


def test_commit_without_a_record_is_gone(store) -> None:
    """A step of an id that was never created is Gone, and creates nothing (D7)."""
    assert commit_one(store, commit_of(2)) == Gone(None)
    assert store.read(KEY) == Missing(None)


def test_commit_of_another_incarnation_is_gone(store) -> None:
    """A writer that holds another incarnation of the id cannot touch the record (D4, D7)."""
    commit_one(store, commit_of(1))
    before = snapshot(store)

    assert commit_one(store, commit_of(2, Y)) == Gone(None)
    assert snapshot(store) == before


def test_create_over_a_live_record_is_a_conflict(store) -> None:
    """Two creators of one id: the second one learns at which step the first is."""
    for step in (1, 2):
        commit_one(store, commit_of(step))
    before = snapshot(store)

    assert commit_one(store, commit_of(1, Y)) == Conflict(2)
    assert commit_one(store, commit_of(1, Y, replaces=Z)) == Conflict(2)
    assert snapshot(store) == before


def test_restart_displaces_exactly_the_incarnation_it_names(store) -> None:
    """A create that names the live incarnation takes its place; its late commits are Gone."""
    for step in (1, 2):
        commit_one(store, commit_of(step))

    result = commit_one(store, commit_of(1, Y, replaces=X))

    late = commit_one(store, commit_of(3))
    head, row = store.read(KEY)
    assert isinstance(result, Ok)
    assert (head.incarnation, head.epoch, head.step, row) == (Y, 1, 1, state(1))
    assert isinstance(late, Gone)
    assert late.ending is not None
    assert (late.ending.reason, late.ending.step) == (EndReason.DISPLACED, 2)
    assert store.live("model") == 1


def test_restart_with_nothing_left_to_displace_creates(store) -> None:
    """The incarnation to replace may have ended meanwhile."""
    commit_one(store, commit_of(1))
    store.delete(KEY, X, EndReason.CANCELLED)

    assert isinstance(commit_one(store, commit_of(1, Y, replaces=X)), Ok)


def test_displaced_incarnation_cannot_be_created_again(store) -> None:
    """A late create of a displaced or ended incarnation stays dead (D7)."""
    commit_one(store, commit_of(1))
    commit_one(store, commit_of(1, Y, replaces=X))
    store.delete(KEY, Y, EndReason.CANCELLED)

    assert isinstance(commit_one(store, commit_of(1, X)), Gone)
    assert isinstance(commit_one(store, commit_of(1, Y, request_id="late")), Gone)


def test_ending_step_leaves_a_tombstone_with_its_receipts(store) -> None:
    """After the last step the state is gone, the ending and the receipts are kept."""
    commit_one(store, commit_of(1))

    result = commit_one(store, commit_of(2, end=EndReason.ENDED))

    found = store.read(KEY)
    assert isinstance(result, Ok)
    assert isinstance(found, Missing)
    assert found.head is not None
    assert found.head.ending is not None
    assert (found.head.ending.reason, found.head.ending.step) == (EndReason.ENDED, 2)
    assert found.head.receipts == (receipt(2),)
    assert store.live("model") == 0


def test_ending_step_repeated_is_a_duplicate(store) -> None:
    """A writer that lost the reply of the ending step learns that it stands (D3)."""
    commit_one(store, commit_of(1))
    entry = commit_of(2, end=EndReason.ENDED)
    commit_one(store, entry)

    assert commit_one(store, entry) == Duplicate(receipt(2))


def test_sequence_of_one_step_is_created_and_ended_at_once(store) -> None:
    """A first step may be the last."""
    entry = commit_of(1, end=EndReason.ENDED)

    results = [commit_one(store, entry), commit_one(store, entry)]

    assert isinstance(results[0], Ok)
    assert results[1] == Duplicate(receipt(1))
    assert store.live("model") == 0


def test_step_after_the_end_is_gone_with_the_ending(store) -> None:
    """Gone says what became of the sequence."""
    commit_one(store, commit_of(1, end=EndReason.ENDED))

    result = commit_one(store, commit_of(2))

    assert isinstance(result, Gone)
    assert (result.ending.reason, result.ending.step) == (EndReason.ENDED, 1)


def test_id_can_be_used_again_after_the_end(store) -> None:
    """A tombstone does not block a new incarnation."""
    commit_one(store, commit_of(1, end=EndReason.ENDED))

    assert isinstance(commit_one(store, commit_of(1, Y)), Ok)
    assert store.read(KEY)[0].incarnation == Y


def test_stale_epoch_is_fenced(store) -> None:
    """An owner that lost the sequence is told so, with epoch and step (D4)."""
    commit_one(store, commit_of(1))
    store.acquire(KEY, "b")
    before = snapshot(store)

    assert commit_one(store, commit_of(2)) == Fenced(2, 1)
    assert snapshot(store) == before


def test_duplicate_comes_before_fenced(store) -> None:
    """An owner that lost first its reply and then the sequence learns that its step stands."""
    commit_one(store, commit_of(1))
    entry = commit_of(2)
    commit_one(store, entry)
    store.acquire(KEY, "b")

    assert commit_one(store, entry) == Duplicate(receipt(2))


def test_fenced_comes_before_conflict(store) -> None:
    """A commit that is wrong in both epoch and step hears of the epoch."""
    commit_one(store, commit_of(1))
    store.acquire(KEY, "b")

    assert commit_one(store, commit_of(5)) == Fenced(2, 1)


def test_epoch_never_given_is_fenced(store) -> None:
    """A commit with an epoch ahead of the record's is refused as well (D4: equal)."""
    commit_one(store, commit_of(1))

    assert commit_one(store, commit_of(2, epoch=9)) == Fenced(1, 1)


def test_gone_comes_before_fenced(store) -> None:
    """A fenced writer of a dead sequence hears that it is dead."""
    commit_one(store, commit_of(1))
    store.acquire(KEY, "b")
    store.delete(KEY, X, EndReason.CANCELLED)

    assert isinstance(commit_one(store, commit_of(2)), Gone)


def test_entries_of_a_batch_are_decided_one_by_one(store) -> None:
    """A batch is a unit of work, not of fate; results come in the same order (D6)."""
    keys = [SequenceKey("model", number) for number in range(5)]
    store.commit([commit_of(1, key=key) for key in keys[:4]])
    store.acquire(keys[1], "b")
    store.delete(keys[2], X, EndReason.EVICTED)

    results = store.commit(
        [
            commit_of(2, key=keys[0]),
            commit_of(2, key=keys[1]),
            commit_of(2, key=keys[2]),
            commit_of(3, key=keys[3]),
            commit_of(1, key=keys[4]),
            commit_of(1, key=keys[3]),
        ]
    )

    kinds = [type(result) for result in results]
    assert kinds == [Ok, Fenced, Gone, Conflict, Ok, Duplicate]
    assert [store.read(keys[n])[0].step for n in (0, 1, 3, 4)] == [2, 1, 1, 1]


def test_one_batch_may_hold_two_steps_of_a_sequence(store) -> None:
    """Entries are decided in order, each on what the ones before it left."""
    results = store.commit([commit_of(1), commit_of(1), commit_of(2), commit_of(2), commit_of(4)])

    kinds = [type(result) for result in results]
    assert kinds == [Ok, Duplicate, Ok, Duplicate, Conflict]
    assert store.read(KEY)[1] == state(2)


def test_empty_batch_changes_nothing(store) -> None:
    """Nothing to commit is no error."""
    assert store.commit([]) == []
    assert store.statistics().live == 0


def test_number_and_text_are_different_ids(store) -> None:
    """``7`` is not ``"7"``, and the same id in two models is two sequences."""
    third = SequenceKey("other model", 7)

    results = store.commit([commit_of(1), commit_of(1, Y, key=OTHER), commit_of(1, Z, key=third)])

    assert [type(result) for result in results] == [Ok] * 3
    found = [store.read(key)[0].incarnation for key in (KEY, OTHER, third)]
    assert found == [X, Y, Z]


@pytest.mark.parametrize("name", [2**64 - 1, 2**63, 1, "ключ", "a\0b", "x" * 200, " "])
def test_any_id_comes_back_as_it_was(store, name) -> None:
    """The whole range of uint64 and any text are ids."""
    key = SequenceKey("m/ö", name)

    commit_one(store, commit_of(1, key=key))

    (row,) = store.list()
    assert row.key == key
    assert type(row.key.correlation_id) is type(name)
    assert store.read(key)[0].step == 1


def test_state_of_any_shape_comes_back_bit_for_bit(store) -> None:
    """Several tensors, empty ones and growing ones are kept as they are."""
    row = state(1)._replace(
        data=(bytes(range(256)), b"", b"\xff" * 40_000), shapes=((2, 1, 32), (1, 0, 4), (1, 10_000))
    )
    grown = row._replace(data=(row.data[0], b"abcd", row.data[2]), shapes=((2, 1, 32), (1, 1), ()))
    commit_one(store, commit_of(1, state=row))
    first = store.read(KEY)[1]

    commit_one(store, commit_of(2, state=grown))

    assert first == row
    assert store.read(KEY)[1] == grown


def test_sequence_without_state_is_kept(store) -> None:
    """A model may carry nothing and still count steps."""
    nothing = state(1)._replace(data=(), shapes=())

    commit_one(store, commit_of(1, state=nothing))

    assert store.read(KEY)[1] == nothing


def test_receipts_of_any_content_are_kept(store) -> None:
    """Receipts may be many, empty, long, and hold any bytes."""
    kept = (
        receipt(1, "", b"")._replace(response=b""),
        receipt(2, "é" * 64, b"\0" * 8)._replace(response=b"\0\xff" * 5000),
    )
    commit_one(store, commit_of(1))

    commit_one(store, commit_of(2, receipts=kept))

    assert store.read(KEY)[0].receipts == kept
