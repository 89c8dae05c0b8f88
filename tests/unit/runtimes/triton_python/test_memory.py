"""What is kept for sequences: taken out, put back, bound to a worker, or refused."""

from __future__ import annotations

import sys

import pytest

from legato.core.errors import NoSlotError, StateLostError
from legato.runtimes.triton_python.memory import AUTO, BY_ID, IN_MEMORY, Memory, keys_of


class Model:
    def __init__(self, **variables) -> None:
        vars(self).update(variables)


def memory_of(model: Model, *, slots: int = 0, mode: str = AUTO, holes: bool = True) -> Memory:
    return Memory({"model": model}, frozenset(), slots=slots, fills_holes=holes, mode=mode)


def step(memory: Memory, sequence, state: bytes, change, *, over: bool = False):
    """Do what the runtime does for a row that runs by itself."""
    memory.look()
    memory.assign([sequence], [state])
    memory.restore(sequence, state)
    memory.begin([sequence])
    change(memory.place(sequence))
    memory.ended([sequence], judge=True)
    return memory.take(sequence, over=over)


def test_entry_under_an_id_is_that_sequence_s_state() -> None:
    """It goes to another worker, where it is put back before the step."""
    first, second = Model(sums={}), Model(sums={})
    taken = step(memory_of(first), 7, b"", lambda _slot: first.sums.update({7: 5}))

    memory = memory_of(second)
    step(memory, 7, taken.state, lambda _slot: None)

    assert not taken.bound
    assert second.sums == {7: 5}


@pytest.mark.parametrize(
    ("keep", "fork"), [(lambda n: n, 9), (str, 9), (lambda n: str(n).encode(), 9)]
)
def test_fork_finds_what_was_kept_under_its_own_id(keep, fork: int) -> None:
    """In the form in which the model keeps it."""
    first, second = Model(sums={}), Model(sums={})
    state = step(memory_of(first), 7, b"", lambda _slot: first.sums.update({keep(7): 5})).state

    step(memory_of(second), fork, state, lambda _slot: None)

    assert second.sums == {keep(fork): 5}


def test_failed_step_is_taken_back() -> None:
    """Before the next try memory is made what was committed."""
    model = Model(sums={})
    memory = memory_of(model)
    state = step(memory, 7, b"", lambda _slot: model.sums.update({7: 5})).state

    model.sums[7] = 99
    step(memory, 7, state, lambda _slot: None)

    assert model.sums == {7: 5}


def test_new_sequence_finds_nothing_of_an_older_one() -> None:
    """What is left under its id is removed before its first step."""
    model = Model(sums={7: 99})
    found: list = []

    step(memory_of(model), 7, b"", lambda _slot: found.append(dict(model.sums)))

    assert found == [{}]


@pytest.mark.parametrize(("sequence", "key"), [(7, "7"), (7, b"7"), ("a", b"a"), (2**63, -(2**63))])
def test_ids_are_found_in_the_forms_in_which_models_are_told_them(sequence, key) -> None:
    """As text, as bytes, and as a signed number."""
    assert key in keys_of(sequence).values()


def test_what_cannot_be_stored_binds_the_sequence_to_its_worker() -> None:
    """It goes on here, and only from the very state that memory is in."""
    model = Model(decoders={})
    memory = memory_of(model)
    first = step(memory, 7, b"", lambda _slot: model.decoders.update({7: iter("ab")}))

    second = step(memory, 7, first.state, lambda _slot: next(model.decoders[7]))

    assert first.bound
    assert second.bound
    assert not memory.restorable(second.state)
    with pytest.raises(StateLostError):
        memory.restore(7, first.state)


def test_bound_state_is_of_no_use_to_another_worker(monkeypatch) -> None:
    """Another process says that it is lost, whatever it finds under the id."""
    model = Model(decoders={})
    state = step(
        memory_of(model), 7, b"", lambda _slot: model.decoders.update({7: iter("ab")})
    ).state
    other = memory_of(Model(decoders={7: iter("xy")}))
    monkeypatch.setattr("legato.runtimes.triton_python.memory._WORKER", bytes(16))

    other.look()

    with pytest.raises(StateLostError, match="memory of a worker process"):
        other.restore(7, state)


