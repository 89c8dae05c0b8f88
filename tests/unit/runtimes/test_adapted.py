"""Clients see other shapes than the model has."""

from __future__ import annotations

import numpy as np
import pytest

from legato.core.errors import SignatureError
from legato.core.types import EndReason, Signature, TensorSpec
from legato.repository.config import InputConfig, ModelConfig, OutputConfig
from legato.runtimes.adapted import adapted
from legato.runtimes.base import StepBatch, StepResult


class Spy:
    """Keeps the shape that it was fed; answers with the same values."""

    def __init__(self, own: tuple[int, ...]) -> None:
        self.signature = Signature(
            (TensorSpec("x", "float32", own),), (TensorSpec("y", "float32", own),)
        )
        self.shapes: list[tuple[int, ...]] = []
        self.told: list[object] = []

    def step(self, batch):
        self.shapes.append(batch.inputs["x"].shape)
        return StepResult({"y": batch.inputs["x"]}, {})

    def sequence_ended(self, correlation_id, reason):
        self.told.append((correlation_id, reason))

    def close(self):
        self.told.append("closed")


def put(spy, shape, reshape):
    """Put a runtime behind its config."""
    config = ModelConfig(
        name="m",
        inputs={"x": InputConfig(shape=shape, reshape=reshape)},
        outputs={"y": OutputConfig(shape=shape, reshape=reshape)},
    )
    return adapted(config, spy)


@pytest.mark.parametrize(
    ("shape", "reshape", "sent", "fed"),
    [
        ([1, 1], [1], (3, 1), (3,)),
        ([1, 4], [1, 2, 2], (3, 4), (3, 2, 2)),
        ([1, 2, -1], [1, -1, 2], (3, 2, 5), (3, 5, 2)),
        ([4], [2, 2], (4,), (2, 2)),
    ],
)
def test_values_keep_their_order(shape, reshape, sent, fed) -> None:
    """In on the way in, and back on the way out; sizes that vary stay what they are."""
    spy = Spy(tuple(reshape))
    runtime = put(spy, shape, reshape)
    value = np.arange(np.prod(sent), dtype=np.float32).reshape(sent)

    result = runtime.step(StepBatch({"x": value}, {}, ()))

    assert spy.shapes == [fed]
    assert result.outputs["y"].tolist() == value.tolist()
    assert runtime.signature.inputs[0].shape == tuple(shape)
    assert runtime.signature.outputs[0].shape == tuple(shape)


def test_an_output_that_does_not_fit_fails_the_step() -> None:
    """It is the model that is wrong, and the error says how."""
    spy = Spy((1, 4))
    spy.step = lambda _batch: StepResult({"y": np.zeros((1, 3), np.float32)}, {})

    with pytest.raises(SignatureError, match=r"'y' has shape \[1, 3\]"):
        put(spy, [1, 2, 2], [1, 4]).step(StepBatch({"x": np.zeros((1, 2, 2), np.float32)}, {}, ()))


def test_a_config_that_asks_for_nothing_changes_nothing() -> None:
    """The runtime is handed through as it is."""
    spy = Spy((1, 4))

    assert adapted(ModelConfig(name="m"), spy) is spy


def test_ends_reach_the_model() -> None:
    """Of sequences, and its own; only what can be cloned is."""
    spy = Spy((1,))
    runtime = put(spy, [1, 1], [1])

    runtime.sequence_ended(7, EndReason.ENDED)
    runtime.close()

    assert spy.told == [(7, EndReason.ENDED), "closed"]
    assert not hasattr(runtime, "clone")
    spy.clone = lambda: Spy((1,))
    assert put(spy, [1, 1], [1]).clone().signature.inputs[0].shape == (1, 1)
