"""What a model version takes: every reason to refuse an input, grouping, digests."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from doubles import KSERVE
from legato.core.types import (
    ControlKind,
    InputKind,
    Signature,
    StateRow,
    StateSpec,
    Step,
    TensorSpec,
    UpdateRule,
)
from legato.engine.model import ModelHandle, digest_inputs
from legato.engine.work import Sequence, Work
from legato.repository.config import ModelConfig

X = TensorSpec("x", "float32", (1, 2))
ANY = TensorSpec("any", "float32", (1, -1), optional=True)
RATE = TensorSpec("rate", "int64", (), None, InputKind.SCALAR, default=8)
STATE = StateSpec("s", "s", "s", "float32", (1, 1))


class Runtime:
    def __init__(self, signature):
        self.signature = signature


def handle_of(*inputs, outputs=(), states=(STATE,), batching=True, **config) -> ModelHandle:
    signature = Signature(tuple(inputs), tuple(outputs), tuple(states), batching)
    return ModelHandle(ModelConfig(name="m", **config), [Runtime(signature)], "d")


def step_of(**inputs) -> Step:
    return Step("m", 1, inputs, KSERVE)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def test_what_fits_is_taken() -> None:
    """Required, optional and scalar inputs; a scalar as one element too."""
    handle = handle_of(X, ANY, RATE)

    for inputs in (
        {"x": zeros(1, 2)},
        {"x": zeros(1, 2), "any": zeros(1, 9)},
        {"x": zeros(1, 2), "rate": np.array(8)},
        {"x": zeros(1, 2), "rate": np.array([8])},
    ):
        assert handle.check(step_of(**inputs), first=True) is None


@pytest.mark.parametrize(
    ("inputs", "reason", "tensor"),
    [
        ({}, "missing", "x"),
        ({"x": zeros(1, 2, dtype=np.float64)}, "dtype", "x"),
        ({"x": zeros(1, 3)}, "shape", "x"),
        ({"x": zeros(2)}, "shape", "x"),
        ({"x": zeros(3, 2)}, "batch", "x"),
        ({"x": zeros(0, 2)}, "batch", "x"),
        ({"x": zeros(1, 2), "y": zeros(1)}, "unknown", "y"),
        ({"x": zeros(1, 2), "rate": np.array([1, 2])}, "shape", "rate"),
        ({"x": zeros(1, 2), "rate": np.array(1, np.int32)}, "dtype", "rate"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(inputs, reason, tensor) -> None:
    """The error tells reason, tensor and what the model takes."""
    problem = handle_of(X, ANY, RATE).check(step_of(**inputs), first=True)

    assert (problem.reason, problem.tensor) == (reason, tensor)
    assert f"'{tensor}'" in str(problem)


def test_an_output_that_is_not_there_is_refused() -> None:
    """And one that is there is not."""
    handle = handle_of(X, outputs=[TensorSpec("y", "float32", (1,))])
    step = step_of(x=zeros(1, 2))

    step.outputs = ("y",)
    assert handle.check(step, first=True) is None
    step.outputs = ("y", "z")
    problem = handle.check(step, first=True)
    assert (problem.reason, problem.tensor) == ("unknown_output", "z")


def test_a_constant_is_required_at_the_first_step_only() -> None:
    """WRITE_ONCE without an output."""
    const = StateSpec("c", "c", None, "float32", (1, 1), rule=UpdateRule.WRITE_ONCE)
    handle = handle_of(X, TensorSpec("c", "float32", (1, 1)), states=[const])

    assert handle.check(step_of(x=zeros(1, 2)), first=True).reason == "missing"
    assert handle.check(step_of(x=zeros(1, 2)), first=False) is None


def test_controls_are_not_the_clients_business() -> None:
    """The server makes them; a client that sends one is told so."""
    start = TensorSpec("start", "int32", (1,), kind=InputKind.CONTROL, control=ControlKind.START)
    handle = handle_of(X, start)

    assert handle.check(step_of(x=zeros(1, 2)), first=True) is None
    problem = handle.check(step_of(x=zeros(1, 2), start=zeros(1, dtype=np.int32)), first=True)
    assert problem.reason == "unknown"


# -- grouping ------------------------------------------------------------------


def group(handle, state_shapes=((1, 1),), **inputs):
    step = step_of(**inputs)
    assert handle.check(step, first=False) is None
    return Work(handle, Sequence(("m", 1)), step, 2, StateRow((b"",), state_shapes)).group


def test_a_uniform_model_has_one_group() -> None:
    """Nothing to compare."""
    assert group(handle_of(X), x=zeros(1, 2)) is None


def test_rows_are_grouped_by_shape_scalar_and_what_is_there() -> None:
    """Unequal in any of these, they do not share a batch."""
    handle = handle_of(X, ANY, RATE)
    x = zeros(1, 2)
    groups = [
        group(handle, x=x),
        group(handle, x=x, any=zeros(1, 3)),
        group(handle, x=x, any=zeros(1, 4)),
        group(handle, x=x, rate=np.array(8)),
        group(handle, x=x, rate=np.array(16)),
    ]

    assert len(set(groups)) == 5
    assert group(handle, x=x, rate=np.array([16])) == groups[4]
    assert group(handle, x=np.ones((1, 2), np.float32)) == groups[0]


def test_rows_are_grouped_by_the_shape_of_their_state() -> None:
    """Sequences of different length share a server, not a batch."""
    grows = dataclasses.replace(STATE, shape=(1, -1), rule=UpdateRule.APPEND, axis=1)
    handle = handle_of(X, states=[grows])

    short, long = (group(handle, ((1, n),), x=zeros(1, 2)) for n in (1, 2))

    assert short != long
    assert short == group(handle, ((1, 1),), x=zeros(1, 2))


def test_an_input_without_batch_axis_is_compared_by_value() -> None:
    """All rows of a call share it, so they must agree."""
    shared = TensorSpec("table", "float32", (2,), batch_axis=None)
    handle = handle_of(X, shared)
    x = zeros(1, 2)

    a, b = (group(handle, x=x, table=np.full(2, n, np.float32)) for n in (1, 2))

    assert a != b


@pytest.mark.parametrize(
    ("control", "dtype", "classes"),
    [
        (ControlKind.START, "bool", [0, 1, 1, 1]),
        (ControlKind.NOT_START, "bool", [0, 1, 1, 1]),
        (ControlKind.END, "bool", [0, 0, 0, 1]),
        (ControlKind.READY, "bool", [0, 0, 0, 0]),
        (ControlKind.CORRELATION_ID, "int64", [0, 0, 1, 1]),
    ],
)
def test_a_control_that_tells_all_rows_is_grouped_by_what_it_tells(control, dtype, classes) -> None:
    """First steps share a call, later ones share another; nothing is told to a wrong row."""
    lone = TensorSpec("c", dtype, (), None, InputKind.CONTROL, control=control)
    handle = handle_of(X, lone)

    def told(number: int, sequence: int, *, end: bool = False):
        step = step_of(x=zeros(1, 2))
        step.correlation_id, step.end = sequence, end
        assert handle.check(step, first=number == 1) is None
        row = StateRow((b"",), ((1, 1),))
        return Work(handle, Sequence(("m", sequence)), step, number, row).group

    groups = [told(1, 7), told(2, 7), told(9, 8), told(3, 8, end=True)]

    assert [[*dict.fromkeys(groups)].index(group) for group in groups] == classes


# -- limits -------------------------------------------------------------------------


def test_the_batch_limit_follows_the_verdict() -> None:
    """One by one where rows cannot share a call."""
    assert handle_of(X, max_batch_size=7).scheduler.policy.max_batch == 7
    assert handle_of(X, batching=False).scheduler.policy.max_batch == 1


# -- digests --------------------------------------------------------------------------


def test_equal_inputs_have_equal_digests() -> None:
    """Whatever the order of names and the layout in memory."""
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    one = digest_inputs(step_of(x=a, y=a))
    other = digest_inputs(Step("m", 1, {"y": np.asfortranarray(a), "x": a.copy()}, KSERVE))

    assert one == other
    assert len(one) == 8


def test_any_difference_changes_the_digest() -> None:
    """Name, dtype, shape, value, text."""
    a = np.zeros((2, 3), np.float32)
    variants = [
        {"x": a},
        {"y": a},
        {"x": a.astype(np.int32)},
        {"x": a.reshape(3, 2)},
        {"x": a + 1},
        {"x": np.zeros((0, 3), np.float32)},
        {"x": np.array(0, np.float32)},
        {"x": np.array([b"a"], object)},
        {"x": np.array([b"b"], object)},
        {},
    ]

    assert len({digest_inputs(step_of(**inputs)) for inputs in variants}) == len(variants)


@pytest.mark.parametrize("dtype", ["bool", "int8", "float16", "float64", "uint64"])
def test_every_dtype_has_a_digest(dtype) -> None:
    """Of read-only views, too: wire bytes are never written."""
    array = np.ones((1, 3), dtype)
    array.flags.writeable = False

    assert len(digest_inputs(step_of(x=array))) == 8
