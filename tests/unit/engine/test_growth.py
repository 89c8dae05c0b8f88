"""States that grow: what a step copies, keeps, hands back and refuses."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from legato.core.errors import PoisonError, SignatureError, StateFullError
from legato.core.pages import Added, GrownRow, Pages
from legato.core.types import Signature, StateRow, StateSpec, TensorSpec, UpdateRule
from legato.engine import growth
from legato.engine.batch import Batcher, BatchRow, RowResult
from legato.engine.growth import GrowingLayout, layout_of
from legato.runtimes.base import RowInfo, StepResult

CACHE = StateSpec("kv", "past", "present", "float32", (1, 2, -1, 3), rule=UpdateRule.APPEND, axis=2)
CONSTANT = StateSpec("enc", "enc", None, "float32", (1, -1), rule=UpdateRule.WRITE_ONCE)
SUM = StateSpec("sum", "sum", "sum", "float32", (1, 1))
X = TensorSpec("x", "float32", (1, 1))
Y = TensorSpec("y", "float32", (1, 1))


def signature(*states: StateSpec) -> Signature:
    once = (TensorSpec("enc", "float32", (1, -1)),) if CONSTANT in states else ()
    return Signature((X, *once), (Y,), states or (CACHE,))


class Decoder:
    """Appends an entry made of the input and of all entries before; counts what it is given."""

    def __init__(self, *, lasting: bool = True, rewrites: bool = False, new_only=False) -> None:
        self.lasting = lasting
        self.rewrites = rewrites
        self.new_only = new_only
        self.seen: list[dict] = []

    def step(self, batch):
        self.seen.append(dict(batch.state))
        past = batch.state["kv"]
        x = batch.inputs["x"].reshape(-1, 1, 1, 1)
        before = past.sum((1, 2, 3), keepdims=True) / (6 * past.shape[2] + 1)
        entry = np.broadcast_to(x + before, (len(x), 2, 1, 3)).astype(np.float32)
        present = np.concatenate((-past if self.rewrites else past, entry), 2)
        y = present.sum((1, 2, 3)).reshape(-1, 1)
        state = {"kv": np.ascontiguousarray(entry) if self.new_only else present}
        if "sum" in batch.state:
            state["sum"] = batch.state["sum"] + y
        return StepResult({"y": y.astype(np.float32)}, state, lasting=self.lasting)


class Clips:
    """Sequences that are run together, as the engine runs them."""

    def __init__(self, model: Decoder, count: int = 3, *states: StateSpec) -> None:
        self.model = model
        self.batcher = Batcher(signature(*states))
        first = {"enc": np.arange(4, dtype=np.float32).reshape(1, 4)}
        self.states = {at: self.batcher.states.initial(first) for at in range(count)}
        self.steps = dict.fromkeys(self.states, 0)
        self.heard: dict[int, list[float]] = {at: [] for at in self.states}

    def run(self, *members: int, end: bool = False) -> list:
        rows = [
            BatchRow(
                {"x": np.full((1, 1), at + self.steps[at] / 8, np.float32)},
                self.states[at],
                RowInfo(at + 1, self.steps[at] + 1, self.steps[at] == 0, end, {}),
            )
            for at in members
        ]
        results = self.batcher.run(self.model, rows).rows
        for at, result in zip(members, results, strict=True):
            if isinstance(result, RowResult):
                self.states[at], self.steps[at] = result.state, self.steps[at] + 1
                self.heard[at].append(np.frombuffer(result.data[0], np.float32).item())
        return results


def test_models_whose_states_do_not_grow_keep_the_plain_layout() -> None:
    """The way of growing states is only gone where there is one."""
    assert not layout_of(signature(SUM)).grows
    assert isinstance(layout_of(signature(SUM, CACHE)), GrowingLayout)


@pytest.mark.parametrize("new_only", [False, True])
@pytest.mark.parametrize("lasting", [False, True])
def test_rows_together_or_alone_give_the_same(new_only, lasting) -> None:
    """Batched in any company, picked out of it and put together again: as one by one."""
    spec = StateSpec(
        "kv", "past", "present", "float32", (1, 2, -1, 3), rule=UpdateRule.APPEND, axis=2,
        append_new_only=new_only,
    )  # fmt: skip
    options = {"lasting": lasting, "new_only": new_only}
    together, alone = (Clips(Decoder(**options), 3, spec, CONSTANT, SUM) for _ in range(2))

    for members in [(0, 1, 2), (0, 1, 2), (2, 0), (1,), (0, 1, 2), (2, 1, 0), (0, 1, 2)] * 3:
        together.run(*members)
        for at in members:
            alone.run(at)

    assert together.heard == alone.heard
    assert together.states == alone.states
    assert together.batcher.states.fits(together.states[0])


def test_a_batch_that_goes_on_gets_the_models_own_arrays() -> None:
    """What grows and what is constant is handed back, not joined again."""
    clips = Clips(Decoder(), 2, CACHE, CONSTANT)
    clips.run(0, 1)
    clips.run(0, 1)
    constant = clips.model.seen[-1]["enc"]
    layout = clips.batcher.states
    present = clips.states[0].batch.arrays["kv"]

    states, _ = layout.gather([clips.states[0], clips.states[1]])
    swapped, _ = layout.gather([clips.states[1], clips.states[0]])

    assert states["kv"] is present
    assert states["enc"] is constant
    assert np.array_equal(swapped["kv"], present[::-1])
    with pytest.raises(ValueError, match="read-only"):
        states["kv"][0] = 0


def test_arrays_that_do_not_last_are_never_handed_back() -> None:
    """A runtime may write its next result over them."""
    clips = Clips(Decoder(lasting=False))
    clips.run(0, 1)

    assert clips.states[0].batch is None


def test_a_state_read_from_a_store_is_gathered_from_its_bytes() -> None:
    """Whoever comes from elsewhere shares a call with those who were here."""
    here, moved = Clips(Decoder()), Clips(Decoder())
    for clips in (here, moved):
        clips.run(0, 1, 2)
    state = moved.states[1]
    moved.states[1] = StateRow(tuple(map(bytes, state.data)), state.shapes)

    for clips in (here, moved):
        clips.run(0, 1, 2)
        clips.run(0, 1, 2)

    assert here.heard == moved.heard
    assert here.states == moved.states


def test_what_changed_is_told_piece_by_piece() -> None:
    """One page for what grew, the value for what was replaced, nothing for what stayed."""
    clips = Clips(Decoder(), 1, CACHE, CONSTANT, SUM)
    clips.run(0)
    clips.run(0)
    state = clips.states[0]

    assert isinstance(state, GrownRow)
    assert isinstance(state.data[0], Pages)
    grown, constant, replaced = state.change
    assert grown == Added(2, state.data[0].parts[-1])
    assert len(grown.page) == 2 * 3 * 4
    assert constant is None
    assert replaced == state.data[2]


def test_a_model_that_changes_its_past_is_carried_whole() -> None:
    """Nothing of what it gave is lost, only the thrift."""
    clips = Clips(Decoder(rewrites=True), 2)
    for _ in range(4):
        clips.run(0, 1)

    last = clips.model.seen[-1]["kv"]
    assert np.array_equal(last[:, :, :2], -clips.model.seen[-2]["kv"])
    assert isinstance(clips.states[0].data[0], bytes)
    assert clips.states[0].change == (clips.states[0].data[0],)


def test_a_model_that_begins_to_change_its_past_is_refused() -> None:
    """Its word was believed by then; the step fails and says what to declare."""
    clips = Clips(Decoder(), 1)
    for _ in range(growth._PROOFS + 2):
        clips.run(0)
    before = clips.states[0]
    clips.model.rewrites = True

    results = [clips.run(0)[0] for _ in range(growth._PROVE_EVERY)]

    refused = [each for each in results if isinstance(each, SignatureError)]
    assert len(refused) == 1
    assert "give it the rule 'replace'" in refused[0].message
    assert before.shapes == ((1, 2, growth._PROOFS + 2, 3),)


def test_the_last_step_of_a_full_sequence_is_answered() -> None:
    """At its longest length a state takes no further step, and loses nothing; it can end."""
    spec = StateSpec(
        "kv", "past", "present", "float32", (1, 2, -1, 3), rule=UpdateRule.APPEND, axis=2,
        max_length=2,
    )  # fmt: skip
    clips = Clips(Decoder(), 2, spec)
    clips.run(0, 1)
    clips.run(0, 1)
    full = dict(clips.states)
    calls = len(clips.model.seen)

    refused = clips.run(0, 1)

    assert [type(each) for each in refused] == [StateFullError] * 2
    assert "longest allowed length of 2" in refused[0].message
    assert clips.states == full
    assert len(clips.model.seen) == calls + 1  # not once more for each row
    assert isinstance(clips.run(0, end=True)[0], RowResult)


def test_only_new_entries_are_looked_at_for_nan() -> None:
    """A row whose new entry is not finite fails alone."""
    clips = Clips(Decoder(), 2)
    clips.run(0, 1)
    clips.steps[1] = float("nan")

    first, second = clips.run(0, 1)

    assert isinstance(first, RowResult)
    assert isinstance(second, PoisonError)


def test_a_step_that_adds_nothing_changes_nothing() -> None:
    """A model may answer without growing."""
    layout = layout_of(signature())
    old = [layout.initial({})]
    one = np.ones((1, 2, 1, 3), np.float32)
    first = layout.grow({"kv": one}, old, [True], layout.gather(old)[0])

    same = layout.grow({"kv": one}, first, [False], layout.gather(first)[0])

    assert same == first
    assert same[0].change == (None,)


def test_new_entries_must_fit_the_old() -> None:
    """A piece of other sizes is refused by name."""
    spec = StateSpec(
        "kv", "past", "new", "float32", (1, -1, -1), rule=UpdateRule.APPEND, axis=1,
        append_new_only=True,
    )  # fmt: skip
    layout = layout_of(signature(spec))
    old = [layout.initial({})]
    old = layout.grow({"kv": np.ones((1, 1, 3), np.float32)}, old, [True], layout.gather(old)[0])

    with pytest.raises(SignatureError, match="state 'kv' has shape"):
        layout.grow({"kv": np.ones((1, 1, 4), np.float32)}, old, [False], layout.gather(old)[0])


def test_arrays_live_as_long_as_a_row_of_theirs() -> None:
    """When all sequences of a call have moved on or ended, nothing of it is held."""
    clips = Clips(Decoder(), 2)
    clips.run(0, 1)
    batch = weakref.ref(clips.states[0].batch)

    clips.run(0)
    assert batch() is not None
    clips.states[1] = clips.states[0]
    gc.collect()

    assert batch() is None


def test_the_oldest_arrays_go_first_when_there_are_too_many(monkeypatch) -> None:
    """One idle sequence must not hold the whole of its last batch for ever."""
    monkeypatch.setattr(growth, "KEPT_BYTES", 100)
    clips = Clips(Decoder(), 4)
    for _ in range(4):
        for at in range(4):
            clips.run(at)

    held = [sum(a.nbytes for a in s.batch.arrays.values()) for s in clips.states.values()]
    assert held == [0, 0, 0, 96]  # a batch of four entries: 4 * 24 bytes
    clips.run(0)
    assert len(clips.heard[0]) == 5


def test_texts_cannot_be_appended_one_by_one() -> None:
    """They have no size of their own; the model is refused at load."""
    spec = StateSpec(
        "t", "t", "n", "object", (1, -1), rule=UpdateRule.APPEND, axis=1, append_new_only=True
    )

    with pytest.raises(SignatureError, match="texts"):
        layout_of(signature(spec))
