"""What a config says beyond the file: first values, and that it names everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.models import tiny
from tests.models import triton_models as models

from legato.core.errors import ConfigError
from legato.core.text import join_texts
from legato.core.types import StateRow
from legato.engine.arena import StateLayout
from legato.repository.config import InputConfig, ModelConfig, OutputConfig, StateConfig
from legato.runtimes.onnx import load

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from legato.runtimes.onnx.runtime import OnnxRuntime


def loaded(folder: Path, model: onnx.ModelProto, **options: object) -> OnnxRuntime:
    """Load a model."""
    return load(ModelConfig(name="m", folder=folder, file=tiny.save(model, folder), **options))


def past(**options: object) -> dict[str, object]:
    """Say what carries the past of the ragged model."""
    return {
        "states": [
            StateConfig(input="PAST_IN", output="PAST_OUT", batch_axis=0, shape=[1, -1], **options)
        ],
        "inputs": {"INPUT": InputConfig(batch_axis=0)},
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, np.zeros((1, 0))),
        ({"first_shape": [1, 2]}, np.zeros((1, 2))),
        ({"first_shape": [1, 2], "initial": 7}, np.full((1, 2), 7)),
        ({"first_shape": [1, 3], "initial": "raw"}, np.array([[1, 2, 3]])),
    ],
)
def test_a_size_that_varies_begins_as_it_is_told(tmp_path: Path, options, expected) -> None:
    """With nothing said it begins as 0; a file gives its values row by row."""
    (tmp_path / "raw").write_bytes(np.array([1, 2, 3, 4], "<f4").tobytes())

    runtime = loaded(tmp_path, models.ragged(), **past(**options))
    first = StateLayout(runtime.signature).initial({})

    assert first.shapes == (expected.shape,)
    assert np.frombuffer(first.data[0], "<f4").tolist() == expected.ravel().tolist()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"first_shape": [1, 2], "initial": "none"}, "No such file"),
        ({"first_shape": [1, 5], "initial": "short"}, "4 bytes, 20 are needed"),
        ({"first_shape": [2, 2]}, "is \\[2, 2\\] in the config"),
    ],
)
def test_a_first_value_that_cannot_be_is_refused(tmp_path: Path, options, told) -> None:
    """The error names the state."""
    (tmp_path / "short").write_bytes(b"1234")

    with pytest.raises(ConfigError, match=told) as refused:
        loaded(tmp_path, models.ragged(), **past(**options))

    assert "PAST_IN" in str(refused.value)


def test_a_size_that_the_file_fixes_does_not_vary(tmp_path: Path) -> None:
    """Though the config would let it: Triton's documentation writes -1 for a state of one."""
    states = [
        StateConfig(
            input="state", output="next_state", shape=[1, -1], first_shape=[1, 4], batch_axis=0
        )
    ]

    runtime = loaded(tmp_path, tiny.accumulator(width=4), states=states)

    assert runtime.signature.states[0].shape == (1, 4)
    assert StateLayout(runtime.signature).fixed


def words(**options: object) -> dict[str, object]:
    """Say what carries the words of the text model."""
    return {
        "states": [StateConfig(input="TEXT_IN", output="TEXT_OUT", batch_axis=0, **options)],
        "outputs": {"BEFORE": OutputConfig(batch_axis=0)},
    }


def test_a_state_of_text_is_carried_as_bytes(tmp_path: Path) -> None:
    """It begins empty, or with the texts of a file; rows of a batch keep theirs."""
    (tmp_path / "raw").write_bytes(join_texts([b"once", b"upon"]))
    plain = StateLayout(loaded(tmp_path, models.text(), **words()).signature)
    runtime = loaded(tmp_path, models.text(), **words(first_shape=[1, 2], initial="raw"))
    layout = StateLayout(runtime.signature)
    first = layout.initial({})
    other = StateRow((join_texts([b"a", b"longer one"]),), first.shapes)

    states, _windows = layout.gather([first, other])
    following = layout.split({"TEXT_IN": states["TEXT_IN"][::-1]}, [first, other], [True, False])

    assert plain.initial({}).data == (join_texts([b"", b""]),)
    assert states["TEXT_IN"].tolist() == [[b"once", b"upon"], [b"a", b"longer one"]]
    assert [row.data for row in following] == [other.data, first.data]
    assert layout.fits(first)
    assert not layout.fits(StateRow((b"\5\0\0\0cut",), first.shapes))
    assert not layout.fits(StateRow((join_texts([b"one"]),), first.shapes))


def test_texts_must_be_as_many_as_the_state_holds(tmp_path: Path) -> None:
    """One too few is an error at load."""
    (tmp_path / "raw").write_bytes(join_texts([b"once"]))

    with pytest.raises(ConfigError, match="has 1 texts, 2 are needed"):
        loaded(tmp_path, models.text(), **words(first_shape=[1, 2], initial="raw"))


def test_an_input_that_clients_send_is_no_state(tmp_path: Path) -> None:
    """However much its name looks like one."""
    found = loaded(tmp_path, tiny.accumulator())
    told = loaded(tmp_path, tiny.accumulator(), inputs={"state": InputConfig(from_client=True)})

    assert [state.input for state in found.signature.states] == ["state"]
    assert told.signature.states == ()


def test_a_config_may_name_everything(tmp_path: Path) -> None:
    """Then an input that it does not name is an error, and an output not served."""
    named = {"x": InputConfig(from_client=True)}
    runtime = loaded(
        tmp_path,
        tiny.accumulator(),
        inputs=named,
        outputs={"next_state": OutputConfig(), "y": OutputConfig()},
        only_named_inputs=True,
        only_named_outputs=True,
    )

    assert [spec.name for spec in runtime.signature.outputs] == ["next_state", "y"]
    with pytest.raises(ConfigError, match="configuration expects 1 inputs, model provides 2"):
        loaded(tmp_path, tiny.accumulator(), inputs=named, only_named_inputs=True, discover=False)


def test_whole_shapes_are_no_rows(tmp_path: Path) -> None:
    """Where the config gives another size than 1, what looks like the batch is not."""
    runtime = loaded(
        tmp_path,
        tiny.echo(),
        discover=False,
        inputs={"x": InputConfig(shape=[-1, 3])},
        outputs={"x_out": OutputConfig(shape=[-1, 3])},
    )

    (x,), (y,) = runtime.signature.inputs, runtime.signature.outputs
    assert x.shape == (-1, 3)
    assert (y.batch_axis, y.shape) == (None, (-1, 3))
    assert not runtime.signature.batching
