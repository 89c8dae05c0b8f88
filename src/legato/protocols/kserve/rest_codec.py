r"""REST bodies: JSON, with tensors in it or as raw bytes behind it.

The *binary tensor extension* puts raw tensors behind the JSON; the header
``Inference-Header-Content-Length`` says where the JSON ends. Pure: bytes in, a step
out; a reply in, bytes out.

NaN and infinity are ``null`` in JSON, and bytes that are no UTF-8 are written as
``\xNN``: clients that need those exactly ask for binary outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from legato.core.errors import ClientError, InputError
from legato.protocols.kserve.datatypes import (
    checked_shape,
    decode_raw,
    decode_strings,
    element_count,
    numpy_dtype,
    size_error,
    wire_name,
)
from legato.protocols.kserve.delivery import KserveStep, OutputWish, PlacedHeader, wish_of
from legato.protocols.kserve.describe import client_inputs
from legato.protocols.kserve.memory import place_of
from legato.protocols.kserve.parameters import apply, interpret
from legato.protocols.kserve.special import ID
from legato.protocols.kserve.to_core import read_placed
from legato.protocols.rpc.service import RpcError, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.core.types import Array, OutputHeader, Reply, Signature, Step
    from legato.protocols.kserve.memory import Regions


@dataclass(frozen=True, slots=True)
class Wish:
    """How a client wants its outputs: as raw bytes, or in the JSON."""

    binary: bool
    named: Mapping[str, bool]

    def is_binary(self, name: str) -> bool:
        """Tell whether the output goes out as raw bytes."""
        return self.named.get(name, self.binary)


# -- requests -----------------------------------------------------------------------------


def fill_from_json(
    step: KserveStep, body: bytes, json_bytes: int | None, regions: Regions | None = None
) -> Wish:
    """Fill ``step`` (its model is set) from an inference request.

    Args:
        step: What to fill.
        body: The whole body, decompressed.
        json_bytes: Length of the JSON at its start; ``None`` = all of it.
        regions: Shared memory of clients; ``None`` = not allowed.

    Raises:
        RpcError: The body is no JSON, or names shared memory that is not there.
        ClientError: The request is wrong.
    """
    if json_bytes is not None and json_bytes > len(body):
        raise ClientError(
            f"Inference-Header-Content-Length is {json_bytes}, but the body has {len(body)} bytes"
        )
    head = parse_json(body if json_bytes is None else body[:json_bytes])
    tail = memoryview(body)[len(body) if json_bytes is None else json_bytes :]
    step.request_id = _text(head, "id")
    parameters = _object(head, "parameters", "the request")
    for key, value in parameters.items():
        apply(interpret(key, _scalar(key, value)), step)
    step.inputs = _read_inputs(_list(head, "inputs"), tail, step.model, regions)
    wish, wishes = _read_outputs(
        _list(head, "outputs"), binary=parameters.get("binary_data_output") is True
    )
    step.outputs = tuple(wish.named)
    step.wishes = wishes or None
    return wish


def parse_json(data: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds.

    Raises:
        RpcError: It holds none.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RpcError(
            Status.INTERNAL, f"failed to parse the request JSON buffer: {error}"
        ) from None
    if not isinstance(value, dict):
        raise ClientError("the body of the request must be a JSON object")
    return value


def _text(head: dict[str, Any], key: str) -> str:
    value = head.get(key, "")
    if not isinstance(value, str):
        raise ClientError(f"'{key}' must be a string")
    return value


def _object(head: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    value = head.get(key, {})
    if not isinstance(value, dict):
        raise ClientError(f"'{key}' of {where} must be an object")
    return value


def _list(head: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = head.get(key, [])
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ClientError(f"'{key}' must be a list of objects")
    return value


def _scalar(key: str, value: object) -> bool | int | float | str:
    if not isinstance(value, bool | int | float | str):
        raise ClientError(f"parameter '{key[:80]}' must be a boolean, a number or a string")
    return value


def _read_inputs(
    entries: list[dict[str, Any]], tail: memoryview, model: str, regions: Regions | None
) -> dict[str, Array]:
    inputs: dict[str, Array] = {}
    at = 0
    for entry in entries:
        name = _text(entry, "name")
        parameters = _object(entry, "parameters", f"input '{name}'")
        place = place_of(name, parameters)
        dtype = numpy_dtype(_text(entry, "datatype"))
        shape = _shape(entry, name)
        size = parameters.get("binary_data_size")
        if name in inputs:
            raise ClientError(f"an input is given twice in a request to model '{model}'")
        if place is not None:
            if size is not None or "data" in entry:
                raise _placed_twice(name, model)
            inputs[name] = read_placed(name, dtype, shape, place, model, regions)
            continue
        if size is None:
            inputs[name] = _from_json(entry, dtype, shape, name, model)
            continue
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ClientError(f"'binary_data_size' of input '{name}' must be a number of bytes")
        if at + size > len(tail):
            raise size_error(name, model, size, len(tail) - at)
        inputs[name] = decode_raw(tail[at : at + size], dtype, shape, name, model)
        at += size
    if at != len(tail):
        raise ClientError(
            f"the body has {len(tail) - at} bytes more than its inputs say ('binary_data_size')"
        )
    return inputs


def _placed_twice(name: str, model: str) -> InputError:
    return InputError(
        f"unexpected 'data' or 'binary_data_size' provided when using shared memory for input "
        f"tensor '{name}' for model '{model}'",
        reason="value",
        tensor=name,
    )


def _shape(entry: dict[str, Any], name: str) -> tuple[int, ...]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or any(type(dim) is not int for dim in shape):
        raise ClientError(f"'shape' of input '{name}' must be a list of integers")
    return checked_shape(shape, name)


def _from_json(
    entry: dict[str, Any], dtype: np.dtype[Any], shape: tuple[int, ...], name: str, model: str
) -> Array:
    data = entry.get("data")
    if data is None:
        raise InputError(
            f"unable to find data for input tensor '{name}' for model '{model}' in request.",
            reason="no_data",
            tensor=name,
        )
    flat = flat_elements(data, dtype, name, model)
    count = element_count(shape)
    if flat.size != count:
        unit = 1 if dtype.hasobject else dtype.itemsize
        raise size_error(name, model, count * unit, flat.size * unit)
    return flat.reshape(shape)


def flat_elements(data: object, dtype: np.dtype[Any], name: str, model: str) -> Array:
    """Return the elements of a tensor that JSON gives as a value or as nested lists.

    Raises:
        InputError: They do not have the data type.
    """
    values = data if isinstance(data, list) else [data]
    if dtype.hasobject:
        return _flat_strings(values, name, model)
    return _flat(values, dtype, name, model)


def _bad_value(name: str, model: str, dtype: np.dtype[Any], why: str) -> InputError:
    return InputError(
        f"input '{name}' for model '{model}' has data that is no {wire_name(dtype.name)} "
        f"tensor: {why}",
        reason="value",
        tensor=name,
    )


_JSON_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}


def _flat(data: list[Any], dtype: np.dtype[Any], name: str, model: str) -> Array:
    try:
        plain = np.asarray(data)
        if plain.size == 0:
            return np.empty(0, dtype)
        if dtype.kind in "iu" and plain.dtype.kind in "fO":
            # Numpy makes floats of a list that mixes small integers with those above 2**63.
            plain = _exact_integers(data, dtype, name, model)
        # bfloat16 has the kind of its package, and takes what other floats take.
        if plain.dtype.kind not in _JSON_KINDS.get(dtype.kind, "iuf"):
            raise _bad_value(name, model, dtype, f"got {plain.dtype} values")
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            if int(plain.min()) < limits.min or int(plain.max()) > limits.max:
                raise _bad_value(name, model, dtype, "a value is out of range")
        with np.errstate(over="ignore"):  # 1e300 as FP32 is infinite, as in any other client
            return plain.reshape(-1).astype(dtype)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _bad_value(name, model, dtype, str(error)) from None


def _exact_integers(data: list[Any], dtype: np.dtype[Any], name: str, model: str) -> Array:
    values = np.asarray(data, object).reshape(-1).tolist()
    if any(type(value) is not int for value in values):
        raise _bad_value(name, model, dtype, "its elements must be integers")
    return np.array(values, dtype)


def _flat_strings(data: list[Any], name: str, model: str) -> Array:
    values: list[bytes] = []
    pending: list[Any] = [data]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(reversed(item))
        elif isinstance(item, str):
            values.append(item.encode())
        else:
            raise _bad_value(name, model, np.dtype(object), "its elements must be strings")
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _read_outputs(
    entries: list[dict[str, Any]], *, binary: bool
) -> tuple[Wish, dict[str, OutputWish]]:
    named: dict[str, bool] = {}
    wishes: dict[str, OutputWish] = {}
    for entry in entries:
        name = _text(entry, "name")
        parameters = _object(entry, "parameters", f"output '{name}'")
        special = wish_of(name, place_of(name, parameters), parameters.get("classification"))
        if special is not None:
            wishes[name] = special
        named[name] = parameters.get("binary_data", binary) is True
    return Wish(binary, named), wishes


def fill_from_raw(step: Step, body: bytes, signature: Signature) -> Wish:
    """Fill ``step`` from a body that is nothing but the bytes of the model's one input.

    Raises:
        ClientError: The model has more inputs, or the size fits no shape.
    """
    specs = client_inputs(signature)
    if len(specs) != 1:
        raise ClientError(
            f"a raw binary request needs a model with one input, but '{step.model}' has "
            f"{len(specs)}"
        )
    spec = specs[0]
    dtype = np.dtype(spec.dtype)
    if dtype.hasobject:
        body = len(body).to_bytes(4, "little") + body
        shape = tuple(1 if dim < 0 else dim for dim in spec.shape)
    else:
        shape = _fitting_shape(spec.shape, len(body) // dtype.itemsize, spec.name, step.model)
    step.inputs = {spec.name: decode_raw(body, dtype, shape, spec.name, step.model)}
    return Wish(binary=False, named={})


def _fitting_shape(shape: tuple[int, ...], count: int, name: str, model: str) -> tuple[int, ...]:
    open_axes = [axis for axis, dim in enumerate(shape) if dim < 0]
    if len(open_axes) > 1:
        raise ClientError(
            f"the shape of input '{name}' for model '{model}' cannot be told from a raw binary "
            "request: more than one dimension varies"
        )
    if not open_axes:
        return shape
    rest = math.prod(dim for dim in shape if dim >= 0)
    fitted = count // rest if rest else 0
    return tuple(fitted if dim < 0 else dim for dim in shape)


# -- responses ----------------------------------------------------------------------------


def write_reply(reply: Reply, step: Step, wish: Wish) -> tuple[bytes, int | None]:
    """Return the body for a reply, and the length of its JSON if raw bytes follow."""
    head: dict[str, Any] = {"model_name": step.model, "model_version": reply.version}
    if step.request_id:
        head["id"] = step.request_id
    if reply.step:
        head["parameters"] = _reply_parameters(reply)
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for header, data in zip(reply.headers, reply.data, strict=True):
        output: dict[str, Any] = {
            "name": header.name,
            "datatype": wire_name(header.dtype),
            "shape": list(header.shape),
        }
        if isinstance(header, PlacedHeader):
            pass  # it lies where the client said; clients take parameters to mean binary data
        elif wish.is_binary(header.name):
            output["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        else:
            output["data"] = json_values(header, data)
        outputs.append(output)
    head["outputs"] = outputs
    text = orjson.dumps(head)
    return (b"".join((text, *tail)), len(text)) if tail else (text, None)


def _reply_parameters(reply: Reply) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "sequence_step": reply.step,
        "sequence_durability": reply.durability,
    }
    if reply.replayed:
        parameters["sequence_replayed"] = True
    if reply.headers and reply.headers[-1].name == ID:
        parameters[ID] = reply.correlation_id
    if reply.step == 1 and reply.incarnation:
        parameters["sequence_incarnation"] = reply.incarnation.hex()
    return parameters


def json_values(header: OutputHeader, data: bytes) -> list[Any]:
    """Return the elements of an output, flat."""
    if header.dtype == "object":
        return [value.decode("utf-8", "backslashreplace") for value in decode_strings(data)]
    dtype = numpy_dtype(wire_name(header.dtype))
    values: list[Any] = np.frombuffer(data, dtype).tolist()
    return values
