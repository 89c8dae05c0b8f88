"""Running a Python model: guarded inputs, checked results, rows that fail alone."""

from types import MappingProxyType

import numpy as np
import pytest

from legato.core.errors import ClientError, ModelError, SignatureError
from legato.model import Batch, Input, Model, Output, Result, Row, RowModel, State
from legato.runtimes.base import RowInfo, StepBatch
from legato.runtimes.python.declaration import signature_of
from legato.runtimes.python.runtime import PythonRuntime


class Average(Model):
    """Running sum, with the batch on axis 0 for data and on axis 1 for state."""

    inputs = (Input("x", "float32", (1, 2)), Input("scale", "float32", (), scalar=True))
    outputs = (Output("y", "float32", (1, 2)),)
    states = (State("sum", "float32", (2, 1), batch_axis=1),)

    def __init__(self):
        self.started = []

    def sequence_started(self, correlation_id):
        self.started.append(correlation_id)

    def step(self, batch: Batch) -> Result:
        total = batch.state["sum"] + batch.inputs["x"].T * batch.inputs["scale"]
        return Result({"y": total.T}, {"sum": total})


class RowAverage(RowModel):
    """The same, row by row; negative input is refused."""

    inputs, outputs, states = Average.inputs, Average.outputs, Average.states

    def step_row(self, row: Row) -> Result:
        if (row.inputs["x"] < 0).any():
            raise ClientError("x must not be negative")
        if (row.inputs["x"] > 1e6).any():
            raise ValueError("too large")
        total = row.state["sum"] + row.inputs["x"].T * row.inputs["scale"]
        return Result({"y": total.T}, {"sum": total})


def runtime(cls):
    model = cls()
    return PythonRuntime(model, signature_of(model, file="model.py", batching=True), None)


def batch(*values, start=False):
    rows = tuple(
        RowInfo(index + 1, 1, start, False, MappingProxyType({})) for index in range(len(values))
    )
    x = np.array(values, np.float32).reshape(-1, 1).repeat(2, 1)
    state = np.full((2, len(values)), 10, np.float32)
    return StepBatch({"x": x, "scale": np.array(2, np.float32)}, {"sum": state}, rows)


@pytest.mark.parametrize("cls", [Average, RowAverage])
def test_rows_advance_independently_on_their_own_axes(cls):
    """Both forms give the same outputs and next state."""
    result = runtime(cls).step(batch(1, 2, 3))

    assert result.outputs["y"].tolist() == [[12, 12], [14, 14], [16, 16]]
    assert result.state["sum"].tolist() == [[12, 14, 16], [12, 14, 16]]
    assert not result.failed


@pytest.mark.parametrize("cls", [Average, RowAverage])
def test_a_step_can_run_again_on_the_same_batch(cls):
    """Nothing outside the result changes."""
    served, call = runtime(cls), batch(1, 2)

    first, second = served.step(call), served.step(call)

    assert first.outputs["y"].tolist() == second.outputs["y"].tolist()
    assert call.state["sum"].tolist() == [[10, 10], [10, 10]]


@pytest.mark.parametrize("name", ["x", "sum"])
def test_writing_in_place_is_an_error(name):
    """Arrays handed in are read-only, the engine's own stay writeable."""

    class Careless(Average):
        def step(self, batch):
            (batch.inputs if name == "x" else batch.state)[name][:] += 1
            return super().step(batch)

    call = batch(1)

    with pytest.raises(ValueError, match="read-only"):
        runtime(Careless).step(call)

    assert call.inputs["x"].flags.writeable


def test_start_reaches_the_hook_before_the_step():
    """``sequence_started`` is told the id of every starting row."""
    served = runtime(Average)

    served.step(batch(1, 2, start=True))
    served.step(batch(1, 2))

    assert served._model.started == [1, 2]


def test_row_that_raises_fails_alone():
    """Row form: errors keep their kind, other rows are served, state stands still."""
    result = runtime(RowAverage).step(batch(1, -1, 2e6, 4))

    assert {row: type(error) for row, error in result.failed.items()} == {
        1: ClientError,
        2: ModelError,
    }
    assert str(result.failed[2]) == "ValueError: too large"
    assert result.outputs["y"][[0, 3], 0].tolist() == [12, 18]
    assert result.state["sum"][0].tolist() == [12, 10, 10, 18]


def test_batch_form_can_fail_single_rows():
    """Rows named in ``failed`` come out as failed."""

    class Picky(Average):
        def step(self, batch):
            result = super().step(batch)
            return Result(result.outputs, result.state, {1: ValueError("no")})

    result = runtime(Picky).step(batch(1, 2))

    assert list(result.failed) == [1]
    assert isinstance(result.failed[1], ModelError)


@pytest.mark.parametrize(
    ("outputs", "state", "message"),
    [
        ({}, None, "no output 'y'"),
        ({"z": (2, 2)}, None, "no output 'y'; it returned 'z'"),
        ({"y": (2, 2), "z": (2, 2)}, None, "output 'z', which it does not declare"),
        ({"y": (3, 2)}, None, r"output 'y' as float32 \(3, 2\); expected float32 \(2, 2\)"),
        ({"y": (2,)}, None, r"expected float32 \(2, 2\)"),
        ({"y": "float64"}, None, r"as float64 \(2, 2\); expected float32"),
        ({"y": "list"}, None, "as list, not an array"),
        (None, {}, "no state 'sum'"),
        (None, {"sum": (2, 3)}, r"state 'sum' as float32 \(2, 3\); expected float32 \(2, 2\)"),
    ],
)
def test_wrong_result_names_what_was_expected(outputs, state, message):
    """Each mistake in a result is a SignatureError that shows both sides."""

    def tensors(shapes):
        made = {}
        for name, shape in shapes.items():
            if shape == "list":
                made[name] = [[1.0, 1.0]] * 2
            elif shape == "float64":
                made[name] = np.zeros((2, 2))
            else:
                made[name] = np.zeros(shape, np.float32)
        return made

    class Wrong(Average):
        def step(self, batch):
            right = super().step(batch)
            return Result(
                right.outputs if outputs is None else tensors(outputs),
                right.state if state is None else tensors(state),
            )

    with pytest.raises(SignatureError, match=message):
        runtime(Wrong).step(batch(1, 2))


def test_result_of_another_type_is_named():
    """Returning a bare dict is told what to return."""

    class Bare(Average):
        def step(self, batch):
            return {"y": 1}

    with pytest.raises(SignatureError, match=r"returned dict; expected Result\(outputs, state\)"):
        runtime(Bare).step(batch(1))


def test_failed_row_outside_the_batch_is_refused():
    """A row number beyond the batch is a mistake, not a silence."""

    class Off(Average):
        def step(self, batch):
            return Result(*self._parts(batch), {5: ValueError("no")})

        def _parts(self, batch):
            result = Average.step(self, batch)
            return result.outputs, result.state

    with pytest.raises(SignatureError, match="failed row 5 of a batch of 2"):
        runtime(Off).step(batch(1, 2))


def test_rows_of_varying_size_are_not_batched():
    """Row form with a free output size runs one row at a time, and says why."""

    class Echo(RowAverage):
        outputs = (Output("y", "float32", (1, -1)),)

    signature = runtime(Echo).signature

    assert not signature.batching
    assert "'y' may differ from row to row" in signature.why
