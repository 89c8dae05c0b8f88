"""Models without state: a request may be a batch of the client's own making."""

from __future__ import annotations

import numpy as np
import pytest

from doubles import ChainRuntime
from legato.core.errors import InputError, ModelError
from legato.core.types import Signature, TensorSpec
from legato.runtimes.base import StepResult

INPUTS = (
    TensorSpec("x", "int64", (1, 2)),
    TensorSpec("y", "int64", (2, 1), batch_axis=1),
    TensorSpec("name", "object", (1, 1), optional=True),
)
OUTPUTS = (
    TensorSpec("sum", "int64", (1, 2)),
    TensorSpec("turned", "int64", (2, 1), batch_axis=1),
    TensorSpec("told", "object", (1, 1)),
)


class Adder(ChainRuntime):
    """Adds two tensors whose batch axes differ; refuses rows that sum up to 13."""

    def __init__(self) -> None:
        super().__init__(Signature(INPUTS, OUTPUTS))
        self.sizes: list[int] = []

    def step(self, batch):
        x = batch.inputs["x"]
        self.sizes.append(len(x))
        total = x + batch.inputs["y"].T
        failed = {
            at: ModelError(f"row {at} is unlucky") for at in np.flatnonzero(total.sum(1) == 13)
        }
        told = batch.inputs.get("name", np.full((len(x), 1), b"nobody", object))
        return StepResult({"sum": total, "turned": total.T, "told": told}, {}, failed)


@pytest.fixture
def world(make):
    """A model of at most four rows a request."""
    h = make(runtimes=Adder)
    h.load(max_batch_size=4)
    return h


def inputs(rows: int, first: int = 0) -> dict[str, np.ndarray]:
    x = np.arange(first, first + 2 * rows).reshape(rows, 2)
    return {"x": x, "y": np.ones((2, rows), np.int64)}


def test_rows_run_together_and_come_back_as_one_answer(world) -> None:
    """Each output on its own batch axis; texts too."""
    given = inputs(3)
    names = np.array([[b"a"], [b""], [b"ccc"]], object)

    reply = world.ask(None, inputs={**given, "name": names})

    total = given["x"] + 1
    assert [header.shape for header in reply.headers] == [(3, 2), (2, 3), (3, 1)]
    assert reply.data[0] == total.tobytes()
    assert reply.data[1] == np.ascontiguousarray(total.T).tobytes()
    assert reply.data[2] == b"\1\0\0\0a\0\0\0\0\3\0\0\0ccc"
    assert world.runtime.sizes == [3]


def test_rows_share_calls_with_other_requests(world) -> None:
    """A batch of two and a single row are one model call."""
    two = world.send(None, inputs=inputs(2))
    one = world.send(None, inputs=inputs(1, first=50))
    world.settle()

    assert world.runtime.sizes == [3]
    assert two.reply.headers[0].shape == (2, 2)
    assert np.frombuffer(one.reply.data[0], np.int64).tolist() == [51, 52]


def test_only_what_was_asked_for_comes_back(world) -> None:
    """In the order asked."""
    reply = world.ask(None, inputs=inputs(2), outputs=("turned",))

    assert [header.name for header in reply.headers] == ["turned"]


def test_a_row_that_fails_fails_its_request(world) -> None:
    """Others are answered."""
    unlucky = world.send(None, inputs=inputs(2, first=3))  # 4 + 5 and 6 + 7
    other = world.send(None, inputs=inputs(2, first=100))
    world.settle()

    assert isinstance(unlucky.error, ModelError)
    assert other.reply.data


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (inputs(5), "batch-size must be <= 4 for 'm', got 5"),
        ({**inputs(3), "y": np.ones((2, 2), np.int64)}, "input 'y' has 2 rows"),
        ({**inputs(2), "x": np.ones((2, 3), np.int64)}, "has shape [1, 3]"),
        ({"x": np.ones((0, 2), np.int64), "y": np.ones((2, 0), np.int64)}, "0 rows"),
    ],
)
def test_a_request_that_is_no_batch_is_refused_as_a_whole(world, given, told) -> None:
    """Nothing of it is run."""
    problem = world.ask(None, inputs=given)

    assert isinstance(problem, InputError)
    assert told in problem.message
    assert world.runtime.sizes == []


def test_what_waits_is_counted_and_comes_to_an_end(world) -> None:
    """Nothing is left over in the engine's counts."""
    world.ask(None, inputs=inputs(4))

    assert world.engine.unanswered == 0
    assert world.engine.tables["m"].unanswered == 0


def test_answers_in_order_hold_for_batches(make) -> None:
    """A batch has one place in line."""
    h = make(runtimes=Adder)
    h.load(max_batch_size=4, preserve_order=True)

    sent = [h.send(None, inputs=inputs(rows)) for rows in (2, 1, 3)]
    h.settle()

    assert [one.reply.headers[0].shape[0] for one in sent] == [2, 1, 3]
