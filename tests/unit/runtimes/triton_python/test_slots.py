"""Slots, and what a model keeps by slot."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from legato.runtimes.triton_python.slots import KEY, Slots, SlotView, by_slot


def test_lowest_free_slot_goes_first() -> None:
    """A slot stays with its sequence, and is free again when that is over."""
    slots = Slots(2)

    taken = [slots.take(name) for name in (7, 8, 7, 9)]
    slots.release(7)

    assert taken == [0, 1, 0, None]
    assert (slots.take(9), slots.of(8), slots.of(7)) == (0, 1, None)


@pytest.mark.parametrize("kept", [[0, 0, 0], np.zeros(3, np.int64), np.zeros((3, 2))])
def test_element_of_a_slot_is_taken_out_and_put_back(kept) -> None:
    """What it was at the beginning counts as nothing; other slots are not touched."""
    model = SimpleNamespace(sums=kept)
    view = SlotView(model, "sums", 3)
    view.slot = 1
    before = KEY in view

    kept[1] = 5
    value = np.array(view[KEY])
    view.slot = 2
    view[KEY] = value
    view.slot = 1
    del view[KEY]

    assert (before, KEY in view) == (False, False)
    assert np.asarray(model.sums).sum() == np.asarray(value).sum()
    assert np.array_equal(np.asarray(model.sums)[2], np.asarray(value))


def test_single_slot_holds_the_whole_variable() -> None:
    """A number is replaced, an array is written into: others may look at it."""
    array = np.zeros(2)
    model = SimpleNamespace(total=0, state=array)
    total, state = SlotView(model, "total", 1), SlotView(model, "state", 1)
    total.slot = state.slot = 0

    total[KEY] = 9
    state[KEY] = np.ones(2)

    assert (model.total, model.state is array, array.tolist()) == (9, True, [1, 1])
    assert total.pop(KEY, None) == 9
    assert model.total == 0


def test_without_a_slot_there_is_nothing() -> None:
    """A view that shows no slot is empty, and takes nothing."""
    model = SimpleNamespace(sums=[1, 2])
    view = SlotView(model, "sums", 2)

    view[KEY] = 7

    assert (len(view), list(view), model.sums) == (0, [], [1, 2])


def test_what_cannot_be_stored_is_known_before_the_first_step() -> None:
    """A list of locks is no state that could be moved."""
    import threading

    model = SimpleNamespace(locks=[threading.Lock(), threading.Lock()], sums=[0, 0])

    assert not SlotView(model, "locks", 2).restorable
    assert SlotView(model, "sums", 2).restorable


@pytest.mark.parametrize(
    ("value", "slots", "fits"),
    [
        ([0, 0], 2, True), ([0], 2, False), (np.zeros(2), 2, True), (np.zeros((3, 2)), 2, False),
        (5, 2, False), (5, 1, True), (np.zeros(()), 2, False), ({"a": 1}, 1, True),
    ],
)  # fmt: skip
def test_variables_with_an_element_a_slot_may_be_kept_by_slot(value, slots: int, fits) -> None:
    """With one slot, any plain variable may be."""
    assert by_slot(value, slots) is fits
