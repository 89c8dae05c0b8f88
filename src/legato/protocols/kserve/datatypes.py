"""KServe data types, and tensors as bytes.

Little-endian, row-major, no padding. BOOL is one byte; an element of BYTES comes
after its length (4 bytes, unsigned). BF16 is numpy's ``bfloat16``, which exists
only where the package ``ml_dtypes`` is installed; without it BF16 is refused.
"""

from __future__ import annotations

import importlib
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from legato.core.errors import ClientError, InputError
from legato.repository.triton.gen import model_config_pb2 as config_pb

if TYPE_CHECKING:
    from legato.core.types import Array

BYTES = "BYTES"
MAX_RANK = 32
_MAX_DIM = 2**31 - 1

_NUMPY_NAMES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BF16": "bfloat16",
    BYTES: "object",
}
_WIRE_NAMES = {name: wire for wire, name in _NUMPY_NAMES.items()}


def wire_name(dtype: str) -> str:
    """Return the KServe name of a numpy dtype name, ``INVALID`` if it has none."""
    return _WIRE_NAMES.get(dtype, "INVALID")


def config_type(dtype: str) -> config_pb.DataType:
    """Return the data type of a model configuration for a numpy dtype name."""
    wire = wire_name(dtype)
    name = "STRING" if wire == BYTES else wire
    number = config_pb.DataType.Value(f"TYPE_{name}")
    return cast("config_pb.DataType", number)


@lru_cache(maxsize=64)
def numpy_dtype(datatype: str) -> np.dtype[Any]:
    """Return the numpy dtype of a KServe data type.

    Raises:
        ClientError: There is no such data type, or it needs a missing package.
    """
    name = _NUMPY_NAMES.get(datatype)
    if name is None:
        raise ClientError(f"'{datatype[:40]}' is not a data type of the KServe protocol")
    if name == "bfloat16":
        try:
            importlib.import_module("ml_dtypes")
        except ImportError:
            raise ClientError(
                "BF16 needs the Python package ml_dtypes on the server; send FP32 instead"
            ) from None
    return np.dtype(name)


def checked_shape(shape: list[int] | tuple[int, ...], name: str) -> tuple[int, ...]:
    """Return the shape of an input as a tuple.

    Raises:
        InputError: A dimension is negative or absurd, or there are too many.
    """
    if len(shape) > MAX_RANK or any(not 0 <= dim <= _MAX_DIM for dim in shape):
        text = ",".join(map(str, shape[:MAX_RANK]))
        raise InputError(
            f"input '{name}' has an impossible shape [{text}]",
            reason="value",
            tensor=name,
            got=tuple(shape),
        )
    return tuple(shape)


def element_count(shape: tuple[int, ...]) -> int:
    """Return the number of elements of a shape."""
    count = 1
    for dim in shape:
        count *= dim
    return count


def decode_raw(
    raw: bytes | memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], name: str, model: str
) -> Array:
    """Return the tensor that ``raw`` holds: a read-only view of it where possible.

    Raises:
        InputError: The size does not fit the shape, or strings are cut off.
    """
    if dtype.hasobject:
        return _decode_strings(raw, shape, name, model)
    expected = element_count(shape) * dtype.itemsize
    if len(raw) != expected:
        raise size_error(name, model, expected, len(raw))
    if dtype.kind == "b":
        flags = np.frombuffer(raw, np.uint8)
        if flags.size and flags.max() > 1:  # any other byte is true, but not to every library
            return np.not_equal(flags, 0).reshape(shape)
    return np.frombuffer(raw, dtype).reshape(shape)


def size_error(name: str, model: str, expected: int, got: int) -> InputError:
    """Return the error for a tensor whose bytes do not fit its shape."""
    return InputError(
        f"input byte size mismatch for input '{name}' for model '{model}'. "
        f"Expected {expected}, got {got}",
        reason="size",
        tensor=name,
        expected=expected,
        got=got,
    )


def _decode_strings(
    raw: bytes | memoryview, shape: tuple[int, ...], name: str, model: str
) -> Array:
    count = element_count(shape)
    if len(raw) < 4 * count:  # also keeps a huge shape from making a huge array
        raise size_error(name, model, 4 * count, len(raw))
    data = bytes(raw)
    array = np.empty(count, object)
    at = 0
    for index in range(count):
        if at + 4 > len(data):
            raise _cut_string(name, model, 4, len(data) - at)
        size = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if at + size > len(data):
            raise _cut_string(name, model, size, len(data) - at)
        array[index] = data[at : at + size]
        at += size
    if at != len(data):
        raise size_error(name, model, at, len(data))
    return array.reshape(shape)


def _cut_string(name: str, model: str, expected: int, got: int) -> InputError:
    return InputError(
        f"incomplete string data for inference input '{name}' for model '{model}': expecting "
        f"{expected} bytes but only {got} are left",
        reason="value",
        tensor=name,
        expected=expected,
        got=got,
    )


def encode_strings(values: list[bytes]) -> bytes:
    """Return the wire bytes of the elements of a BYTES tensor."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def decode_strings(raw: bytes) -> list[bytes]:
    """Return the elements of a BYTES tensor that this server made."""
    values = []
    at = 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        values.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    return values
