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
from legato.protocols.kserve.delivery import KserveStep, OutputWish, wish_of
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.kserve.memory import Place, disabled, place_of
from legato.protocols.kserve.parameters import Setting, add_parameter, interpret
from legato.protocols.rpc.service import RpcError, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.core.types import Array
    from legato.protocols.kserve.memory import Regions

_KEPT = 8192  # inner messages remembered, of each kind
_KEPT_BYTES = 256  # longest of them
_SLOW = -1

_parse = pb.FlatInferRequest.FromString
_array = np.ndarray


class _Input(NamedTuple):
    """What an InferInputTensor says, besides its data.

    ``size`` is the exact number of raw bytes, or -1 where the raw bytes need a
    closer look (strings, flags, a shape that no array can have, contents).
    ``contents`` are the elements themselves, or where in shared memory they lie.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size: int
    contents: pb.InferTensorContents | Place | None


def fill(step: KserveStep, data: bytes, regions: Regions | None = None) -> None:
    """Fill ``step`` from the bytes of a ModelInferRequest.

    Fields are set in an order such that after an error ``step`` still says who
    asked: model, request id and correlation id come first.

    Args:
        step: What to fill.
        data: The message.
        regions: Shared memory of clients; ``None`` = not allowed.

    Raises:
        RpcError: The bytes are no such message, or name shared memory that is not there.
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
    step.inputs = _inputs(flat.inputs[:], flat.raw_input_contents[:], step.model, regions)
    outputs = flat.outputs[:]
    if outputs:
        entries = tuple(outputs)
        kept = sum(map(len, entries)) <= _KEPT_BYTES
        step.outputs, wishes = _known_outputs(entries) if kept else _outputs(entries)
        if wishes is not None:
            step.wishes = wishes


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


def _inputs(
    entries: list[bytes], raws: list[bytes], model: str, regions: Regions | None
) -> dict[str, Array]:
    if len(entries) != len(raws):
        return _scattered_inputs(entries, raws, model, regions)
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
            raise _both(name, model, contents)
        else:
            inputs[name] = decode_raw(raw, dtype, shape, name, model)
    if len(inputs) != len(entries):
        raise ClientError(f"an input is given twice in a request to model '{model}'")
    return inputs


def _both(name: str, model: str, contents: pb.InferTensorContents | Place) -> InputError:
    if isinstance(contents, Place):
        text = (
            "unexpected 'content' provided when using shared memory for input tensor "
            f"'{name}'" + (f" for model '{model}'" if model else "")
        )
    else:
        text = (
            f"input '{name}' for model '{model}' has contents although the request has "
            "raw_input_contents; use one of them"
        )
    return InputError(text, reason="value", tensor=name)


def _input(entry: bytes) -> _Input:
    try:
        tensor = pb.ModelInferRequest.InferInputTensor.FromString(entry)
    except DecodeError:
        raise _unreadable() from None
    dtype = numpy_dtype(tensor.datatype)
    shape = checked_shape(tensor.shape[:], tensor.name)
    contents = _own_contents(tensor)
    size = element_count(shape) * dtype.itemsize
    # A view needs no look at the bytes, unless they are strings or flags; empty arrays
    # of odd shapes are left to the slow way too.
    plain = contents is None and not dtype.hasobject and dtype.kind != "b" and size > 0
    return _Input(tensor.name, dtype, shape, size if plain else _SLOW, contents)


_known_input = lru_cache(maxsize=_KEPT)(_input)


def _own_contents(
    tensor: pb.ModelInferRequest.InferInputTensor,
) -> pb.InferTensorContents | Place | None:
    """Return what a tensor says of where its elements are; ``None`` = behind the request."""
    contents = tensor.contents if tensor.HasField("contents") else None
    place = place_of(tensor.name, _plain(tensor.parameters)) if tensor.parameters else None
    if place is not None and contents is not None:
        raise _both(tensor.name, "", place)
    return place or contents


def _plain(parameters: Mapping[str, pb.InferParameter]) -> dict[str, object]:
    made: dict[str, object] = {}
    for key, value in parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is not None:
            made[key] = getattr(value, kind)
    return made


def _scattered_inputs(
    entries: list[bytes], raws: list[bytes], model: str, regions: Regions | None
) -> dict[str, Array]:
    """Gather inputs of which some lie in shared memory, or are contents."""
    inputs: dict[str, Array] = {}
    left = iter(raws)
    for entry in entries:
        tensor = _known_input(entry) if len(entry) <= _KEPT_BYTES else _input(entry)
        if isinstance(tensor.contents, Place):
            array = read_placed(
                tensor.name, tensor.dtype, tensor.shape, tensor.contents, model, regions
            )
        elif not raws:
            array = _from_contents(tensor, model)
        elif tensor.contents is not None:
            raise _both(tensor.name, model, tensor.contents)
        else:
            raw = next(left, None)
            if raw is None:
                raise _no_data(tensor.name, model)
            array = decode_raw(raw, tensor.dtype, tensor.shape, tensor.name, model)
        if tensor.name in inputs:
            raise ClientError(f"an input is given twice in a request to model '{model}'")
        inputs[tensor.name] = array
    surplus = sum(1 for _raw in left)
    if surplus:
        raise ClientError(
            f"the request to model '{model}' has {len(entries)} inputs, {len(raws) - surplus} of "
            f"them not in shared memory, but {len(raws)} raw_input_contents"
        )
    return inputs


def read_placed(
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    place: Place,
    model: str,
    regions: Regions | None,
) -> Array:
    """Return an input that lies in shared memory; a copy, as the client may change it.

    Raises:
        RpcError: Shared memory is not allowed, or the place is none.
        InputError: The size does not fit the shape.
    """
    if regions is None:
        raise disabled()
    region = regions.find(place.region)
    region.check(place.offset, place.byte_size)
    if not dtype.hasobject and place.byte_size != element_count(shape) * dtype.itemsize:
        raise size_error(name, model, element_count(shape) * dtype.itemsize, place.byte_size)
    return decode_raw(region.read(place.offset, place.byte_size), dtype, shape, name, model)


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
    if contents is None or isinstance(contents, Place):
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


def _outputs(entries: tuple[bytes, ...]) -> tuple[tuple[str, ...], dict[str, OutputWish] | None]:
    """Return the names of the outputs asked for, and what is special about them, if anything."""
    names: list[str] = []
    wishes: dict[str, OutputWish] = {}
    for entry in entries:
        try:
            wanted = pb.ModelInferRequest.InferRequestedOutputTensor.FromString(entry)
        except DecodeError:
            raise _unreadable() from None
        names.append(wanted.name)
        if wanted.parameters:
            parameters = _plain(wanted.parameters)
            wish = wish_of(
                wanted.name, place_of(wanted.name, parameters), parameters.get("classification")
            )
            if wish is not None:
                wishes[wanted.name] = wish
    return tuple(names), wishes or None


_known_outputs = lru_cache(maxsize=_KEPT)(_outputs)
