"""What a Python model of Triton takes and gives, as its configuration says it."""

from __future__ import annotations

import pytest

from legato.core.errors import ConfigError
from legato.core.types import ControlKind, InputKind
from legato.repository.config import InputConfig, ModelConfig, OutputConfig
from legato.runtimes.triton_python.signature import STATE, signature_of

START = InputConfig(dtype="float32", shape=[1, 1], control="start", control_values=[0, 1])


def config(**changes) -> ModelConfig:
    tensors = {
        "inputs": {"X": InputConfig(dtype="int32", shape=[1, 4]), "START": START},
        "outputs": {"Y": OutputConfig(dtype="object", shape=[1, -1])},
    }
    values = {"name": "m", "runtime": "triton_python", "instance": "process", **tensors, **changes}
    return ModelConfig(**values)


def test_declared_tensors_are_rows_on_the_first_axis() -> None:
    """Controls are the server's to make."""
    signature = signature_of(config(), {"max_batch_size": 4, "sequence_batching": {}})

    x, start = signature.inputs
    assert (x.dtype, x.shape, x.batch_axis, x.kind) == ("int32", (1, 4), 0, InputKind.DATA)
    assert (start.kind, start.control) == (InputKind.CONTROL, ControlKind.START)
    assert (start.control_values, signature.outputs[0].shape) == ((0, 1), (1, -1))
    assert (signature.batching, signature.asks) == (True, True)


def test_models_with_sequences_have_one_ragged_state() -> None:
    """What they keep is encoded; others have none."""
    with_state = signature_of(config(), {"max_batch_size": 4, "sequence_batching": {}})
    without = signature_of(config(), {"max_batch_size": 4})

    assert [(s.name, s.ragged) for s in with_state.states] == [(STATE, True)]
    assert without.states == ()


def test_without_a_batch_size_shapes_are_whole_and_requests_come_alone() -> None:
    """``max_batch_size: 0``."""
    plain = config(inputs={"X": InputConfig(dtype="int32", shape=[4])})

    signature = signature_of(plain, {"max_batch_size": 0})

    assert (signature.inputs[0].batch_axis, signature.batching) == (None, False)


def test_tensors_that_the_model_added_come_after_the_declared_ones() -> None:
    """With their dims as rows, where there is a batch."""
    added = {"name": "Z", "data_type": "TYPE_STRING", "dims": ["-1"], "optional": True}

    signature = signature_of(config(), {"max_batch_size": 2, "input": [added, {"name": "X"}]})

    z = signature.inputs[-1]
    assert (z.name, z.dtype, z.shape, z.optional) == ("Z", "object", (1, -1), True)
    assert len(signature.inputs) == 3


@pytest.mark.parametrize(
    ("changes", "completed", "text"),
    [
        ({"outputs": {}}, {}, "no output"),
        ({"inputs": {"X": InputConfig(dtype="int32")}}, {}, "no dtype or no shape"),
        ({}, {"input": [{"name": "Z", "data_type": "FP32", "dims": [1]}]}, "data_type FP32"),
    ],
)
def test_what_is_missing_is_named(changes, completed, text: str) -> None:
    """A start-up error says which tensor and what to write."""
    with pytest.raises(ConfigError, match=text):
        signature_of(config(**changes), {"max_batch_size": 2, **completed})
