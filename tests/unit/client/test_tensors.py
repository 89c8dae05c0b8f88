"""What a user hands in is made to fit, or refused with the name of what does not."""

from __future__ import annotations

import numpy as np
import pytest

from legato.client.errors import InvalidInputError, SequenceError
from legato.client.tensors import ModelInfo, Outputs, Packer, TensorInfo, decode, numpy_dtype

X = TensorInfo("x", "FP32", (-1, 4))


def model(*inputs: TensorInfo, outputs: int = 1, batched: bool = True) -> ModelInfo:
    names = tuple(TensorInfo(f"y{index}", "FP32", (-1, 4)) for index in range(outputs))
    return ModelInfo("m", ("1",), inputs or (X,), names, batched=batched)


@pytest.mark.parametrize(
    "value",
    [
        np.ones((1, 4), np.float32),
        np.ones(4),
        [1, 1, 1, 1],
        np.ones((2, 4), np.float32)[:1],
        np.asfortranarray(np.ones((1, 4))),
    ],
)
def test_bare_array_becomes_the_one_input(value) -> None:
    """The batch axis is added and the dtype made the model's."""
    payload, bare = Packer(model(), {}).pack(value)

    assert bare
    assert payload.headers == (("x", "FP32", (1, 4)),)
    assert payload.raws == (np.ones(4, np.float32).tobytes(),)


def test_scalar_fits_where_every_size_is_one() -> None:
    """``step(3)`` is enough for a model of one number."""
    payload, _bare = Packer(model(TensorInfo("x", "INT64", (-1, 1))), {}).pack(3)

    assert payload.headers[0][2] == (1, 1)


@pytest.mark.parametrize(
    ("tensor", "value", "problem"),
    [
        (X, np.ones((1, 5)), r"x: FP32\[-1,4\]' does not fit: got shape \[1, 5\]"),
        (X, np.ones((2, 4)), "one row"),
        (X, "text", "got <U4"),
        (X, [[1], [1, 2]], "it is no array"),
        (TensorInfo("i", "INT32", (-1, 1)), 1.5, "got float64"),
        (TensorInfo("i", "INT8", (-1, 2)), [1, 300], "got values from 1 to 300"),
        (TensorInfo("s", "BYTES", (-1, 1)), 7, "elements are str or bytes, got int"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tensor, value, problem) -> None:
    """Name, type and shape of the input are in the message."""
    with pytest.raises(InvalidInputError, match=problem):
        Packer(model(tensor), {}).pack(value)


def test_names_and_numbers_of_inputs_are_checked() -> None:
    """A name that is not there, one that is missing, and a bare array for two inputs."""
    packer = Packer(model(X, TensorInfo("z", "FP32", (-1, 4))), {})

    with pytest.raises(InvalidInputError, match="no input 'w', but 'x', 'z'"):
        packer.pack({"w": np.ones(4)})
    with pytest.raises(InvalidInputError, match="needs 'z' with every step"):
        packer.pack({"x": np.ones(4)})
    with pytest.raises(InvalidInputError, match="takes 'x', 'z'"):
        packer.pack(np.ones(4))
    with pytest.raises(InvalidInputError, match="no output 'q', but 'y0'"):
        Packer(model(), {}, ["q"])


def test_constants_and_optional_inputs_leave_room_for_a_bare_array() -> None:
    """Only what has to be given with each step counts."""
    rate = TensorInfo("rate", "INT64", (), optional=True)
    gain = TensorInfo("gain", "FP32", (-1, 1))

    payload, bare = Packer(model(X, rate, gain), {"gain": 2}).pack(np.ones(4))

    assert bare
    assert [header[0] for header in payload.headers] == ["gain", "x"]


def test_output_is_bare_only_if_it_is_the_only_one() -> None:
    """Two outputs come as a mapping; one of them, if asked for, comes bare."""
    assert not Packer(model(outputs=2), {}).pack(np.ones(4))[1]
    assert Packer(model(outputs=2), {}, ["y1"]).pack(np.ones(4))[1]
    assert not Packer(model(), {}).pack({"x": np.ones(4)})[1]


def test_input_is_copied() -> None:
    """A user's buffer may be filled anew while the step is under way."""
    buffer = np.ones(4, np.float32)

    payload, _bare = Packer(model(), {}).pack(buffer)
    buffer[:] = 2

    assert payload.raws == (np.ones(4, np.float32).tobytes(),)


def test_strings_survive_both_ways() -> None:
    """Texts go as UTF-8 and come back as bytes."""
    packer = Packer(model(TensorInfo("s", "BYTES", (-1, 2))), {})

    payload, _bare = packer.pack(["ä", b"\0b"])

    assert decode(payload.raws[0], "BYTES", (1, 2)).tolist() == [["ä".encode(), b"\0b"]]


def test_decoded_array_may_be_written() -> None:
    """An answer is the user's own memory."""
    array = decode(np.arange(4, dtype=np.float32).tobytes(), "FP32", [1, 4])

    array += 1

    assert array.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_bytes_that_do_not_fit_are_an_error(datatype) -> None:
    """Nothing is guessed about a broken answer."""
    with pytest.raises(SequenceError, match="does not fit its shape"):
        decode(b"\1\0\0", datatype, [1, 4])


def test_unknown_data_type_is_named() -> None:
    """A newer server may know more types than this client."""
    with pytest.raises(InvalidInputError, match="FP4"):
        numpy_dtype("FP4")


def test_outputs_are_a_mapping_with_facts() -> None:
    """Names to arrays, and which step it was."""
    outputs = Outputs({"y": np.ones((1, 4))}, 3, replayed=True, version="1")

    assert list(outputs) == ["y"]
    assert outputs["y"].shape == (1, 4)
    assert repr(outputs) == "<Outputs step=3 y[1, 4] replayed>"
