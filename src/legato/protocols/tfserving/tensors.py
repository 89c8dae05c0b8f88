"""One tensor: its bytes on the wire become an array.

Every encoding that TensorFlow calls legal is read: ``tensor_content``, or the repeated
field of the type, where a last value that stands for the rest may be written once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from legato.protocols.tfserving.datatypes import BY_NUMBER
from legato.protocols.tfserving.errors import CONTENT_SIZE, VALUE_COUNT

if TYPE_CHECKING:
    from legato.core.types import Array
    from legato.protocols.tfserving.errors import RefusalError
    from legato.protocols.tfserving.gen import tfserving_pb2 as pb


def read(tensor: pb.TensorProto, dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> Array:
    """Return the tensor as an array; a read-only view of its bytes where possible.

    Args:
        tensor: What came; its type and shape are checked.
        dtype: Its type, as numpy has it.
        shape: Its shape.
        name: Of the input, for error texts.

    Raises:
        RefusalError: The data does not fill the shape.
    """
    count = 1
    for dim in shape:
        count *= dim
    if dtype.hasobject:
        return _strings(tensor, count, name).reshape(shape)
    content = tensor.tensor_content
    expected = count * dtype.itemsize
    if content or not count:
        if len(content) != expected:
            raise size_refusal(expected, len(content), name)
        if dtype.kind == "b":  # any other byte is true, but not to every library
            return np.not_equal(np.frombuffer(content, np.uint8), 0).reshape(shape)
        return np.frombuffer(content, dtype).reshape(shape)
    return _filled(_values(tensor, dtype), dtype, count, name).reshape(shape)


def size_refusal(expected: int, actual: int, name: str) -> RefusalError:
    """Return the error for bytes that do not fill the shape."""
    detail = f"Expected: {expected} bytes; Actual: {actual} bytes; input name: {name}"
    return CONTENT_SIZE.refusal(detail)


def _values(tensor: pb.TensorProto, dtype: np.dtype[Any]) -> Array:
    """Return the typed values, in the width that the wire has them in."""
    field = BY_NUMBER[tensor.dtype].field
    values = getattr(tensor, field)
    if field == "half_val":  # bit patterns, each in a number of its own
        return np.fromiter(values, np.int32, len(values)).astype(np.uint16).view(dtype)
    if field == "int_val":
        return np.fromiter(values, np.int32, len(values)).astype(dtype)
    return np.fromiter(values, dtype, len(values))


def _filled(values: Array, dtype: np.dtype[Any], count: int, name: str) -> Array:
    """Repeat the last value until the shape is full."""
    if values.size == 0:
        raise size_refusal(count * dtype.itemsize, 0, name)
    if values.size > count:
        raise _too_many(count, values.size, name)
    if values.size < count:
        return np.concatenate((values, np.full(count - values.size, values[-1], values.dtype)))
    return values


def _too_many(expected: int, actual: int, name: str) -> RefusalError:
    return VALUE_COUNT.refusal(f"Expected: {expected}; Actual: {actual}; input name: {name}")


def _strings(tensor: pb.TensorProto, count: int, name: str) -> Array:
    values = list(tensor.string_val)
    if not values and count:
        raise _too_many(count, 0, name)
    if len(values) > count:
        raise _too_many(count, len(values), name)
    values += values[-1:] * (count - len(values))
    array = np.empty(count, object)
    array[:] = values
    return array
