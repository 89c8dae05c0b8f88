"""States that grow: a step costs what it adds, not what was there before.

The value of an APPEND state is kept as pages (:mod:`legato.core.pages`). Of what the
model gives, only the new entries are taken; the store is told what they are; and the
arrays of a model call are handed back to the next one, if that has the same rows: so
in the usual case, a batch whose sequences go on together, nothing is copied but what
is new. Rows that are not together any more are picked out of these arrays, and where
that is not possible they are joined from their pages.
"""

from __future__ import annotations

import weakref
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from legato.core.errors import SignatureError, StateFullError
from legato.core.pages import Added, GrownRow, Pages, paged, strides
from legato.core.types import StateRow, UpdateRule
from legato.engine.arena import StateLayout, check_value, join_rows, ragged_column, row_bytes

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    from legato.core.pages import Piece
    from legato.core.types import Array, Signature, StateSpec

    Shapes = list[tuple[int, ...]]
    Changes = list[Added | bytes | None]

KEPT_BYTES = 256 << 20
"""Bytes of arrays of earlier model calls that one model keeps at most."""

_PROOFS = 8
_PROVE_EVERY = 64


def layout_of(signature: Signature) -> StateLayout:
    """Make the layout that a model's states need."""
    grows = any(spec.rule is UpdateRule.APPEND for spec in signature.states)
    return GrowingLayout(signature) if grows else StateLayout(signature)


class Kept:
    """The arrays of a model call, alive as long as a row that came from it is."""

    __slots__ = ("__weakref__", "arrays", "nbytes", "rows")

    def __init__(self, arrays: dict[str, Array], rows: int) -> None:
        self.arrays = arrays
        self.rows = rows
        self.nbytes = sum(array.nbytes for array in arrays.values())


