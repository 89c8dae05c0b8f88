"""``pb_utils.Tensor`` and the names of types."""

from __future__ import annotations

import numpy as np
import pytest

from legato.runtimes.triton_python.errors import TritonModelException
from legato.runtimes.triton_python.tensors import (
    Tensor,
    deserialize_bytes_tensor,
    numpy_to_triton_type,
    serialize_byte_tensor,
    triton_string_to_numpy,
    triton_to_numpy_type,
)

KINDS = ["BOOL", "UINT8", "INT16", "UINT64", "FP16", "FP32", "FP64", "STRING"]


@pytest.mark.parametrize("name", KINDS)
def test_names_numbers_and_numpy_types_agree(name: str) -> None:
    """A type's name leads to numpy's, its number leads there too, and back."""
    kind = triton_string_to_numpy(f"TYPE_{name}")

    assert triton_to_numpy_type(numpy_to_triton_type(kind)) is kind


def test_numbers_are_those_of_triton() -> None:
    """They are part of its API: BOOL is 1, FP32 11, strings are 13."""
    kinds = (np.bool_, np.float32, np.object_, "U3", "S3")

    assert [numpy_to_triton_type(kind) for kind in kinds] == [1, 11, 13, 13, 13]


def test_unknown_names_and_types_are_told() -> None:
    """A name that is none gives nothing; a numpy type without a number is refused."""
    assert triton_string_to_numpy("FP32") is None
    with pytest.raises(TritonModelException, match="complex64"):
        numpy_to_triton_type(np.complex64)


def test_tensor_tells_about_itself() -> None:
    """Name, shape, type and array are those it was made of."""
    tensor = Tensor("X", np.zeros((2, 3), np.int32))

    assert (tensor.name(), tensor.shape(), tensor.triton_dtype()) == ("X", [2, 3], 8)
    assert tensor.is_cpu()
    assert tensor.as_numpy().dtype == np.int32


@pytest.mark.parametrize("array", [[1, 2], np.zeros(1, np.complex64)])
def test_tensor_needs_an_array_that_triton_has(array) -> None:
    """Lists and complex numbers are refused when the tensor is made."""
    with pytest.raises(TritonModelException):
        Tensor("X", array)


def test_strings_survive_being_put_into_one_piece() -> None:
    """Bytes and text, empty ones too."""
    array = np.array([b"ab", "\u00e9", b""], object)

    packed = serialize_byte_tensor(array)

    assert deserialize_bytes_tensor(packed).tolist() == [b"ab", "\u00e9".encode(), b""]
    assert serialize_byte_tensor(np.array([], object)) is None


def test_tensors_go_through_dlpack() -> None:
    """A capsule, or whatever gives one, becomes a tensor with the same numbers."""
    source = Tensor("X", np.arange(4, dtype=np.float32))

    copies = [
        Tensor.from_dlpack("Y", source.to_dlpack()),
        Tensor.from_dlpack("Y", source),
        Tensor.from_dlpack("Y", np.arange(4, dtype=np.float32)),
    ]

    assert [copy.as_numpy().tolist() for copy in copies] == [[0, 1, 2, 3]] * 3


def test_strings_have_no_dlpack() -> None:
    """As in Triton."""
    with pytest.raises(TritonModelException, match="strings"):
        Tensor("X", np.array([b"a"], object)).to_dlpack()
