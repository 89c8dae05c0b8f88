"""Responses as bytes, and back."""

from __future__ import annotations

import numpy as np
import pytest

from legato.core.errors import ModelSaysError
from legato.core.parts import from_part
from legato.core.types import OutputHeader
from legato.runtimes.triton_python.errors import TritonError
from legato.runtimes.triton_python.exchange import (
    outputs_of,
    stack,
    to_part,
    to_parts,
)
from legato.runtimes.triton_python.requests import InferenceResponse
from legato.runtimes.triton_python.tensors import Tensor


def response(**arrays) -> InferenceResponse:
    return InferenceResponse([Tensor(name, np.asarray(value)) for name, value in arrays.items()])


def test_outputs_have_names_types_shapes_and_little_endian_bytes() -> None:
    """Strings come after their length; big-endian arrays are turned round."""
    made = outputs_of(response(A=np.array([1], ">i2"), B=np.array([b"xy"], object)))

    assert made.headers == (OutputHeader("A", "int16", (1,)), OutputHeader("B", "object", (1,)))
    assert made.data == (b"\x01\x00", b"\x02\x00\x00\x00xy")


def test_only_wanted_outputs_are_encoded() -> None:
    """An empty wish is for all of them."""
    both = response(A=[1], B=[2])

    assert [each.name for each in outputs_of(both, ("B",)).headers] == ["B"]
    assert [each.name for each in outputs_of(both, ()).headers] == ["A", "B"]


def test_parts_are_taken_apart_again() -> None:
    """One answer, an error, or several that leave together."""
    good = response(A=np.int32([1]))
    bad = InferenceResponse(error=TritonError("no", TritonError.NOT_FOUND))

    (one,) = from_part(*to_part(good))
    first, second = from_part(*to_parts([good, bad]))

    assert one == first == outputs_of(good)
    assert isinstance(second, ModelSaysError)
    assert (second.message, second.category) == ("no", "not_found")


def test_rows_alike_are_laid_side_by_side() -> None:
    """On the first axis, in the order of the rows."""
    rows = [response(A=np.int32([[1, 2]])), response(A=np.int32([[3, 4]]))]

    stacked = stack(rows, {"A": "int32"})

    assert stacked is not None
    assert stacked["A"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "other",
    [
        None,
        response(A=np.int32([[3, 4, 5]])),
        response(A=np.int64([[3, 4]])),
        response(B=np.int32([[3, 4]])),
        response(A=np.int32([[3, 4]]), B=np.int32([[3, 4]])),
    ],
    ids=["none", "shape", "type", "name", "more"],
)
def test_rows_that_differ_are_not(other) -> None:
    """Another shape, type or set of outputs is that row's own."""
    assert stack([response(A=np.int32([[1, 2]])), other], {"A": "int32"}) is None


def test_row_without_a_batch_axis_is_not_stacked() -> None:
    """Its first axis is no batch."""
    assert stack([response(A=np.int32([1, 2]))], {"A": "int32"}) is None
    assert stack([response(A=np.int32(1))], {"A": "int32"}) is None
