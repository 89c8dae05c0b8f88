"""A ModelInferRequest in bytes becomes a step.

This runs once for every step of every stream, so it is made of look-ups: the request
is parsed with its inner messages left as bytes (``FlatInferRequest``), and what those
bytes mean is remembered, for they repeat from step to step. Only tensors are new.
Long inner messages (tensors given as ``contents``) are parsed each time and not kept.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from legato.core.errors import ClientError, InputError
from legato.protocols.kserve.datatypes import (
    checked_shape,
    decode_raw,
    element_count,
    numpy_dtype,
    size_error,
)
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.kserve.parameters import Setting, add_parameter, interpret
from legato.protocols.rpc.service import RpcError, Status

if TYPE_CHECKING:
    from legato.core.types import Array, Step

_KEPT = 8192  # inner messages remembered, of each kind
_KEPT_BYTES = 256  # longest of them
_SLOW = -1

_parse = pb.FlatInferRequest.FromString
_array = np.ndarray


class _Input(NamedTuple):
    """What an InferInputTensor says, besides its data.

    ``size`` is the exact number of raw bytes, or -1 where the raw bytes need a
    closer look (strings, flags, a shape that no array can have, contents).
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size: int
    contents: pb.InferTensorContents | None


def fill(step: Step, data: bytes) -> None:
    """Fill ``step`` from the bytes of a ModelInferRequest.

    Fields are set in an order such that after an error ``step`` still says who
    asked: model, request id and correlation id come first.

    Raises:
        RpcError: The bytes are no such message, or ask for shared memory.
        ClientError: A parameter or tensor is wrong.
    """
    try:
        flat = _parse(data)
    except DecodeError:
        raise _unreadable() from None
    step.model = flat.model_name
    step.request_id = flat.id
    version = flat.model_version
    if version:
        step.version = version
    for entry in flat.parameters[:]:
        attribute, value = (
            _known_parameter(entry) if len(entry) <= _KEPT_BYTES else _parameter(entry)
        )
        if attribute:
            setattr(step, attribute, value)
        elif attribute is not None:
            add_parameter(step, *value)
    step.inputs = _inputs(flat.inputs[:], flat.raw_input_contents[:], step.model)
    outputs = flat.outputs[:]
    if outputs:
        step.outputs = tuple([_output_name(entry) for entry in outputs])


def _unreadable() -> RpcError:
    return RpcError(Status.INTERNAL, "the message is not a ModelInferRequest")


# -- parameters ---------------------------------------------------------------------------


def _parameter(entry: bytes) -> Setting:
    try:
        parsed = pb.ParameterEntry.FromString(entry)
    except DecodeError:
        raise _unreadable() from None
    kind = parsed.value.WhichOneof("parameter_choice")
    if kind is None:
        raise ClientError(f"parameter '{parsed.key[:80]}' has no value")
    return interpret(parsed.key, getattr(parsed.value, kind))


_known_parameter = lru_cache(maxsize=_KEPT)(_parameter)


# -- inputs -------------------------------------------------------------------------------


def _inputs(entries: list[bytes], raws: list[bytes], model: str) -> dict[str, Array]:
    if len(entries) != len(raws):
        return _inputs_from_contents(entries, raws, model)
    inputs: dict[str, Array] = {}
    for entry, raw in zip(entries, raws, strict=True):
        if len(entry) <= _KEPT_BYTES:
            name, dtype, shape, size, contents = _known_input(entry)
        else:
            name, dtype, shape, size, contents = _input(entry)
        if size == len(raw):
            inputs[name] = _array(shape, dtype, raw)
        elif size != _SLOW:
            raise size_error(name, model, size, len(raw))
        elif contents is not None:
            raise _both(name, model)
        else:
            inputs[name] = decode_raw(raw, dtype, shape, name, model)
    if len(inputs) != len(entries):
        raise ClientError(f"an input is given twice in a request to model '{model}'")
    return inputs


def _both(name: str, model: str) -> InputError:
    return InputError(
        f"input '{name}' for model '{model}' has contents although the request has "
        "raw_input_contents; use one of them",
        reason="value",
        tensor=name,
    )


