"""Whether a model changes what is nobody's, as far as that can be seen."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from legato.runtimes.triton_python.slots import SlotView
from legato.runtimes.triton_python.watch import Watch, changed, walk


class Engine:
    def __init__(self) -> None:
        self.buffers = {}


def watch(model, *, single: bool = False) -> Watch:
    return Watch(lambda: walk({"model": model}, {Engine}), single=single)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda model: model.array.__setitem__(0, 1), "model.array"),
        (lambda model: model.items.append(1), "model.items"),
        (lambda model: model.counts.update(total=1), "model.counts"),
        (lambda model: model.engine.buffers.update(all=1), "model.engine.buffers"),
        (lambda model: setattr(model, "fresh", [1]), "model.fresh"),
    ],
)
def test_changes_are_seen_wherever_they_are(change, path: str) -> None:
    """Arrays, lists, dictionaries, objects of the model's own classes, new variables."""
    model = SimpleNamespace(array=np.zeros(2), items=[], counts={}, engine=Engine())
    one = watch(model)
    before = one.look({7}, {})

    change(model)

    assert changed(before, one.look({7}, {}), []) == [path]


def test_entries_of_sequences_are_theirs() -> None:
    """What stands under a known id may change."""
    model = SimpleNamespace(sums={}, engine=Engine())
    one = watch(model)
    before = one.look({7}, {})

    model.sums[7] = 1
    model.engine.buffers[7] = [1]

    assert changed(before, one.look({7}, {}), []) == []


@pytest.mark.parametrize(("single", "found"), [(False, []), (True, ["model.calls"])])
def test_mere_numbers_are_state_only_with_a_single_slot(single: bool, found: list) -> None:
    """Who serves many sequences at once cannot keep them in one number."""
    model = SimpleNamespace(calls=0)
    one = watch(model, single=single)
    before = one.look(set(), {})

    model.calls += 1

    assert changed(before, one.look(set(), {}), []) == found


def test_slots_that_took_no_part_must_not_change() -> None:
    """An element of another slot is nobody's to change."""
    model = SimpleNamespace(sums=[0, 0, 0])
    view = {(id(model), "sums"): SlotView(model, "sums", 3)}
    one = watch(model)
    before = one.look(set(), view)

    model.sums[1] = 1
    model.sums[2] = 1

    assert changed(before, one.look(set(), view), [1]) == ["model.sums[2]"]


def test_what_cannot_be_read_is_the_same_as_long_as_it_is_itself() -> None:
    """Weights, locks and sessions in dictionaries and lists do not change by being looked at."""
    model = SimpleNamespace(parts={"lock": object(), "more": [object()]}, row=(object(), 1))
    one = watch(model)
    before = one.look(set(), {})

    same = changed(before, one.look(set(), {}), [])
    model.parts["more"].append(1)

    assert same == []
    assert changed(before, one.look(set(), {}), []) == ["model.parts"]


def test_what_takes_long_is_looked_at_once(monkeypatch) -> None:
    """A table of a million words is no state, and must not cost every call."""
    model = SimpleNamespace(words=["a"], items=[])
    one = watch(model)
    monkeypatch.setattr("legato.runtimes.triton_python.watch._DEAR_S", -1.0)
    before = one.look(set(), {})
    monkeypatch.setattr("legato.runtimes.triton_python.watch._DEAR_S", 1e9)

    model.words.append("b")
    model.items.append(1)

    assert changed(before, one.look(set(), {}), []) == []


def test_first_calls_are_looked_at_and_then_some() -> None:
    """Looking costs, so it is done less often when nothing was found."""
    one = watch(SimpleNamespace())

    due = [one.due() for _ in range(640)]

    assert all(due[:64])
    assert sum(due[64:]) == 9
