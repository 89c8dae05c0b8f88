"""Rows in and out of batches: gather, update rules, split.

The state of a sequence is immutable bytes a tensor (:class:`StateRow`). A batch
gathers rows by joining bytes, one copy; the next state is split into new bytes,
one copy; publishing is a reference. So a row never sees its neighbour, growing
states need no special case, a fork is a second reference, and the store writes
the very bytes that the next gather reads. Why this is not one big array with
row numbers: ``docs/design.md``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from legato.core.errors import ClientError, SignatureError
from legato.core.text import join_texts, split_texts
from legato.core.types import OutputHeader, StateRow, UpdateRule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from legato.core.types import Array, Signature, StateSpec, TensorSpec


_TEXT = np.dtype(object)  # numpy has one object for it; to ask a dtype costs more


def encode_strings(array: Array) -> bytes:
    """Encode an object array as BYTES: each element after its 4-byte length."""
    return join_texts(
        value if isinstance(value, bytes) else str(value).encode()
        for value in array.ravel().tolist()
    )


def row_bytes(array: Array, rows: int, axis: int) -> tuple[tuple[int, ...], list[bytes]]:
    """Split a batch array into row bytes.

    Args:
        array: Values with ``rows`` rows on ``axis``.
        rows: Number of rows.
        axis: Batch axis.

    Returns:
        Shape of a row (batch axis as 1) and the bytes of each row.
    """
    shape = array.shape
    row_shape = (*shape[:axis], 1, *shape[axis + 1 :])
    if array.dtype.hasobject:
        return row_shape, [encode_strings(part) for part in np.split(array, rows, axis)]
    if rows == 1:
        return row_shape, [array.tobytes()]
    blob = (array if axis == 0 else np.moveaxis(array, axis, 0)).tobytes()
    size = len(blob) // rows
    return row_shape, [blob[at : at + size] for at in range(0, size * rows, size)] if size else [
        b""
    ] * rows


def join_rows(
    rows: Sequence[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], axis: int
) -> Array:
    """Lay row bytes side by side on ``axis``; the result is read-only.

    Args:
        rows: Bytes of each row, all of row shape ``shape`` (batch axis as 1).
        shape: Row shape.
        dtype: Element type.
        axis: Batch axis.
    """
    count = len(rows)
    if dtype is _TEXT:
        texts = [np.array(split_texts(row), object).reshape(shape) for row in rows]
        return np.concatenate(texts, axis)
    flat = np.frombuffer(rows[0] if count == 1 else b"".join(rows), dtype)
    if count == 1:
        return flat.reshape(shape)
    stacked = flat.reshape((count, *shape[:axis], *shape[axis + 1 :]))
    return stacked if axis == 0 else np.ascontiguousarray(np.moveaxis(stacked, 0, axis))


def ragged_column(rows: Sequence[StateRow], at: int) -> Array:
    """Put the bytes of one state of the rows into an object array."""
    column = np.empty(len(rows), object)
    column[:] = [row.data[at] for row in rows]
    return column


class StateLayout:
    """How the states of one model are begun, gathered and moved on.

    One whose states grow is a :class:`legato.engine.growth.GrowingLayout`.

    Attributes:
        grows: A state grows, so rows are moved on by ``grow`` and not by :meth:`split`.
    """

    grows = False

    def __init__(self, signature: Signature) -> None:
        self.specs: tuple[StateSpec, ...] = signature.states
        self._dtypes = tuple(np.dtype(spec.dtype) for spec in self.specs)
        self._data = {spec.name: spec for spec in signature.inputs}
        self.fixed = all(
            -1 not in spec.shape and spec.rule is not UpdateRule.APPEND for spec in self.specs
        )
        self.uniform = all(
            spec.ragged or (-1 not in spec.shape and spec.rule is not UpdateRule.APPEND)
            for spec in self.specs
        )
        """Rows share a call whatever the shapes of their states are."""
        shapes = tuple(spec.first_shape for spec in self.specs)
        self._zero = StateRow(tuple(map(self._first_value, self.specs, shapes)), shapes)
        self._from_client = tuple(
            (at, spec)
            for at, spec in enumerate(self.specs)
            if spec.rule is UpdateRule.WRITE_ONCE and spec.output is None
        )

    def _first_value(self, spec: StateSpec, shape: tuple[int, ...]) -> bytes:
        dtype = np.dtype(spec.dtype)
        if spec.initial is None:  # a text of no bytes is its length, 0
            return bytes(math.prod(shape) * (4 if dtype.hasobject else dtype.itemsize))
        value = np.broadcast_to(np.asarray(spec.initial, dtype), shape)
        return encode_strings(value) if dtype.hasobject else value.tobytes()

    def initial(self, inputs: Mapping[str, Array]) -> StateRow:
        """Make the row of a new sequence.

        Args:
            inputs: Inputs of the first step; WRITE_ONCE states without an output
                take their value from here.

        Raises:
            ClientError: The first step lacks such a value.
        """
        if not self._from_client:
            return self._zero
        data, shapes = list(self._zero.data), list(self._zero.shapes)
        for at, spec in self._from_client:
            value = inputs.get(spec.input)
            if value is None:
                msg = f"the first step must carry '{spec.input}': it is constant for the sequence"
                raise ClientError(msg)
            data[at] = np.ascontiguousarray(value, self._dtypes[at]).tobytes()
            shapes[at] = value.shape
        return StateRow(tuple(data), tuple(shapes))

    def shapes_in_common(self, row: StateRow) -> tuple[tuple[int, ...], ...]:
        """Give the shapes that all rows of a call must have."""
        return tuple(
            shape for spec, shape in zip(self.specs, row.shapes, strict=True) if not spec.ragged
        )

    def fits(self, row: StateRow) -> bool:
        """Tell whether a stored row has this model's number of states, shapes and sizes."""
        if len(row.data) != len(self.specs):
            return False
        for spec, dtype, data, shape in zip(
            self.specs, self._dtypes, row.data, row.shapes, strict=True
        ):
            if len(shape) != len(spec.shape) or not _holds(data, shape, dtype):
                return False
            for axis, (want, got) in enumerate(zip(spec.shape, shape, strict=True)):
                grows = spec.rule is UpdateRule.APPEND and axis == spec.axis
                if want not in (-1, got) and not grows:
                    return False
        return True

    def gather(self, rows: Sequence[StateRow]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Lay the rows' states side by side.

        Returns:
            State by name for the runtime, and WINDOW state by name for :meth:`windowed`.
        """
        states: dict[str, Array] = {}
        windows: dict[str, Array] = {}
        for at, spec in enumerate(self.specs):
            if spec.ragged:
                states[spec.name] = ragged_column(rows, at)
                continue
            value = join_rows(
                [row.data[at] for row in rows],
                rows[0].shapes[at],
                self._dtypes[at],
                spec.batch_axis,
            )
            (windows if spec.rule is UpdateRule.WINDOW else states)[spec.name] = value
        return states, windows

    def windowed(self, inputs: dict[str, Array], windows: Mapping[str, Array]) -> dict[str, Array]:
        """Put each window before its data input (in ``inputs``); return the next windows."""
        following: dict[str, Array] = {}
        for spec in self.specs:
            if spec.rule is UpdateRule.WINDOW:
                whole = np.concatenate((windows[spec.name], inputs[spec.input]), axis=spec.axis)
                inputs[spec.input] = whole
                keep: list[Any] = [slice(None)] * whole.ndim
                keep[spec.axis] = slice(max(0, whole.shape[spec.axis] - spec.size), None)
                following[spec.name] = whole[tuple(keep)]
        return following

    def split(
        self, following: Mapping[str, Array], old: Sequence[StateRow], first: Sequence[bool]
    ) -> list[StateRow]:
        """Make each row's next state from what the model gave, by its update rule.

        Args:
            following: State name to the value for all rows.
            old: Rows before the step.
            first: Whether it was the row's first step.

        Raises:
            SignatureError: A value has another dtype, rank, row count or shape than declared.
        """
        count = len(old)
        if not self.specs:
            return [self._zero] * count
        columns: list[list[bytes]] = []
        shapes: list[tuple[int, ...]] = []
        varying: dict[int, list[tuple[int, ...]]] = {}
        for at, spec in enumerate(self.specs):
            if spec.rule is UpdateRule.WRITE_ONCE and (spec.output is None or not any(first)):
                columns.append([row.data[at] for row in old])
                varying[at] = [row.shapes[at] for row in old]
                shapes.append(())
                continue
            value = following.get(spec.name)
            if value is None:
                msg = f"the model gave no next value of state '{spec.name}'"
                raise SignatureError(msg)
            if spec.rule is UpdateRule.KEEP_IF_EMPTY and value.size == 0:
                columns.append([row.data[at] for row in old])
                varying[at] = [row.shapes[at] for row in old]
                shapes.append(())
                continue
            if spec.ragged:
                data = _ragged_rows(spec, value, count)
                columns.append(data)
                varying[at] = [(1, len(blob)) for blob in data]
                shapes.append(())
                continue
            check_value(spec, self._dtypes[at], value, count)
            row_shape, data = row_bytes(value, count, spec.batch_axis)
            if spec.rule is UpdateRule.WRITE_ONCE:
                data = [
                    new if f else row.data[at] for new, f, row in zip(data, first, old, strict=True)
                ]
                varying[at] = [
                    row_shape if f else row.shapes[at] for f, row in zip(first, old, strict=True)
                ]
            columns.append(data)
            shapes.append(row_shape)
        if not varying:
            shared = self._zero.shapes if self.fixed else tuple(shapes)
            return [StateRow(data, shared) for data in zip(*columns, strict=True)]
        return [
            StateRow(
                data,
                tuple(
                    varying[at][i] if at in varying else shape for at, shape in enumerate(shapes)
                ),
            )
            for i, data in enumerate(zip(*columns, strict=True))
        ]


def check_value(spec: StateSpec, dtype: np.dtype[Any], value: Array, count: int) -> None:
    """Check what a model gave as the next value of a state.

    Raises:
        SignatureError: It has another dtype, rank, row count or shape than declared.
    """
    if value.dtype != dtype:
        msg = f"state '{spec.name}' is declared {spec.dtype}, the model gave {value.dtype}"
        raise SignatureError(msg)
    declared = spec.shape
    if len(value.shape) != len(declared):
        msg = f"state '{spec.name}' has rank {len(declared)}, the model gave {value.shape}"
        raise SignatureError(msg)
    for axis, (want, got) in enumerate(zip(declared, value.shape, strict=True)):
        expected = count if axis == spec.batch_axis else want
        varies = want == -1 or (spec.rule is UpdateRule.APPEND and axis == spec.axis)
        if got != expected and not (varies and axis != spec.batch_axis):
            msg = (
                f"state '{spec.name}' must have {expected} on axis {axis}, "
                f"the model gave shape {value.shape}"
            )
            raise SignatureError(msg)


def _holds(data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Tell whether bytes are a tensor of this shape."""
    if not dtype.hasobject:
        return len(data) == math.prod(shape) * dtype.itemsize
    try:
        return len(split_texts(data)) == math.prod(shape)
    except ValueError:
        return False


def _ragged_rows(spec: StateSpec, value: Array, count: int) -> list[bytes]:
    rows: list[Any] = value.tolist()
    if value.shape != (count,) or not all(type(blob) is bytes for blob in rows):
        msg = f"state '{spec.name}' must be {count} byte strings, the model gave other things"
        raise SignatureError(msg)
    return rows


class OutputLayout:
    """How the outputs of one model are checked and split into rows."""

    def __init__(self, signature: Signature) -> None:
        self.specs = signature.outputs
        self.names = frozenset(spec.name for spec in self.specs)
        self._in_order = tuple(spec.name for spec in self.specs)
        self._dtypes = tuple(np.dtype(spec.dtype) for spec in self.specs)
        self._headers: dict[tuple[Any, ...], tuple[OutputHeader, ...]] = {}
        self._subsets: dict[Any, tuple[tuple[OutputHeader, ...], tuple[int, ...]]] = {}

    def split(
        self, outputs: Mapping[str, Array], rows: int
    ) -> tuple[tuple[OutputHeader, ...], list[tuple[bytes, ...]]]:
        """Split outputs into rows.

        Returns:
            Headers (one shared tuple object a shape) and each row's bytes.

        Raises:
            SignatureError: An output is missing or has another dtype or row count.
        """
        shapes: list[tuple[int, ...]] = []
        columns: list[list[bytes]] = []
        for spec, dtype in zip(self.specs, self._dtypes, strict=True):
            value = outputs.get(spec.name)
            if value is None:
                msg = f"the model gave no output '{spec.name}'"
                raise SignatureError(msg)
            axis = self._check(spec, dtype, value, rows)
            if axis is None:
                blob = encode_strings(value) if value.dtype.hasobject else value.tobytes()
                shapes.append(value.shape)
                columns.append([blob] * rows)
            else:
                shape, data = row_bytes(value, rows, axis)
                shapes.append(shape)
                columns.append(data)
        key = tuple(shapes)
        headers = self._headers.get(key)
        if headers is None:
            if len(self._headers) > 1024:
                self._headers.clear()
            headers = self._headers[key] = tuple(
                OutputHeader(spec.name, spec.dtype, shape)
                for spec, shape in zip(self.specs, shapes, strict=True)
            )
        return headers, list(zip(*columns, strict=True)) if columns else [()] * rows

    def subset(
        self, headers: tuple[OutputHeader, ...], names: tuple[str, ...]
    ) -> tuple[tuple[OutputHeader, ...], tuple[int, ...]]:
        """Headers and positions of the outputs asked for, in the order asked.

        No positions stand for all outputs as they are.
        """
        if names == self._in_order:
            return headers, ()
        key = (headers, names)
        found = self._subsets.get(key)
        if found is None:
            if len(self._subsets) > 1024:
                self._subsets.clear()
            order = {header.name: at for at, header in enumerate(headers)}
            # Some models leave out outputs of their own accord.
            picks = tuple(order[name] for name in names if name in order)
            found = self._subsets[key] = (tuple(headers[at] for at in picks), picks)
        return found

    @staticmethod
    def _check(spec: TensorSpec, dtype: np.dtype[Any], value: Array, rows: int) -> int | None:
        if value.dtype != dtype:
            msg = f"output '{spec.name}' is declared {spec.dtype}, the model gave {value.dtype}"
            raise SignatureError(msg)
        axis = spec.batch_axis
        if axis is None:
            if rows != 1:
                msg = (
                    f"output '{spec.name}' has no batch axis and cannot be split among {rows} rows"
                )
                raise SignatureError(msg)
            return None
        if axis >= value.ndim or value.shape[axis] != rows:
            msg = f"output '{spec.name}' must hold {rows} rows on axis {axis}, got {value.shape}"
            raise SignatureError(msg)
        return axis