def _input(entry: bytes) -> _Input:
    try:
        tensor = pb.ModelInferRequest.InferInputTensor.FromString(entry)
    except DecodeError:
        raise _unreadable() from None
    refuse_shared_memory(tensor.name, "shared_memory_region" in tensor.parameters)
    dtype = numpy_dtype(tensor.datatype)
    shape = checked_shape(tensor.shape[:], tensor.name)
    contents = tensor.contents if tensor.HasField("contents") else None
    size = element_count(shape) * dtype.itemsize
    # A view needs no look at the bytes, unless they are strings or flags; empty arrays
    # of odd shapes are left to the slow way too.
    plain = contents is None and not dtype.hasobject and dtype.kind != "b" and size > 0
    return _Input(tensor.name, dtype, shape, size if plain else _SLOW, contents)


_known_input = lru_cache(maxsize=_KEPT)(_input)


def refuse_shared_memory(name: str, asked: bool) -> None:
    """Refuse a tensor that lies in shared memory.

    Raises:
        RpcError: It does.
    """
    if asked:
        raise RpcError(
            Status.UNIMPLEMENTED,
            f"tensor '{name}' names a shared memory region: Client shared memory is disabled.",
        )


def _inputs_from_contents(entries: list[bytes], raws: list[bytes], model: str) -> dict[str, Array]:
    tensors = [_input(entry) for entry in entries]
    if raws:
        for tensor in tensors:
            if tensor.contents is not None:
                raise _both(tensor.name, model)
        if len(raws) > len(entries):
            raise ClientError(
                f"the request to model '{model}' has {len(entries)} inputs but {len(raws)} "
                "raw_input_contents"
            )
        raise _no_data(tensors[len(raws)].name, model)
    inputs = {tensor.name: _from_contents(tensor, model) for tensor in tensors}
    if len(inputs) != len(entries):
        raise ClientError(f"an input is given twice in a request to model '{model}'")
    return inputs


def _no_data(name: str, model: str) -> InputError:
    return InputError(
        f"unable to find data for input tensor '{name}' for model '{model}' in request.",
        reason="no_data",
        tensor=name,
    )


_CONTENTS_FIELD = {
    "bool": "bool_contents",
    "int8": "int_contents",
    "int16": "int_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "uint8": "uint_contents",
    "uint16": "uint_contents",
    "uint32": "uint_contents",
    "uint64": "uint64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
    "object": "bytes_contents",
}


def _from_contents(tensor: _Input, model: str) -> Array:
    name, dtype, shape, _, contents = tensor
    if contents is None:
        raise _no_data(name, model)
    field = _CONTENTS_FIELD.get(dtype.name)
    if field is None:
        raise InputError(
            f"input '{name}' for model '{model}' has a data type that can only be sent as "
            "raw_input_contents",
            reason="value",
            tensor=name,
        )
    values = getattr(contents, field)
    count = element_count(shape)
    if len(values) == 0 and count:
        raise _no_data(name, model)
    if len(values) != count:
        unit = 1 if dtype.hasobject else dtype.itemsize
        raise size_error(name, model, count * unit, len(values) * unit)
    array = np.empty(count, dtype)
    try:
        array[:] = values
    except (OverflowError, ValueError) as error:
        raise InputError(
            f"input '{name}' for model '{model}' has a value outside its data type: {error}",
            reason="value",
            tensor=name,
        ) from None
    return array.reshape(shape)


# -- outputs ------------------------------------------------------------------------------


@lru_cache(maxsize=_KEPT)
def _known_output(entry: bytes) -> str:
    try:
        wanted = pb.ModelInferRequest.InferRequestedOutputTensor.FromString(entry)
    except DecodeError:
        raise _unreadable() from None
    refuse_shared_memory(wanted.name, "shared_memory_region" in wanted.parameters)
    refuse_classification(wanted.name, "classification" in wanted.parameters)
    return wanted.name


def _output_name(entry: bytes) -> str:
    if len(entry) > _KEPT_BYTES:
        return str(_known_output.__wrapped__(entry))
    return _known_output(entry)


def refuse_classification(name: str, asked: bool) -> None:
    """Refuse an output asked for as class labels.

    Raises:
        RpcError: It is.
    """
    if asked:
        raise RpcError(
            Status.UNIMPLEMENTED,
            f"output '{name}' is asked for with 'classification', which this server does not have",
        )
