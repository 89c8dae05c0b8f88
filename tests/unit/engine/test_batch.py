"""One model call: feeds, controls, defaults, and rows that fail alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from legato.core.errors import ClientError, ModelError, PoisonError, SignatureError
from legato.core.types import (
    ControlKind,
    InputKind,
    Signature,
    StateRow,
    StateSpec,
    TensorSpec,
    UpdateRule,
)
from legato.engine.batch import Batcher, BatchRow, RowResult
from legato.runtimes.base import RowInfo, StepResult

X = TensorSpec("x", "float32", (1, 1))
Y = TensorSpec("y", "float32", (1, 1))
SUM = StateSpec("sum", "sum", "sum", "float32", (1, 1))
ADDER = Signature((X,), (Y,), (SUM,))


def row(x=1.0, total=0.0, /, *, cid=1, number=1, end=False, **inputs) -> BatchRow:
    state = StateRow((np.full((1, 1), total, np.float32).tobytes(),), ((1, 1),))
    if x is not None:
        inputs["x"] = np.full((1, 1), x, np.float32)
    return BatchRow(inputs, state, RowInfo(cid, number, number == 1, end, {}))


def add(batch) -> StepResult:
    total = batch.inputs["x"] + batch.state["sum"]
    return StepResult({"y": total}, {"sum": total})


class Spy:
    """A runtime made of one function; keeps the batches it saw."""

    def __init__(self, function=add) -> None:
        self.function = function
        self.batches = []

    def step(self, batch):
        self.batches.append(batch)
        return self.function(batch)


def values(outcome) -> list:
    return [
        np.frombuffer(r.data[0], np.float32).tolist()[0] if isinstance(r, RowResult) else type(r)
        for r in outcome.rows
    ]


def fed(signature: Signature, *rows: BatchRow) -> dict:
    """What the model was given."""
    spy = Spy(lambda batch: StepResult({}, {"sum": batch.state["sum"]}))
    outcome = Batcher(Signature(signature.inputs, (), (SUM,))).run(spy, rows)
    assert outcome.retried == 0, outcome.rows
    return spy.batches[0].inputs


# -- isolation ----------------------------------------------------------------


def test_rows_share_one_call() -> None:
    """Each with its own state and its own result."""
    spy = Spy()

    outcome = Batcher(ADDER).run(spy, [row(1, 10), row(2, 20), row(3, 30)])

    assert values(outcome) == [11, 22, 33]
    assert len(spy.batches) == 1
    assert outcome.retried == 0


def test_a_row_that_raises_fails_alone() -> None:
    """The batch is run again row by row; the neighbours get what they would have got."""

    def picky(batch):
        if 2 in batch.inputs["x"]:
            raise RuntimeError("two")
        return add(batch)

    outcome = Batcher(ADDER).run(Spy(picky), [row(1), row(2), row(3)])

    assert values(outcome) == [1, ModelError, 3]
    assert "RuntimeError: two" in str(outcome.rows[1])
    assert outcome.retried == 3


def test_a_row_named_as_failed_costs_no_second_call() -> None:
    """With its own error, also where its state is no number."""

    def one_failed(batch):
        result = add(batch)
        result.state["sum"][1] = np.nan
        return StepResult(result.outputs, result.state, {1: ClientError("bad row")})

    spy = Spy(one_failed)
    outcome = Batcher(ADDER).run(spy, [row(1), row(2), row(3)])

    assert values(outcome) == [1, ClientError, 3]
    assert len(spy.batches) == 1


@pytest.mark.parametrize(
    "broken",
    [
        lambda b: StepResult({"y": b.inputs["x"]}, {}),
        lambda b: StepResult({"y": b.inputs["x"]}, {"sum": np.zeros((9, 1), np.float32)}),
        lambda b: StepResult({"y": b.inputs["x"]}, {"sum": np.zeros((1, 1), np.int64)}),
        lambda b: StepResult({"y": np.zeros((9, 1), np.float32)}, {"sum": b.state["sum"]}),
        lambda b: StepResult({}, {"sum": b.state["sum"]}),
    ],
    ids=["no state", "state rows", "state dtype", "output rows", "no output"],
)
def test_a_wrong_result_for_one_row_fails_it_alone(broken) -> None:
    """Whatever the model gets wrong for x = 2, the neighbours do not see it."""
    spy = Spy(lambda batch: broken(batch) if 2 in batch.inputs["x"] else add(batch))

    outcome = Batcher(ADDER).run(spy, [row(1), row(2), row(3)])

    assert values(outcome) == [1, SignatureError, 3]


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_no_number_fails_its_row(poison) -> None:
    """Named as such; may be turned off."""
    rows = [row(1), row(poison), row(3)]

    assert values(Batcher(ADDER).run(Spy(), rows)) == [1, PoisonError, 3]
    trusting = Batcher(ADDER, reject_non_finite=False)
    assert [type(r) for r in trusting.run(Spy(), rows).rows] == [RowResult] * 3


def test_large_numbers_are_no_poison() -> None:
    """A sum that overflows proves nothing."""
    big = 3e38

    assert values(Batcher(ADDER).run(Spy(), [row(big), row(big)])) == pytest.approx([big, big])


def test_poison_on_another_batch_axis_hits_the_right_row() -> None:
    """The batch axis of the state counts, not the first."""
    wide = StateSpec("sum", "s", "s", "float32", (2, 1), batch_axis=1)
    following = np.zeros((2, 3), np.float32)
    following[1, 2] = np.nan
    state = StateRow((bytes(8),), ((2, 1),))
    rows = [BatchRow({}, state, RowInfo(i, 1, True, False, {})) for i in range(3)]

    outcome = Batcher(Signature((), (), (wide,))).run(
        Spy(lambda _b: StepResult({}, {"sum": following})), rows
    )

    assert [isinstance(r, PoisonError) for r in outcome.rows] == [False, False, True]


def test_poison_in_a_value_that_is_not_taken_does_no_harm() -> None:
    """A write-once output is read at the first step only."""
    once = StateSpec("sum", "s", "s", "float32", (1, 1), rule=UpdateRule.WRITE_ONCE)
    nan = StepResult({}, {"sum": np.full((2, 1), np.nan, np.float32)})

    outcome = Batcher(Signature((X,), (), (once,))).run(
        Spy(lambda _b: nan), [row(number=1), row(1, 5, number=2)]
    )

    assert isinstance(outcome.rows[0], PoisonError)
    assert outcome.rows[1].state.data == (np.float32(5).tobytes(),)


def test_a_model_that_keeps_its_buffer_cannot_change_a_result() -> None:
    """Outputs may be views that the next call overwrites."""
    buffer = np.zeros((1, 1), np.float32)

    def reuse(batch):
        buffer[:] = batch.inputs["x"]
        return StepResult({"y": buffer}, {"sum": buffer})

    batcher = Batcher(ADDER)
    first = batcher.run(Spy(reuse), [row(1)])
    batcher.run(Spy(reuse), [row(2)])

    assert values(first) == [1]


# -- feeds -------------------------------------------------------------------------


def test_inputs_are_laid_side_by_side_on_their_axis() -> None:
    """Batch axis 1 here."""
    wide = TensorSpec("x", "float32", (2, 1), batch_axis=1)
    rows = [
        row(None, x=np.array([[1], [2]], np.float32)),
        row(None, x=np.array([[3], [4]], np.float32)),
    ]

    assert fed(Signature((wide,), ()), *rows)["x"].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize(
    ("shape", "default", "expected"),
    [
        ((1,), 7, [7, 7]),
        ((1, 1), 7, [[7], [7]]),
        ((1, 3), [1, 2, 3], [[1, 2, 3]] * 2),
        ((1, 3), [[1, 2, 3]], [[1, 2, 3]] * 2),
        ((1, 2), 7, [[7, 7]] * 2),
        ((1, -1), 7, [[7]] * 2),
        ((1, -1), [1, 2], [[1, 2]] * 2),
    ],
)
def test_a_default_is_repeated_for_every_row(shape, default, expected) -> None:
    """Given as a number or as a row, with the rank of its input."""
    spec = TensorSpec("d", "int64", shape, default=default)

    assert fed(Signature((X, spec), ()), row(1), row(2))["d"].tolist() == expected


def test_an_optional_input_that_is_left_out_is_not_fed() -> None:
    """And fed when it is there."""
    spec = TensorSpec("o", "int64", (1,), optional=True)

    assert "o" not in fed(Signature((X, spec), ()), row(1), row(2))
    given = [row(1, o=np.array([4])), row(2, o=np.array([5]))]
    assert fed(Signature((X, spec), ()), *given)["o"].tolist() == [4, 5]


@pytest.mark.parametrize("sent", [np.array(16000), np.array([16000])])
def test_a_scalar_is_fed_once_with_the_models_rank(sent) -> None:
    """Protocols without rank 0 send one element."""
    spec = TensorSpec("sr", "int64", (), None, InputKind.SCALAR)

    feeds = fed(Signature((X, spec), ()), row(1, sr=sent), row(2, sr=sent))

    assert (feeds["sr"].shape, feeds["sr"].tolist()) == ((), 16000)


def test_a_scalar_has_a_default() -> None:
    """Of its own rank."""
    for shape, expected in (((), 8), ((1,), [8])):
        spec = TensorSpec("sr", "int64", shape, None, InputKind.SCALAR, default=8)
        assert fed(Signature((X, spec), ()), row(1))["sr"].tolist() == expected


def test_a_constant_from_the_client_is_fed_as_state() -> None:
    """WRITE_ONCE without an output: not among the inputs of a later step."""
    const = StateSpec("sum", "c", None, "float32", (1, 1), rule=UpdateRule.WRITE_ONCE)
    spec = TensorSpec("c", "float32", (1, 1))
    spy = Spy(lambda _b: StepResult({}, {}))

    Batcher(Signature((X, spec), (), (const,))).run(spy, [row(1, 5.0), row(1, 6.0)])

    assert set(spy.batches[0].inputs) == {"x"}
    assert spy.batches[0].state["sum"].tolist() == [[5], [6]]


# -- controls -----------------------------------------------------------------------


def control(kind, dtype="int32", shape=(1, 1), axis=0, told=(0, 1)) -> Signature:
    spec = TensorSpec("c", dtype, shape, axis, InputKind.CONTROL, control=kind, control_values=told)
    return Signature((X, spec), ())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ControlKind.START, [1, 0, 0]),
        (ControlKind.NOT_START, [0, 1, 1]),
        (ControlKind.END, [0, 0, 1]),
        (ControlKind.READY, [1, 1, 1]),
    ],
)
@pytest.mark.parametrize("dtype", ["int32", "float32", "bool"])
def test_controls_tell_each_row_its_own(kind, expected, dtype) -> None:
    """Start, not start, end, ready, in any dtype."""
    rows = [row(number=1), row(number=2), row(number=3, end=True)]

    value = fed(control(kind, dtype), *rows)["c"]

    assert (value.dtype.name, value.shape) == (dtype, (3, 1))
    assert value.ravel().astype(int).tolist() == expected


def test_controls_have_their_own_values_and_axis() -> None:
    """As the model's config says."""
    value = fed(
        control(ControlKind.START, "float32", (1, 1), 1, (-1.0, 2.0)), row(), row(number=2)
    )["c"]

    assert value.tolist() == [[2.0, -1.0]]


