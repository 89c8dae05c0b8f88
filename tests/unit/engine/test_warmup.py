"""Calls at load: what they feed, and that one which fails is told."""

from __future__ import annotations

import numpy as np
import pytest

from legato.core.errors import ConfigError
from legato.core.types import Signature, StateSpec, TensorSpec
from legato.engine.warmup import warm_up
from legato.repository.config import ModelConfig
from legato.runtimes.base import StepResult

X = TensorSpec("x", "float32", (1, 2))
STATE = StateSpec("h", "h", "h_out", "float32", (1, 2))


class Spy:
    """Keeps what it was fed and whose end it was told."""

    def __init__(self, dtype="float32", *, fails=False) -> None:
        x = TensorSpec("x", dtype, (1, 2))
        self.signature = Signature((x,), (TensorSpec("y", dtype, (1, 2)),), (STATE,))
        self.calls: list[np.ndarray] = []
        self.ended: list[int] = []
        self._fails = fails

    def step(self, batch):
        if self._fails:
            raise RuntimeError("no kernel")
        self.calls.append(batch.inputs["x"])
        return StepResult({"y": batch.inputs["x"]}, {"h": batch.state["h"]})

    def sequence_ended(self, correlation_id, reason):
        self.ended.append(correlation_id)


def run(spy, **given):
    """Warm up with one input."""
    rows, calls = given.pop("rows", 1), given.pop("calls", 1)
    inputs = {"x": {"dtype": spy.signature.inputs[0].dtype, "shape": [1, 2], **given}}
    warmup = {"name": "w", "rows": rows, "calls": calls, "inputs": inputs}
    warm_up(spy, ModelConfig(name="m", warmup=[warmup]))
    return spy


def test_it_calls_as_often_as_it_is_asked() -> None:
    """So many rows at once, so many times; every made-up sequence is over."""
    spy = run(Spy(), rows=3, calls=2)

    assert [call.shape for call in spy.calls] == [(3, 2), (3, 2)]
    assert not np.any(spy.calls)
    assert spy.ended == [1, 2, 3, 1, 2, 3]


def test_values_may_be_random_or_those_of_a_file(tmp_path) -> None:
    """The bytes of a file are the row."""
    (tmp_path / "row").write_bytes(np.array([3, 4], "<f4").tobytes())

    assert np.any(run(Spy(), random=True).calls[0])
    assert run(Spy(), file=tmp_path / "row").calls[0].tolist() == [[3, 4]]


def test_texts_come_each_after_its_length(tmp_path) -> None:
    """As on the wire; without a file they are empty."""
    (tmp_path / "row").write_bytes(b"\2\0\0\0ab\1\0\0\0c")

    assert run(Spy("object"), file=tmp_path / "row").calls[0].tolist() == [[b"ab", b"c"]]
    assert run(Spy("object")).calls[0].tolist() == [[b"", b""]]


@pytest.mark.parametrize(
    ("spy", "given", "told"),
    [(Spy(fails=True), {}, "no kernel"), (Spy(), {"file": "/nowhere"}, "/nowhere")],
)
def test_one_that_fails_is_told(spy, given, told) -> None:
    """The model is not served."""
    with pytest.raises(ConfigError, match=told) as refused:
        run(spy, **given)

    assert "warm-up 'w' of model 'm'" in str(refused.value)
