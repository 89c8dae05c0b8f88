"""A reply becomes the bytes of a PredictResponse.

The response is put together from pieces of protobuf wire format: what repeats from
step to step (names, types, shapes, the model) is serialised once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from legato.core.types import OutputHeader, Reply
from legato.protocols.tfserving.controls import ID
from legato.protocols.tfserving.datatypes import number_of_numpy
from legato.protocols.tfserving.gen import tfserving_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from legato.core.types import Signature

_OUTPUT = b"\x0a"  # PredictResponse.outputs, one entry
_KEY = b"\x0a"  # of an entry
_VALUE = b"\x12"
_CONTENT = b"\x22"  # TensorProto.tensor_content
_STRING = b"\x42"  # TensorProto.string_val, one element

_join = b"".join


def varint(number: int) -> bytes:
    """Return a non-negative number as protobuf writes it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def write(reply: Reply, model: str) -> bytes:
    """Return the response; a sequence's reply carries its id as one more output."""
    parts: list[bytes] = []
    for header, data in zip(reply.headers, reply.data, strict=True):
        key, head = _head(header)
        if header.dtype == "object":
            body = _join([_STRING + varint(len(s)) + s for s in decode_strings(data)])
        else:
            body = _join((_CONTENT, varint(len(data)), data))
        size = len(head) + len(body)
        value = varint(size)
        parts += (
            _OUTPUT, varint(len(key) + 1 + len(value) + size), key, _VALUE, value, head, body,
        )  # fmt: skip
    if reply.step:
        parts.append(_id_output(reply.correlation_id))
    parts.append(_spec(model, reply.version))
    return _join(parts)


@lru_cache(maxsize=4096)
def _head(header: OutputHeader) -> tuple[bytes, bytes]:
    """Return key of the entry, and the tensor without its data."""
    name = header.name.encode()
    tensor = pb.TensorProto(dtype=number_of_numpy(header.dtype))  # type: ignore[arg-type]
    tensor.tensor_shape.SetInParent()
    for size in header.shape:
        tensor.tensor_shape.dim.add(size=size)
    return _KEY + varint(len(name)) + name, tensor.SerializeToString()


@lru_cache(maxsize=4096)
def _id_output(correlation_id: int | str) -> bytes:
    """Return the output ``sequence_id``: one ``uint64_val``, where clients look for it."""
    tensor = pb.TensorProto(dtype=pb.DT_UINT64)
    tensor.tensor_shape.dim.add(size=1)
    tensor.uint64_val.append(correlation_id if isinstance(correlation_id, int) else 0)
    return pb.PredictResponse(outputs={ID: tensor}).SerializeToString()


@lru_cache(maxsize=1024)
def _spec(model: str, version: str) -> bytes:
    spec = pb.ModelSpec(name=model)
    if version.isdecimal():
        spec.version.value = int(version)
    return pb.PredictResponse(model_spec=spec).SerializeToString()


def decode_strings(data: bytes) -> list[bytes]:
    """Return the elements of a string output: each stands behind its length of 4 bytes."""
    values = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        values.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return values


def array_of(header: OutputHeader, data: bytes) -> np.ndarray:
    """Return an output as an array."""
    if header.dtype == "object":
        values = decode_strings(data)
        array = np.empty(len(values), object)
        array[:] = values
        return array.reshape(header.shape)
    return np.frombuffer(data, header.dtype).reshape(header.shape)


def join_rows(replies: Sequence[Reply], signature: Signature) -> Reply:
    """Put the replies to the rows of one request together again."""
    first = replies[0]
    axes = {spec.name: spec.batch_axis for spec in signature.outputs}
    headers, data = [], []
    for at, header in enumerate(first.headers):
        axis = axes.get(header.name)
        rows = [array_of(reply.headers[at], reply.data[at]) for reply in replies]
        whole = rows[0] if axis is None else np.concatenate(rows, axis)
        headers.append(OutputHeader(header.name, header.dtype, whole.shape))
        data.append(_encoded(whole))
    return Reply(tuple(headers), tuple(data), first.correlation_id, 0, first.version)


def _encoded(array: np.ndarray) -> bytes:
    if array.dtype.hasobject:
        return _join([len(s).to_bytes(4, "little") + s for s in array.reshape(-1).tolist()])
    return array.tobytes()