def test_a_control_of_rank_zero_tells_the_only_row() -> None:
    """For models that are served one by one."""
    value = fed(control(ControlKind.START, "bool", (), None), row())["c"]

    assert (value.shape, value.tolist()) == ((), True)


@pytest.mark.parametrize(
    ("dtype", "cid", "expected"),
    [
        ("uint64", 2**64 - 1, 2**64 - 1),
        ("int64", 2**64 - 1, -1),
        ("uint32", 2**32 + 5, 5),
        ("int32", 2**31, -(2**31)),
        ("object", "abc", b"abc"),
        ("object", 7, b"7"),
    ],
)
def test_the_correlation_id_in_the_models_dtype(dtype, cid, expected) -> None:
    """Large numbers keep their low bits; text needs a text input."""
    value = fed(control(ControlKind.CORRELATION_ID, dtype), row(cid=cid), row(cid=cid))["c"]

    assert value.ravel().tolist() == [expected, expected]


def test_a_text_id_for_a_number_input_is_always_the_same_number() -> None:
    """A model that keeps something by id can tell texts apart, and meets each one again."""
    signature = control(ControlKind.CORRELATION_ID, "uint32")

    first = fed(signature, row(cid="abc"), row(cid="abd"))["c"].ravel().tolist()
    second = fed(signature, row(cid="abd"), row(cid="abc"))["c"].ravel().tolist()

    assert first == second[::-1]
    assert first[0] != first[1]


# -- windows ---------------------------------------------------------------------------


def test_a_window_reaches_the_model_as_part_of_its_input() -> None:
    """The model sees context and new samples; the state is not fed."""
    window = StateSpec("w", "x", None, "float32", (1, 2), rule=UpdateRule.WINDOW, axis=1, size=2)
    spy = Spy(lambda b: StepResult({"y": b.inputs["x"].sum(1, keepdims=True)}, {}))
    state = StateRow((np.array([[5, 6]], np.float32).tobytes(),), ((1, 2),))
    one = BatchRow({"x": np.ones((1, 1), np.float32)}, state, row().info)

    outcome = Batcher(Signature((X,), (Y,), (window,))).run(spy, [one, one])

    assert spy.batches[0].inputs["x"].tolist() == [[5, 6, 1], [5, 6, 1]]
    assert spy.batches[0].state == {}
    assert np.frombuffer(outcome.rows[0].state.data[0], np.float32).tolist() == [6, 1]
    assert values(outcome) == [12, 12]


def test_a_model_that_gives_nonsense_fails_its_rows() -> None:
    """Not an exception of the engine."""
    outcome = Batcher(ADDER).run(Spy(lambda _b: SimpleNamespace()), [row(1)])

    assert values(outcome) == [ModelError]
