"""States that grow: every store takes what changed, and gives the whole."""

from __future__ import annotations

import pytest
from store_kit import KEY, X, Y, commit_of, commit_one, receipt

from legato.core.pages import Added, GrownRow, Pages
from legato.core.types import EndReason, SequenceKey
from legato.stores.base import Conflict, Duplicate, Missing, Ok, Owned

TARGET = SequenceKey("model", "copy")
CONSTANT = b"constant" * 100


def grown(step: int, first: int = 0) -> GrownRow:
    """An entry of 2 by 8 bytes a step, a number that is replaced, and a constant."""
    pages = Pages((), 2, 8)
    for number in range(step):
        pages = pages.add(bytes([first + number]) * 16)
    row = GrownRow((pages, step.to_bytes(4, "little"), CONSTANT), ((1, 2, step, 8), (1,), (1, 800)))
    row.change = (Added(2, bytes([first + step - 1]) * 16), step.to_bytes(4, "little"), None)
    return row


def grow(store, *steps: int, **changes) -> None:
    for step in steps:
        entry = commit_of(step, **({"state": grown(step)} | changes))
        assert isinstance(commit_one(store, entry), Ok)


def test_the_whole_state_is_given_after_every_step(store) -> None:
    """Bit for bit, with its bytes in the listing."""
    for step in range(1, 60):
        grow(store, step)

        assert store.read(KEY)[1] == grown(step)
        assert store.look(KEY).state_bytes == grown(step).nbytes


def test_a_new_owner_gets_the_whole_state(store) -> None:
    """And goes on from it."""
    grow(store, 1, 2, 3)

    owned = store.acquire(KEY, "b", hold_s=0.0)

    assert isinstance(owned, Owned)
    assert owned.state == grown(3)
    grow(store, 4, epoch=owned.head.epoch)
    assert store.read(KEY)[1] == grown(4)


def test_a_refused_step_adds_nothing(store) -> None:
    """Whoever comes late, or twice, leaves the state as it is."""
    grow(store, 1, 2, 3)

    late = commit_one(store, commit_of(3, state=grown(3, 100), request_id="other"))
    ahead = commit_one(store, commit_of(5, state=grown(5)))
    again = commit_one(store, commit_of(3, state=grown(3)))

    assert (late, ahead) == (Conflict(3), Conflict(3))
    assert again == Duplicate(receipt(3))
    assert store.read(KEY)[1] == grown(3)


def test_branches_grow_apart(store) -> None:
    """A fork has the entries up to there, and then its own."""
    grow(store, 1, 2, 3)
    store.fork(KEY, 3, TARGET, Y)
    other = grown(4, 100)
    mixed = GrownRow((grown(3).data[0].add(b"!" * 16), *other.data[1:]), other.shapes)
    mixed.change = (Added(2, b"!" * 16), other.data[1], None)

    commit_one(store, commit_of(4, key=TARGET, incarnation=Y, epoch=0, state=mixed))
    grow(store, 4)

    assert store.read(TARGET)[1] == mixed
    assert store.read(KEY)[1] == grown(4)


def test_rolled_back_it_grows_again(store) -> None:
    """The entries after the snapshot are gone."""
    grow(store, 1, 2)
    store.fork(KEY, 2, TARGET, Y)
    grow(store, 3, 4)

    store.fork(TARGET, 2, KEY, b"n" * 16, replaces=X)
    commit_one(store, commit_of(3, incarnation=b"n" * 16, epoch=0, state=grown(3)))

    assert store.read(KEY)[1] == grown(3)


def test_an_end_takes_the_state_along(store) -> None:
    """Its receipts stay, and a new one begins with nothing."""
    grow(store, 1, 2, 3)

    store.delete(KEY, X, EndReason.CANCELLED)

    assert isinstance(store.read(KEY), Missing)
    grow(store, 1, incarnation=Y)
    assert store.read(KEY)[1] == grown(1)


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_it_is_there_after_reopening(open_durable, steps) -> None:
    """And goes on."""
    store = open_durable()
    grow(store, *range(1, steps + 1))

    store = open_durable()

    assert store.read(KEY)[1] == grown(steps)
    grow(store, steps + 1)
    assert store.read(KEY)[1] == grown(steps + 1)
