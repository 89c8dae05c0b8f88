"""The value of a state that grows: immutable pages, shared by all who hold a part of them.

A cache that grows by a row a step must not be copied at every step. So its value is
kept as **pages**, each the entries of one or of many steps, in the order of growth.
A new step adds a page and shares the others with the value before it: a snapshot, a
fork and a step that is not committed cost nothing.

Inside a page the growing axis comes first (``entries, outer, inner``), whatever axis it
is in the model: so pages are joined by joining bytes. The bytes of the whole value,
in the model's own order, are made by ``bytes(pages)``, for whoever wants them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from legato.core.types import StateRow

if TYPE_CHECKING:
    from collections.abc import Iterable

RADIX = 16
"""As many pages of one age are joined to one: an entry is copied once for each power."""


class Pages:
    """Immutable pages of one value.

    Equal to another, and to ``bytes``, if the whole values are equal. ``len`` gives bytes.

    Attributes:
        parts: The pages, oldest first.
        outer: Elements before the growing axis.
        inner: Bytes of one entry behind it.
    """

    __slots__ = ("_added", "_nbytes", "inner", "outer", "parts")

    def __init__(self, parts: Iterable[bytes], outer: int, inner: int) -> None:
        self.parts = tuple(parts)
        self.outer = outer
        self.inner = inner
        self._added = 0
        self._nbytes = sum(map(len, self.parts))

    def add(self, page: bytes) -> Pages:
        """Give the value that has this page behind all others; this one stays as it is."""
        grown = Pages.__new__(Pages)
        grown.outer, grown.inner = self.outer, self.inner
        grown._added = age = self._added + 1  # noqa: SLF001 - its own kind
        grown._nbytes = self._nbytes + len(page)  # noqa: SLF001
        parts = (*self.parts, page)
        while not age % RADIX:
            parts = (*parts[:-RADIX], b"".join(parts[-RADIX:]))
            age //= RADIX
        grown.parts = parts
        return grown

    def __len__(self) -> int:
        return self._nbytes

    def __bytes__(self) -> bytes:
        whole = b"".join(self.parts)
        if self.outer <= 1 or not whole:
            return whole
        pages = np.frombuffer(whole, np.uint8).reshape(-1, self.outer, self.inner)
        return pages.transpose(1, 0, 2).tobytes()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, bytes | Pages):
            return len(self) == len(other) and bytes(self) == bytes(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(bytes(self))

    def __repr__(self) -> str:
        return f"Pages({len(self.parts)} of {self._nbytes} bytes)"


Piece = bytes | Pages
"""The value of one state of a sequence."""


def paged(value: Piece, outer: int, inner: int) -> tuple[bytes, ...]:
    """Give the pages of a value, whole bytes in the model's own order made one page."""
    if isinstance(value, Pages):
        return value.parts
    if outer <= 1 or not value:
        return (value,) if value else ()
    whole = np.frombuffer(value, np.uint8).reshape(outer, -1, inner)
    return (whole.transpose(1, 0, 2).tobytes(),)


def strides(shape: tuple[int, ...], axis: int, itemsize: int) -> tuple[int, int]:
    """Elements before an axis of a row, and bytes of an entry behind it."""
    outer, inner = 1, itemsize
    for size in shape[:axis]:
        outer *= size
    for size in shape[axis + 1 :]:
        inner *= size
    return outer, inner


class Added(NamedTuple):
    """What a step added to a growing state: one page, behind the entries it had."""

    axis: int
    page: bytes


class GrownRow(StateRow):
    """A state of which a part may be pages, and what the step before it changed.

    Attributes:
        change: For each state what makes it of the one before: :class:`Added`, its new
            value whole, or ``None`` where it is the same. ``None`` for all: not known.
        batch: The arrays of the model call that this row came from, and
        at: its place among their rows.
    """

    change: tuple[Added | bytes | None, ...] | None = None
    batch: Any = None
    at: int = 0
