"""REST bodies: JSON in row form (``instances``) or column form (``inputs``). Pure.

Numbers are cast to the type of the model's input. The two special tensors may be bare
numbers or lists of one number, in both forms; OpenVINO Model Server took only lists, and
only in column form.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from legato.protocols.tfserving import controls
from legato.protocols.tfserving.errors import (
    INPUT_MISSING,
    NO_FORMAT,
    NO_INPUTS,
    NO_INPUTS_OBJECT,
    NO_INSTANCE_NDARRAY,
    NO_INSTANCES,
    NO_JSON,
    NO_NDARRAY,
    NO_OBJECT,
    OTHER_BATCHES,
    SHAPE,
    UNNAMED,
)
from legato.protocols.tfserving.from_core import array_of
from legato.protocols.tfserving.to_core import Wanted, check_count, check_shape, expected

if TYPE_CHECKING:
    from legato.core.types import Array, Reply, Signature, Step
    from legato.protocols.tfserving.errors import Words
    from legato.protocols.tfserving.to_core import Expected

_LIMITS = {controls.ID: 2**64, controls.CONTROL: 2**32}


class Body:
    """A request, parsed: its values by name, in one form or the other.

    Attributes:
        rows: It came in row form.
    """

    def __init__(self, data: bytes) -> None:
        """Parse it.

        Raises:
            RefusalError: It is no JSON, or has no form.
        """
        try:
            parsed = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            detail = f"Error: {error.msg}. Offset: {error.pos}"
            raise NO_JSON.refusal(detail) from None
        if not isinstance(parsed, dict):
            raise NO_OBJECT.refusal()
        if ("inputs" in parsed) == ("instances" in parsed):
            raise NO_FORMAT.refusal()
        self.rows = "instances" in parsed
        self._values = parsed["instances" if self.rows else "inputs"]

    def fill(self, step: Step, signature: Signature) -> int:
        """Fill ``step`` by the signature of its model; return the number of rows.

        Raises:
            RefusalError: A value is wrong.
        """
        want = expected(signature)
        values = self._by_name(want)
        if signature.states:
            id_, control = (self._special(values, name) for name in (controls.ID, controls.CONTROL))
            controls.apply(step, id_, control)
        special = sum(name in values for name in controls.SPECIAL) if signature.states else 0
        check_count(want, len(values), special)
        inputs: dict[str, Array] = {}
        rows = 0
        for wanted in want.inputs:
            name = wanted.spec.name
            if name not in values:
                if wanted.required:
                    raise INPUT_MISSING.refusal(f"Required input: {name}")
                continue
            array = _array(values[name], wanted, self._wrong)
            rows = check_shape(wanted.spec, array.shape, rows=rows, many=want.many_rows)
            inputs[name] = array
        step.inputs = inputs
        return rows or 1

    @property
    def _wrong(self) -> Words:
        return NO_INSTANCE_NDARRAY if self.rows else NO_NDARRAY

    def _by_name(self, want: Expected) -> dict[str, Any]:
        return self._rows_by_name(want) if self.rows else self._columns_by_name(want)

    def _columns_by_name(self, want: Expected) -> dict[str, Any]:
        values = self._values
        if isinstance(values, dict) and "b64" not in values:
            if not values:
                raise NO_INPUTS.refusal()
            return values
        if isinstance(values, bool) or not isinstance(values, list | int | float | dict):
            raise NO_INPUTS_OBJECT.refusal()
        return {_only(want): values}

    def _rows_by_name(self, want: Expected) -> dict[str, Any]:
        """Gather the values of all instances: one list a name."""
        values = self._values
        if not isinstance(values, list) or not values:
            raise NO_INSTANCES.refusal()
        if not all(isinstance(value, dict) and "b64" not in value for value in values):
            if any(isinstance(value, dict) and "b64" not in value for value in values):
                raise self._wrong.refusal()
            return {_only(want): values}
        names = list(values[0])
        if any(set(value) != set(names) for value in values):
            raise OTHER_BATCHES.refusal()
        return {name: [value[name] for value in values] for name in names}

    def _special(self, values: dict[str, Any], name: str) -> int:
        """Return the value of a special tensor; 0 = it is not there."""
        if name not in values:
            return 0
        value = values[name]
        if self.rows:
            if len(value) != 1:
                raise SHAPE.refusal(controls.required(name))
            value = value[0]
        if isinstance(value, list):
            if len(value) > 1 and all(_is_number(entry, _LIMITS[name]) for entry in value):
                raise SHAPE.refusal(controls.required(name))
            value = value[0] if len(value) == 1 else None
        if not _is_number(value, _LIMITS[name]):
            raise self._wrong.refusal()
        return int(value)


def _is_number(value: object, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit


def _only(want: Expected) -> str:
    """Return the name of the only input, for values without a name."""
    if len(want.inputs) != 1:
        raise UNNAMED.refusal()
    return want.inputs[0].spec.name


def _array(value: Any, wanted: Wanted, wrong: Words) -> Array:
    dtype = wanted.dtype
    if dtype.hasobject:
        return _strings(value, wrong)
    try:
        plain = np.asarray(value)
    except (ValueError, OverflowError):  # ragged
        raise wrong.refusal() from None
    if plain.size == 0 and plain.dtype.kind in "fO":
        return np.empty(plain.shape, dtype)
    if plain.dtype.kind == "O":  # numbers beyond 64 bits, strings, nothing
        raise wrong.refusal()
    if dtype.kind in "iu" and plain.dtype.kind == "f":
        plain = _whole(value, plain, wrong)
    if plain.dtype.kind not in ("biuf" if dtype.kind == "b" else "iuf"):
        raise wrong.refusal()
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(plain.min()) < limits.min or int(plain.max()) > limits.max:
            raise wrong.refusal()
    with np.errstate(over="ignore"):  # 1e300 as FP32 is infinite, as in any other client
        return plain.astype(dtype)


def _whole(value: Any, plain: Array, wrong: Words) -> Array:
    """Return integers where numpy made floats of them; fractions are cut off."""
    exact = np.asarray(value, object)  # numpy mixes small integers and those above 2**63 badly
    if all(type(entry) is int for entry in exact.reshape(-1).tolist()):
        return exact.astype(np.uint64) if int(exact.min()) >= 0 else _refused(wrong)
    if not np.isfinite(plain).all() or np.abs(plain).max() >= 2.0**63:
        raise wrong.refusal()
    return np.trunc(plain).astype(np.int64)


def _refused(wrong: Words) -> Array:
    raise wrong.refusal()


def _strings(value: Any, wrong: Words) -> Array:
    """Return strings as bytes; ``{"b64": ...}`` objects are binary."""
    shape: list[int] = []
    probe = value
    while isinstance(probe, list):
        shape.append(len(probe))
        probe = probe[0] if probe else None
    flat: list[bytes] = []

    def walk(part: Any, depth: int) -> None:
        if depth < len(shape):
            if not isinstance(part, list) or len(part) != shape[depth]:
                raise wrong.refusal()
            for entry in part:
                walk(entry, depth + 1)
        else:
            flat.append(_bytes(part, wrong))

    walk(value, 0)
    array = np.empty(len(flat), object)
    array[:] = flat
    return array.reshape(shape)


def _bytes(value: Any, wrong: Words) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except binascii.Error:
            pass
    raise wrong.refusal()


# -- answers --------------------------------------------------------------------------------------


def write_reply(reply: Reply, *, rows: bool) -> bytes:
    """Return the body for a reply, in the form that the request had."""
    arrays = {
        header.name: array_of(header, data)
        for header, data in zip(reply.headers, reply.data, strict=True)
    }
    finite = all(a.dtype.kind != "f" or bool(np.isfinite(a).all()) for a in arrays.values())
    values = {name: _plain(array) for name, array in arrays.items()}
    named = bool(reply.step)
    if named:
        values[controls.ID] = [reply.correlation_id]
    bare = not named and len(values) == 1
    body: dict[str, Any]
    if not rows:
        body = {"outputs": next(iter(values.values())) if bare else values}
    else:
        count = min((len(value) for value in values.values()), default=0)
        body = {
            "predictions": next(iter(values.values()))
            if bare
            else [{name: value[at] for name, value in values.items()} for at in range(count)]
        }
    # NaN and infinity have no JSON; what the other servers of this API write is read by most.
    return orjson.dumps(body) if finite else json.dumps(body, separators=(",", ":")).encode()


def _plain(array: Array) -> Any:
    if array.dtype.hasobject:
        flat = [_text(value) for value in array.reshape(-1).tolist()]
        return _shaped(flat, array.shape)
    return array.tolist()


def _text(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def _shaped(flat: list[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    if len(shape) == 1:
        return flat
    size = len(flat) // shape[0] if shape[0] else 0
    return [_shaped(flat[at * size : (at + 1) * size], shape[1:]) for at in range(shape[0])]