class Growth:
    """How one APPEND state grows.

    A model may give the whole value (as exported decoders do) or the new entries only.
    Of a whole value the earlier entries must be what they were. That is what APPEND says,
    and it is proven bit by bit in the first calls and now and then in later ones. A
    state whose earlier entries are found to change in the first calls is carried whole.
    """

    def __init__(self, spec: StateSpec) -> None:
        self.spec = spec
        self.dtype = np.dtype(spec.dtype)
        self._behind = [*range(len(spec.shape))]
        self._behind.remove(spec.batch_axis)
        self._behind.remove(spec.axis)
        self._pages_first = (spec.batch_axis, spec.axis, *self._behind)
        self._model_order = tuple(np.argsort(self._pages_first).tolist())
        if self.dtype.hasobject and spec.append_new_only:
            msg = f"state '{spec.name}' holds texts, which cannot be appended one by one"
            raise SignatureError(msg)
        self._changes = self.dtype.hasobject  # texts have no size of their own: carried whole
        self._proofs = 0
        self._calls = 0

    def gather(self, pieces: Sequence[Piece], shape: tuple[int, ...]) -> Array:
        """Lay values of one row shape side by side."""
        spec = self.spec
        if not any(isinstance(piece, Pages) for piece in pieces):
            return join_rows(pieces, shape, self.dtype, spec.batch_axis)  # type: ignore[arg-type]
        outer, inner = strides(shape, spec.axis, self.dtype.itemsize)
        parts: list[bytes] = []
        for piece in pieces:
            parts += paged(piece, outer, inner)
        flat = np.frombuffer(b"".join(parts), self.dtype)
        behind = [shape[axis] for axis in self._behind]
        stacked = flat.reshape(len(pieces), shape[spec.axis], *behind)
        return np.ascontiguousarray(stacked.transpose(self._model_order))

    def fresh(self, value: Array, past: Array) -> Array | None:
        """Give the new entries of what the model gave; ``None`` if it did not append.

        Raises:
            SignatureError: Earlier entries changed, which they did not in the first calls.
        """
        spec = self.spec
        if spec.append_new_only:
            return value
        length = past.shape[spec.axis]
        if self._changes or value.shape[spec.axis] < length:
            return None
        if not length:
            return value
        if not self._alike(value.shape, past.shape):
            return None
        cut: list[Any] = [slice(None)] * value.ndim
        cut[spec.axis] = slice(0, length)
        self._calls += 1
        if self._proofs < _PROOFS or not self._calls % _PROVE_EVERY:
            if not _same(value[tuple(cut)], past):
                if self._proofs < _PROOFS:
                    self._changes = True
                    return None
                msg = (
                    f"state '{spec.name}' is declared to append, but the model changed entries "
                    "that it had before; give it the rule 'replace'"
                )
                raise SignatureError(msg)
            self._proofs += 1
        cut[spec.axis] = slice(length, None)
        fresh: Array = value[tuple(cut)]
        return fresh

    def _alike(self, one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        """Tell whether two shapes agree but for the axis that grows."""
        axis = self.spec.axis
        return one[:axis] == other[:axis] and one[axis + 1 :] == other[axis + 1 :]

    def grow(
        self, fresh: Array, pieces: Sequence[Piece], past: tuple[int, ...]
    ) -> tuple[tuple[int, ...], Sequence[Piece], Changes]:
        """Add the new entries to each row; give the next shape, values and changes.

        Raises:
            SignatureError: The new entries do not fit the ones before.
        """
        spec, count = self.spec, len(pieces)
        sizes = list(fresh.shape)
        sizes[spec.batch_axis] = 1
        added = sizes[spec.axis]
        if not added:
            return past, pieces, [None] * count
        length = past[spec.axis]
        sizes[spec.axis] = length + added
        shape = tuple(sizes)
        if length and not self._alike(shape, past):
            msg = f"state '{spec.name}' has shape {past}, the model gave {fresh.shape} to append"
            raise SignatureError(msg)
        outer, inner = strides(shape, spec.axis, self.dtype.itemsize)
        blob = fresh.transpose(self._pages_first).tobytes()
        size = len(blob) // count
        axis = spec.axis
        grown: list[Piece] = []
        changes: Changes = []
        for at, piece in enumerate(pieces):
            page = blob[at * size : at * size + size]
            if not isinstance(piece, Pages):
                piece = Pages(paged(piece, outer, inner), outer, inner)  # noqa: PLW2901
            grown.append(piece.add(page))
            changes.append(Added(axis, page))
        return shape, grown, changes


def _same(one: Array, other: Array) -> bool:
    """Tell whether two arrays are equal bit by bit, NaN included."""
    if one.shape != other.shape:
        return False
    if one.dtype.itemsize in {1, 2, 4, 8}:
        bits = f"u{one.dtype.itemsize}"
        return bool(np.array_equal(one.view(bits), other.view(bits)))
    return one.tobytes() == other.tobytes()


class GrowingLayout(StateLayout):
    """The states of a model of which at least one grows."""

    grows = True

    def __init__(self, signature: Signature) -> None:
        super().__init__(signature)
        self._growths = {
            at: Growth(spec) for at, spec in enumerate(self.specs) if spec.rule is UpdateRule.APPEND
        }
        self._rest = tuple(at for at in range(len(self.specs)) if at not in self._growths)
        others = tuple(self.specs[at] for at in self._rest)
        self._others = StateLayout(replace(signature, states=others))
        self._bounded = tuple((at, spec) for at, spec in enumerate(self.specs) if spec.max_length)
        # What is worth handing back: values that a step leaves alone, or adds to.
        self._constant = tuple(
            (place, self.specs[at].name)
            for place, at in enumerate(self._rest)
            if self.specs[at].rule in {UpdateRule.WRITE_ONCE, UpdateRule.KEEP_IF_EMPTY}
        )
        self._recent: deque[weakref.ref[Kept]] = deque()

    def gather(self, rows: Sequence[StateRow]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Lay the rows' states side by side, from the arrays of the call before if possible."""
        kept = self._kept(rows)
        states: dict[str, Array] = {}
        windows: dict[str, Array] = {}
        for at, spec in enumerate(self.specs):
            value = kept.get(spec.name)
            if value is None:
                value = self._gather_one(at, rows)
            (windows if spec.rule is UpdateRule.WINDOW else states)[spec.name] = value
        return states, windows

    def _gather_one(self, at: int, rows: Sequence[StateRow]) -> Array:
        spec, growth = self.specs[at], self._growths.get(at)
        if spec.ragged:
            return ragged_column(rows, at)
        values = [row.data[at] for row in rows]
        if growth is not None:
            return growth.gather(values, rows[0].shapes[at])
        return join_rows(values, rows[0].shapes[at], self._dtypes[at], spec.batch_axis)

    def _kept(self, rows: Sequence[StateRow]) -> dict[str, Array]:
        """Arrays that hold exactly these rows: a row knows the call it came from."""
        first = rows[0]
        batch = first.batch if isinstance(first, GrownRow) else None
        if batch is None or not batch.arrays:
            return {}
        arrays: dict[str, Array] = batch.arrays
        places = []
        for row in rows:
            if not isinstance(row, GrownRow) or row.batch is not batch:
                return {}
            places.append(row.at)
        if len(places) == batch.rows and places == [*range(batch.rows)]:
            return arrays
        axes = {spec.name: spec.batch_axis for spec in self.specs}
        return {name: array.take(places, axes[name]) for name, array in arrays.items()}

    def grow(
        self,
        following: MutableMapping[str, Array],
        old: Sequence[StateRow],
        first: Sequence[bool],
        gathered: MutableMapping[str, Array],
        *,
        lasting: bool = False,
    ) -> list[StateRow]:
        """Make each row's next state from what the model gave, by its update rule.

        Args:
            following: State name to the value for all rows. Of a state that grew, only
                its new entries are left in here.
            old: Rows before the step.
            first: Whether it was the row's first step.
            gathered: What :meth:`gather` gave for ``old``.
            lasting: The model will not write over these arrays.

        Raises:
            SignatureError: A value has another dtype, rank, row count or shape than declared.
        """
        count = len(old)
        whole: dict[str, Array] = {}
        columns: list[Sequence[Piece]] = [()] * len(self.specs)
        changes: list[Changes] = [[]] * len(self.specs)
        shapes: list[Shapes] = [[]] * len(self.specs)
        for at, growth in self._growths.items():
            shape, columns[at], changes[at] = self._grown(
                at, growth, following, old, gathered, whole
            )
            shapes[at] = [shape] * count
        self._move_others(following, old, first, columns, changes, shapes)
        if lasting:
            for place, name in self._constant:
                at = self._rest[place]
                if not any(change is not None for change in changes[at]):
                    whole[name] = gathered[name]
        kept = self._keep(whole, count) if lasting and whole else None
        rows: list[StateRow] = []
        for at, data in enumerate(zip(*columns, strict=True)):
            row = GrownRow(data, tuple([each[at] for each in shapes]))
            row.change = tuple([each[at] for each in changes])
            row.batch, row.at = kept, at
            rows.append(row)
        return rows

    def _grown(
        self,
        at: int,
        growth: Growth,
        following: MutableMapping[str, Array],
        old: Sequence[StateRow],
        gathered: MutableMapping[str, Array],
        whole: dict[str, Array],
    ) -> tuple[tuple[int, ...], Sequence[Piece], Changes]:
        spec = growth.spec
        value = following.get(spec.name)
        if value is None:
            msg = f"the model gave no next value of state '{spec.name}'"
            raise SignatureError(msg)
        check_value(spec, growth.dtype, value, len(old))
        fresh = growth.fresh(value, gathered[spec.name])
        if not spec.append_new_only:
            whole[spec.name] = value
        if fresh is None:
            shape, blobs = row_bytes(value, len(old), spec.batch_axis)
            return shape, blobs, [*blobs]
        following[spec.name] = fresh
        return growth.grow(fresh, [row.data[at] for row in old], old[0].shapes[at])

    def _move_others(
        self,
        following: MutableMapping[str, Array],
        old: Sequence[StateRow],
        first: Sequence[bool],
        columns: list[Sequence[Piece]],
        changes: list[Changes],
        shapes: list[Shapes],
    ) -> None:
        """Move the states on that do not grow."""
        places = self._rest
        if not places:
            return
        before = [
            StateRow(
                tuple([row.data[at] for at in places]), tuple([row.shapes[at] for at in places])
            )
            for row in old
        ]
        after = self._others.split(following, before, first)
        for place, at in enumerate(places):
            columns[at] = [row.data[place] for row in after]
            shapes[at] = [row.shapes[place] for row in after]
            changes[at] = [
                None if new.data[place] is row.data[place] else _whole(new.data[place])
                for new, row in zip(after, before, strict=True)
            ]

    def _keep(self, arrays: dict[str, Array], count: int) -> Kept | None:
        """Keep the arrays of a call for the next one, within the bound."""
        kept = Kept(arrays, count)
        if kept.nbytes > KEPT_BYTES:
            return None
        for array in arrays.values():
            array.flags.writeable = False
        recent = self._recent
        recent.append(weakref.ref(kept))
        held = [batch for each in list(recent) if (batch := each()) is not None and batch.arrays]
        total = sum(batch.nbytes for batch in held)
        while held and total > KEPT_BYTES:
            oldest = held.pop(0)
            total -= oldest.nbytes
            oldest.arrays = {}
        while recent and ((batch := recent[0]()) is None or not batch.arrays):
            recent.popleft()
        return kept

    def too_long(self, row: StateRow) -> StateFullError | None:
        """Say that a state has passed its longest allowed length."""
        for at, spec in self._bounded:
            if row.shapes[at][spec.axis] > spec.max_length:
                return StateFullError(spec.name, spec.max_length)
        return None


def _whole(piece: Piece) -> bytes:
    return bytes(piece)
