"""Records of states that grow: what a step changed, and where the record before lies.

Layout of what stands in the place of the state, little endian::

    u64  bytes of the whole state
    u32  segment, u32 offset, u32 length, u64 checksum: the record before
    u32  how many records back the one is that holds a whole state
    u16  tensors, then per tensor: u8 what (0 as before, 1 this is its value, 2 it has grown
         by this page), u8 axis, u8 rank, u64 bytes here, i64 dims
    the data; in a page the axis that grows comes first

The rest of the record is as in any other, see :mod:`legato.stores.codec`.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from legato.core.pages import Added, GrownRow, Pages, paged
from legato.stores.codec import (
    GROW,
    GROWN_FORMAT,
    PUT,
    RecordError,
    encode_head,
    finish,
    peek,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from legato.core.types import Receipt, StateRow

KEPT, SET, ADDED = 0, 1, 2
"""What is said of a tensor: it is as before, this is its value, this was added."""

_LINK = struct.Struct("<QIIIQI")
_COUNT = struct.Struct("<H")
_CHANGE = struct.Struct("<BBBQ")


class Link(NamedTuple):
    """Where the record lies that another one goes on from.

    Attributes:
        state_bytes: Bytes of the whole state that the two make.
        segment: The file,
        offset: its first byte there
        length: and its size.
        checksum: How it begins; no other record lies there if that holds.
        back: How many records back the whole state is; 1 = it is that one.
    """

    state_bytes: int
    segment: int
    offset: int
    length: int
    checksum: int
    back: int


class Change(NamedTuple):
    """What is said of a tensor: KEPT, SET or ADDED, on which axis, its shape from now on."""

    what: int
    axis: int
    shape: tuple[int, ...]
    data: bytes


class Growth(NamedTuple):
    """What a record says of the state."""

    link: Link
    changes: tuple[Change, ...]


def encode_grown(  # noqa: PLR0917 - as codec.encode_record
    serial: int,
    key: bytes,
    constants: bytes,
    epoch: int,
    step: int,
    touched: float,
    receipts: tuple[Receipt, ...],
    link: Link,
    state: GrownRow,
) -> list[bytes]:
    """Encode what a step changed of a state, behind the record before.

    Args:
        serial: Position in the history of the store.
        key: From :func:`legato.stores.codec.encode_key`.
        constants: From :func:`legato.stores.codec.encode_constants`.
        epoch: As in the head.
        step: As in the head.
        touched: When it is written, in the store's own time.
        receipts: As in the head.
        link: The record of the step before.
        state: After the step; it says what changed.

    Raises:
        RecordError: A part is larger than the format can hold, or the change is not known.
    """
    if state.change is None:
        raise RecordError("what a step changed of a state is not known")
    parts, head_size = encode_head(key, constants, epoch, step, touched, receipts, b"")
    layout = [_LINK.pack(*link), _COUNT.pack(len(state.change))]
    data: list[bytes] = []
    for change, shape in zip(state.change, state.shapes, strict=True):
        what, axis, piece = KEPT, 0, b""
        if isinstance(change, Added):
            what, axis, piece = ADDED, change.axis, change.page
        elif change is not None:
            what, piece = SET, change
        layout.append(_CHANGE.pack(what, axis, len(shape), len(piece)))
        layout.append(struct.pack(f"<{len(shape)}q", *shape))
        data.append(piece)
    parts += layout
    size = sum(map(len, layout)) + sum(map(len, data))
    return finish(GROWN_FORMAT, GROW, serial, key, parts, head_size, size, data)


def read_link(data: bytes) -> Link | None:
    """Where the record lies that this one goes on from; ``None`` if it holds a whole state.

    Args:
        data: A record, or its beginning, at least to the end of its link.

    Raises:
        RecordError: The bytes are no such record, or too few.
    """
    kind, head_stop = peek(data)
    if kind == PUT:
        return None
    if kind != GROW or len(data) < head_stop + _LINK.size:
        raise RecordError(f"{len(data)} bytes of a record of kind {kind} hold no part of a state")
    return Link._make(_LINK.unpack_from(data, head_stop))


def decode_growth(blob: bytes) -> Growth:
    """Decode what a record says of the state.

    Raises:
        RecordError: The bytes do not fit.
    """
    try:
        return _decode(blob)
    except struct.error as error:
        raise RecordError(f"a part of a state cannot be read: {error}") from error


def _decode(blob: bytes) -> Growth:
    link = Link._make(_LINK.unpack_from(blob, 0))
    at = _LINK.size
    (count,) = _COUNT.unpack_from(blob, at)
    at += _COUNT.size
    told = []
    for _ in range(count):
        what, axis, rank, length = _CHANGE.unpack_from(blob, at)
        at += _CHANGE.size
        shape = struct.unpack_from(f"<{rank}q", blob, at)
        at += 8 * rank
        if what > ADDED or (what == ADDED and axis >= rank) or (what == KEPT and length):
            raise RecordError(f"a record says {what} of a tensor, on axis {axis} of {rank}")
        told.append((what, axis, shape, length))
    changes = []
    for what, axis, shape, length in told:
        changes.append(Change(what, axis, shape, blob[at : at + length]))
        at += length
    if at != len(blob):
        raise RecordError(f"a part of a state ends at byte {at}, not {len(blob)}")
    return Growth(link, tuple(changes))


def combine(state: StateRow, growths: Sequence[Growth]) -> StateRow:
    """Make a state of a whole one and of what changed since, oldest first.

    Raises:
        RecordError: They do not fit each other.
    """
    if not growths:
        return state
    data: list[Any] = list(state.data)
    shapes = list(state.shapes)
    pages: list[list[bytes]] = [[] for _ in data]
    axes: dict[int, int] = {}
    for growth in growths:
        if len(growth.changes) != len(data):
            raise RecordError(
                f"a state of {len(data)} tensors was followed by one of {len(growth.changes)}"
            )
        for at, (what, axis, shape, piece) in enumerate(growth.changes):
            shapes[at] = shape
            if what == SET:
                data[at], pages[at] = piece, []
                axes.pop(at, None)
            elif what == ADDED:
                pages[at].append(piece)
                axes[at] = axis
    for at, axis in axes.items():
        data[at] = _grown(data[at], pages[at], shapes[at], axis)
    row = GrownRow(tuple(data), tuple(shapes))
    if row.nbytes != growths[-1].link.state_bytes:
        raise RecordError(
            f"the parts of a state have {row.nbytes} bytes, not {growths[-1].link.state_bytes}"
        )
    return row


def _grown(value: bytes, pages: list[bytes], shape: tuple[int, ...], axis: int) -> Pages:
    outer, entries = math.prod(shape[:axis]), shape[axis]
    added = b"".join(pages)
    behind = math.prod(shape[axis + 1 :])
    whole = len(value) + len(added)
    if not outer * entries * behind or whole % (outer * entries):
        raise RecordError(f"{whole} bytes are no tensor of the shape {shape}")
    inner = whole // (outer * entries)
    if len(value) % (outer * inner):
        raise RecordError(f"{len(value)} bytes are not the beginning of the shape {shape}")
    return Pages((*paged(value, outer, inner), added), outer, inner)