def test_change_that_is_nobody_s_binds_all_sequences(capsys) -> None:
    """It is said once, with the variable and the way to say that it is no state."""
    model = Model(sums={}, mixed=[])
    memory = memory_of(model)

    def change(_slot) -> None:
        model.sums[7] = 1
        model.mixed.append(1)

    taken = step(memory, 7, b"", change)

    said = capsys.readouterr().err
    assert taken.bound
    assert "model.mixed" in said
    assert "legato.options.state" in said
    assert said.count("WARNING") == 1


def test_declared_state_is_believed(capsys) -> None:
    """``by_id`` leaves the rest alone; ``memory`` keeps everything where it is."""
    model = Model(sums={}, calls=[])

    def change(_slot) -> None:
        model.sums[7] = 1
        model.calls.append(1)

    by_id = step(memory_of(model, mode=BY_ID), 7, b"", change)
    model.sums.clear()
    in_memory = step(memory_of(model, mode=IN_MEMORY), 7, b"", change)

    assert (by_id.bound, in_memory.bound) == (False, True)
    assert not capsys.readouterr().err


def test_nothing_found_means_that_it_is_hidden() -> None:
    """Until something was found for some sequence, none is taken to be without state."""
    model = Model(sums={})
    memory = memory_of(model)

    hidden = step(memory, 7, b"", lambda _slot: None)
    kept = step(memory, 8, b"", lambda _slot: model.sums.update({8: 1}))
    empty = step(memory, 9, b"", lambda _slot: None)

    assert (hidden.bound, kept.bound, empty.bound) == (True, False, False)


def test_last_step_binds_nobody() -> None:
    """What is over needs no state."""
    assert not step(memory_of(Model()), 7, b"", lambda _slot: None, over=True).bound


def test_state_by_slot_moves_between_slots() -> None:
    """Where all of it can be put back, any slot will do, and none is waited for."""
    model = Model(sums=[0, 0])
    memory = memory_of(model, slots=2)
    states = [step(memory, n, b"", lambda slot, n=n: _set(model, slot, n)).state for n in (1, 2, 3)]

    memory.look()
    alone = memory.assign([3, 2], [states[2], states[1]])
    memory.restore(3, states[2])
    memory.restore(2, states[1])

    assert not alone
    assert not memory.by_place
    assert model.sums == [3, 2]


def test_hidden_state_by_slot_keeps_its_slot() -> None:
    """One sequence too many is told so, until a slot is free."""
    model = Model(decoders=[iter("ab"), iter("ab")])
    memory = memory_of(model, slots=2)
    places = []
    for name in (1, 2):
        step(memory, name, b"", places.append)

    with pytest.raises(NoSlotError, match="all 2 slots"):
        step(memory, 3, b"", places.append)
    memory.forget(1)
    step(memory, 3, b"", places.append)

    assert places == [0, 1, 0]


def test_without_ready_there_are_no_holes() -> None:
    """A model that cannot tell an empty place from a request is given none."""
    memory = memory_of(Model(decoders=[iter("ab"), iter("ab")]), slots=2, holes=False)

    alone = memory.assign([1, 2], [b"", b""])

    assert alone
    assert not memory.by_place


def test_forgotten_sequence_leaves_nothing() -> None:
    """Models are not told of an eviction, so it is done for them."""
    model = Model(sums={})
    memory = memory_of(model)
    step(memory, 7, b"", lambda _slot: model.sums.update({7: 1}))

    memory.forget(7)

    assert model.sums == {}


def test_lists_of_this_module_are_no_model(capsys) -> None:
    """A step that changes nothing is not accused of it."""
    model = Model(sums={}, module=sys.modules[__name__])

    step(memory_of(model), 7, b"", lambda _slot: model.sums.update({7: 1}))

    assert not capsys.readouterr().err


def _set(model: Model, slot: int | None, value: int) -> None:
    assert slot is not None
    model.sums[slot] = value
