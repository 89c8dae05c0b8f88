"""Responses are read by another client's generated classes."""

from __future__ import annotations

import numpy as np
import pytest
from ovmsclient.tfs_compat.protos.tensorflow_serving.apis.predict_pb2 import PredictResponse

from legato.core.types import OutputHeader, Reply
from legato.protocols.tfserving import from_core


def parsed(reply, model="m"):
    return PredictResponse.FromString(from_core.write(reply, model))


def test_outputs_lie_in_tensor_content(kit) -> None:
    """With dtype and shape; the id lies in ``uint64_val``, where clients look for it."""
    answer = parsed(kit.reply(name=2**64 - 1))

    y, name = answer.outputs["y"], answer.outputs["sequence_id"]
    assert (y.dtype, [dim.size for dim in y.tensor_shape.dim]) == (1, [1, 10])
    assert np.frombuffer(y.tensor_content, np.float32).tolist() == list(range(10))
    assert (name.dtype, [dim.size for dim in name.tensor_shape.dim]) == (23, [1])
    assert list(name.uint64_val) == [2**64 - 1]
    assert name.tensor_content == b""


def test_the_model_is_named(kit) -> None:
    """And the version that ran."""
    spec = parsed(kit.reply(), "summator").model_spec

    assert (spec.name, spec.version.value) == ("summator", 1)


def test_a_model_without_state_tells_no_id(kit) -> None:
    """There is no sequence."""
    assert set(parsed(kit.reply(step=0)).outputs) == {"y"}


def test_long_outputs_are_whole() -> None:
    """Their lengths take several bytes."""
    data = np.arange(100_000, dtype=np.int64)
    reply = Reply((OutputHeader("long", "int64", (1, 100_000)),), (data.tobytes(),), 1, 1, "1")

    assert parsed(reply).outputs["long"].tensor_content == data.tobytes()


def test_strings_lie_in_string_val() -> None:
    """Each on its own."""
    data = b"\x01\0\0\0a\x00\0\0\0\x02\0\0\0bc"
    reply = Reply((OutputHeader("words", "object", (1, 3)),), (data,), 1, 1, "1")

    assert list(parsed(reply).outputs["words"].string_val) == [b"a", b"", b"bc"]


@pytest.mark.parametrize("dtype", ["float16", "bool", "uint8", "int16", "uint64", "float64"])
def test_every_type_has_its_number(dtype) -> None:
    """A client reads back what was written."""
    from ovmsclient.tfs_compat.grpc.tensors import make_ndarray

    array = np.ones((1, 2), dtype)
    reply = Reply((OutputHeader("o", dtype, (1, 2)),), (array.tobytes(),), 1, 1, "1")

    found = make_ndarray(parsed(reply).outputs["o"])

    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_rows_are_joined_on_their_batch_axis(kit) -> None:
    """Into the reply that one request gets."""
    headers = (OutputHeader("a", "float32", (1, 10)),)
    rows = [Reply(headers, (np.full(10, n, np.float32).tobytes(),), 0, 0, "1") for n in range(3)]

    whole = from_core.join_rows(rows, kit.DUMMY)

    assert whole.headers[0].shape == (3, 10)
    assert np.frombuffer(whole.data[0], np.float32).reshape(3, 10)[:, 0].tolist() == [0, 1, 2]
