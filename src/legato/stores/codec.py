"""Bytes of a record: versioned, checksummed, the same in every engine that stores bytes.

Layout of format 1, little endian::

    u64  checksum        xxh3-64 over all that follows
    u32  total           bytes of the whole record, checksum included
    u16  format          1; 2 for kind 5
    u8   kind            1 put, 2 delete (tombstone), 3 seal, 4 own (a new owner, no state),
                         5 grow (what a step changed of the record before)
    u8   marker          0xA5, a foothold for the search after damage
    u32  key bytes, u32 head bytes, u32 state bytes
    u64  serial          grows with every record; the highest serial of a key wins
    u32  header check    low half of xxh3-64 over the bytes from ``total`` to here, and the key
    key                  u8 'i' or 's', u16 model bytes, model, u64 or UTF-8 id
    head                 what changes with a step (``_VARIES``), what an incarnation keeps
                         (``_KEEPS``, five strings, the predecessor), the receipts, the ending
    state                u16 tensors, then per tensor u8 rank, u64 bytes, i64 dims; then the data
    state of kind 5      u64 bytes of the whole state; then see :mod:`legato.stores.grown`

The header check is there for one case: when a record in the middle of a log is
damaged, it tells whether its key may be believed, so that exactly the sequence hit
is refused (spec durability, section 5) and none goes back silently to an older state.

Encoding is on the hot path: what an incarnation keeps is encoded once
(:func:`encode_constants`), and a small record is joined into one buffer, because
that costs less than the bookkeeping of many. Large states are never copied.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from xxhash import xxh3_64, xxh3_64_intdigest

from legato.core.ids import RESERVED, SNAPSHOTS
from legato.core.types import Ending, EndReason, Receipt, RecordHead, SequenceKey, StateRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from legato.core.types import CorrelationId

    Buffer = bytes | bytearray | memoryview

FORMAT = 1
"""The format of all records but those that say what a state grew by."""

GROWN_FORMAT = 2
"""The format of those."""

PUT, DELETE, SEAL, OWN, GROW = 1, 2, 3, 4, 5
"""Kinds of records."""

MARKER = 0xA5

_CHECKSUM = struct.Struct("<Q")
_FIXED = struct.Struct("<IHBBIIIQ")
_OUTLINE = struct.Struct("<I2xBxI")  # of _FIXED: total, kind, key size
_CHECK = struct.Struct("<I")
_VARIES = struct.Struct("<QQdH")  # epoch, step, touched, receipts
_KEEPS = struct.Struct("<16sQddHHHHHB")  # incarnation, origin, created, ttl_s, 5 lengths, before?
_BEFORE = struct.Struct("<16sBQd")  # incarnation, and how it ended: reason, step, at
_RECEIPT = struct.Struct("<QHHI")
_ENDING = struct.Struct("<BQdII")  # reason, step, at, first and last segment of the key
_SCAN = struct.Struct("<QQdH16sQddHHHHHB")  # _VARIES and _KEEPS in one
_KEY = struct.Struct("<BH")
_ID = struct.Struct("<Q")
_SEAL = struct.Struct("<d")
_COUNT = struct.Struct("<H")
_TENSOR = struct.Struct("<BQ")
_WHOLE = struct.Struct("<Q")  # bytes of the state that a GROW record is a part of

PREFIX_SIZE = _CHECKSUM.size + _FIXED.size + _CHECK.size
"""Bytes before the key."""

_FIXED_END = _CHECKSUM.size + _FIXED.size
_LARGE = 4 * 1024
_U32 = 0xFFFFFFFF
_RESERVED, _SNAPSHOTS = RESERVED.encode(), SNAPSHOTS.encode()
_MAX_ID = 0xFFFFFFFFFFFFFFFF
_INT_TAG, _STR_TAG = ord("i"), ord("s")
# The position is the number on disk: append only, never reorder.
_REASONS = (
    None,
    EndReason.ENDED,
    EndReason.EXPIRED,
    EndReason.EVICTED,
    EndReason.CANCELLED,
    EndReason.DISPLACED,
    EndReason.FAILED,
    EndReason.ROLLED_BACK,
    EndReason.LOST,
)
_REASON_NUMBER = {reason: number for number, reason in enumerate(_REASONS)}
_START = re.compile(rb"\x01\x00[\x01-\x04]\xa5|\x02\x00\x05\xa5")  # format, kind, marker
_START_OFFSET = 12


class RecordError(ValueError):
    """The bytes are not a valid record (length, checksum, format or content)."""


class FormatError(RecordError):
    """The record is of a format that this version does not read."""


class Span(NamedTuple):
    """First and last segment in which records of a dead key may lie."""

    first: int
    last: int


class Record(NamedTuple):
    """Everything that a record says.

    Attributes:
        kind: PUT, DELETE, OWN or GROW.
        serial: Position in the history of the store; the highest of a key wins.
        key: The sequence.
        head: What is durable besides the state; ``ending`` is set for DELETE.
        state: ``None`` unless PUT.
        owner: Owner of the epoch, "" = none yet.
        touched: When it was written, in the store's own time.
        origin: Serial of the first record of this incarnation.
        before: Incarnation that this one took the place of, ``b""`` = none.
        before_ending: How that one ended.
        span: Where older records of a dead key may lie; only DELETE.
        growth: What it says of the state, not decoded; only GROW.
    """

    kind: int
    serial: int
    key: SequenceKey
    head: RecordHead
    state: StateRow | None
    owner: str = ""
    touched: float = 0.0
    origin: int = 0
    before: bytes = b""
    before_ending: Ending | None = None
    span: Span = Span(0, 0)
    growth: bytes = b""


class Frame(NamedTuple):
    """A record's outer part, read without looking at its content."""

    total: int
    kind: int
    key_size: int
    head_size: int
    state_size: int
    serial: int


# -- keys ---------------------------------------------------------------------------------


def encode_key(key: SequenceKey) -> bytes:
    """Encode a key; ``7`` and ``"7"`` differ.

    Raises:
        RecordError: The id is no uint64, or the model's name has 64 KiB or more.
    """
    model, correlation_id = key
    name = model.encode("utf-8", "surrogatepass")
    if len(name) > 0xFFFF:
        raise RecordError(f"a model name of {len(name)} bytes is too long to be stored")
    if isinstance(correlation_id, str):
        text = correlation_id.encode("utf-8", "surrogatepass")
        return b"".join((_KEY.pack(_STR_TAG, len(name)), name, text))
    if not 0 <= correlation_id <= _MAX_ID:
        raise RecordError(f"the correlation id {correlation_id} is not an unsigned 64-bit number")
    return b"".join((_KEY.pack(_INT_TAG, len(name)), name, _ID.pack(correlation_id)))


def decode_key(data: Buffer) -> SequenceKey:
    """Decode a key.

    Raises:
        RecordError: The bytes are not a key.
    """
    blob = bytes(data)
    try:
        tag, size = _KEY.unpack_from(blob)
        end = _KEY.size + size
        model = blob[_KEY.size : end].decode("utf-8", "surrogatepass")
        correlation_id: CorrelationId
        if tag == _STR_TAG and len(blob) >= end:
            correlation_id = blob[end:].decode("utf-8", "surrogatepass")
        elif tag == _INT_TAG and len(blob) == end + _ID.size:
            (correlation_id,) = _ID.unpack_from(blob, end)
        else:
            raise RecordError(f"a key of {len(blob)} bytes has tag {tag} and does not fit")
    except (struct.error, UnicodeDecodeError) as error:
        raise RecordError(f"a key of {len(blob)} bytes cannot be read: {error}") from error
    return SequenceKey(model, correlation_id)


# -- encoding -------------------------------------------------------------------------------


def encode_constants(
    head: RecordHead,
    *,
    owner: str = "",
    origin: int = 0,
    before: bytes = b"",
    before_ending: Ending | None = None,
) -> bytes:
    """Encode what all records of an incarnation (and owner) share; worth keeping."""
    texts = [
        text.encode("utf-8", "surrogatepass")
        for text in (head.version, head.model_digest, head.dialect, head.level, owner)
    ]
    if max(map(len, texts)) > 0xFFFF or len(head.incarnation) != 16:
        raise RecordError("a record needs 16 bytes of incarnation and texts below 64 KiB")
    fixed = _KEEPS.pack(
        head.incarnation, origin, head.created, head.ttl_s, *map(len, texts), bool(before)
    )
    if not before:
        return b"".join((fixed, *texts))
    if before_ending is None:
        tail = _BEFORE.pack(before, 0, 0, 0.0)
    else:
        reason = _REASON_NUMBER[before_ending.reason]
        tail = _BEFORE.pack(before, reason, before_ending.step, before_ending.at)
    return b"".join((fixed, *texts, tail))


def encode_ending(ending: Ending, first: int = 0, last: int = 0) -> bytes:
    """Encode how a sequence ended and the segments it spans, for a DELETE record."""
    return _ENDING.pack(_REASON_NUMBER[ending.reason], ending.step, ending.at, first, last)


def encode_record(  # noqa: PLR0917 - once a step: keywords cost 10 % of the call
    kind: int,
    serial: int,
    key: bytes,
    constants: bytes,
    epoch: int,
    step: int,
    touched: float,
    receipts: tuple[Receipt, ...],
    state: StateRow | None,
    ending: bytes = b"",
) -> list[bytes]:
    """Encode one record as buffers for ``writev``.

    Positional on purpose: it is called once a step. The sum of the buffers' sizes
    is the record's size.

    Args:
        kind: PUT, DELETE or OWN.
        serial: Position in the history of the store.
        key: From :func:`encode_key`.
        constants: From :func:`encode_constants`.
        epoch: As in the head.
        step: As in the head.
        touched: When it is written, in the store's own time.
        receipts: As in the head.
        state: ``None`` for DELETE and OWN. Large states are passed on, not copied.
        ending: From :func:`encode_ending`, for DELETE.

    Raises:
        RecordError: A part is larger than the format can hold (4 GiB).
    """
    parts, head_size = encode_head(key, constants, epoch, step, touched, receipts, ending)
    if state is None:
        return finish(FORMAT, kind, serial, key, parts, head_size, 0, ())
    data = state[0]
    if state.__class__ is not StateRow:  # a part of it may be pages
        data = tuple(map(bytes, data))
    lengths = tuple(map(len, data))
    layout = _encode_layout(state[1], lengths)
    parts.append(layout)
    state_size = len(layout) + sum(lengths)
    return finish(FORMAT, kind, serial, key, parts, head_size, state_size, data)


def encode_head(
    key: bytes,
    constants: bytes,
    epoch: int,
    step: int,
    touched: float,
    receipts: tuple[Receipt, ...],
    ending: bytes,
) -> tuple[list[bytes], int]:
    """Give the buffers up to the end of the head, the first one empty, and the head's size.

    Raises:
        RecordError: A part of it is too large.
    """
    head_size = _VARIES.size + len(constants) + len(ending)
    try:
        parts = [b"", key, _VARIES.pack(epoch, step, touched, len(receipts)), constants]
        for number, request_id, digest, response in receipts:
            sizes = len(request_id), len(digest), len(response)
            parts += (_RECEIPT.pack(number, *sizes), request_id, digest, response)
            head_size += _RECEIPT.size + sizes[0] + sizes[1] + sizes[2]
    except struct.error as error:
        raise RecordError(f"a head does not fit the record format: {error}") from error
    if ending:
        parts.append(ending)
    return parts, head_size


def finish(
    version: int,
    kind: int,
    serial: int,
    key: bytes,
    parts: list[bytes],
    head_size: int,
    state_size: int,
    data: Sequence[bytes],
) -> list[bytes]:
    """Put the fixed part and the checksum in front of a record.

    Args:
        version: Format.
        kind: Kind.
        serial: Position in the history of the store.
        key: From :func:`encode_key`.
        parts: From :func:`encode_head`, and what goes before ``data``.
        head_size: From :func:`encode_head`.
        state_size: Bytes behind the head.
        data: The last buffers; large ones are passed on, not copied.

    Raises:
        RecordError: The record is larger than the format can hold (4 GiB).
    """
    key_size = len(key)
    total = PREFIX_SIZE + key_size + head_size + state_size
    if total > _U32:
        raise RecordError(f"a record of {total} bytes is larger than the format holds (4 GiB)")
    fixed = _FIXED.pack(total, version, kind, MARKER, key_size, head_size, state_size, serial)
    parts[0] = fixed + _CHECK.pack(xxh3_64_intdigest(fixed + key) & _U32)
    if total < _LARGE:
        parts += data
        body = b"".join(parts)
        return [_CHECKSUM.pack(xxh3_64_intdigest(body)), body]
    # Not copied: that would push out of the caches what the next steps need.
    body = b"".join(parts)
    checksum = xxh3_64(body)
    for part in data:
        checksum.update(part)
    return [_CHECKSUM.pack(checksum.intdigest()), body, *data]


class StepEncoder:
    """Encodes the steps of one sequence, which differ in little.

    What it writes is what :func:`encode_record` writes for a PUT, in half the time. Not for
    states that grow.

    Args:
        key: From :func:`encode_key`.
        constants: From :func:`encode_constants`.
    """

    __slots__ = ("_before", "_constants", "_key", "_layout", "_layout_size", "_like")

    def __init__(self, key: bytes, constants: bytes) -> None:
        self._key = key
        self._constants = constants
        self._before = _VARIES.size + len(constants) + _RECEIPT.size
        self._like: tuple[object, int] = (None, 0)
        self._layout = b""
        self._layout_size = 0

    def encode(
        self,
        pieces: list[bytes],
        serial: int,
        epoch: int,
        step: int,
        touched: float,
        receipts: tuple[Receipt, ...],
        state: StateRow,
    ) -> tuple[int, int]:
        """Add the buffers of a record to others; give its size and that of its state.

        Raises:
            RecordError: A part is larger than the format can hold (4 GiB).
        """
        data, shapes = state
        if len(receipts) != 1 or len(data) != 1:
            record = encode_record(
                PUT, serial, self._key, self._constants, epoch, step, touched, receipts, state
            )
            pieces += record
            return sum(map(len, record)), sum(map(len, data))
        ((number, request_id, digest, response),) = receipts
        (tensor,) = data
        length = len(tensor)
        if (shapes, length) != self._like:
            self._layout = _encode_layout(shapes, (length,))
            self._layout_size = len(self._layout)
            self._like = shapes, length
        asked, named, told = len(request_id), len(digest), len(response)
        key = self._key
        head_size = self._before + asked + named + told
        state_size = self._layout_size + length
        total = PREFIX_SIZE + len(key) + head_size + state_size
        try:
            fixed = _FIXED.pack(total, FORMAT, PUT, MARKER, len(key), head_size, state_size, serial)
            start = (
                fixed, _CHECK.pack(xxh3_64_intdigest(fixed + key) & _U32), key,
                _VARIES.pack(epoch, step, touched, 1), self._constants,
                _RECEIPT.pack(number, asked, named, told), request_id, digest, response,
                self._layout,
            )  # fmt: skip
        except struct.error as error:
            raise RecordError(f"a record does not fit the format: {error}") from error
        if total < _LARGE:
            body = b"".join((*start, tensor))
            pieces += (_CHECKSUM.pack(xxh3_64_intdigest(body)), body)
        else:
            body = b"".join(start)
            checksum = xxh3_64(body)
            checksum.update(tensor)
            pieces += (_CHECKSUM.pack(checksum.intdigest()), body, tensor)
        return total, length


def encode(record: Record) -> bytes:
    """Encode a whole record to one piece of bytes; for the paths that are not hot."""
    head = record.head
    constants = encode_constants(
        head,
        owner=record.owner,
        origin=record.origin,
        before=record.before,
        before_ending=record.before_ending,
    )
    if (head.ending is not None) != (record.kind == DELETE):
        raise RecordError("an ending belongs to a DELETE record, and every one needs it")
    ending = b"" if head.ending is None else encode_ending(head.ending, *record.span)
    return b"".join(
        encode_record(
            record.kind,
            record.serial,
            encode_key(record.key),
            constants,
            head.epoch,
            head.step,
            record.touched,
            head.receipts,
            record.state,
            ending,
        )
    )


def encode_seal(serial: int, touched: float) -> bytes:
    """Encode the record that closes a segment or marks the time; it belongs to no sequence."""
    head = _SEAL.pack(touched)
    total = PREFIX_SIZE + len(head)
    fixed = _FIXED.pack(total, FORMAT, SEAL, MARKER, 0, len(head), 0, serial)
    body = fixed + _CHECK.pack(xxh3_64_intdigest(fixed) & _U32) + head
    return _CHECKSUM.pack(xxh3_64_intdigest(body)) + body


@lru_cache(maxsize=4096)
def _encode_layout(shapes: tuple[tuple[int, ...], ...], lengths: tuple[int, ...]) -> bytes:
    if len(shapes) != len(lengths):
        raise RecordError(f"a state has {len(lengths)} tensors but {len(shapes)} shapes")
    parts = [_COUNT.pack(len(shapes))]
    for shape, length in zip(shapes, lengths, strict=True):
        parts.append(_TENSOR.pack(len(shape), length) + struct.pack(f"<{len(shape)}q", *shape))
    return b"".join(parts)


# -- decoding ---------------------------------------------------------------------------------


def read_frame(data: Buffer, at: int = 0) -> Frame:
    """Read the outer part of the record at ``at``, without believing its content.

    Raises:
        FormatError: Another format.
        RecordError: The lengths do not fit each other or the data.
    """
    if len(data) - at < PREFIX_SIZE:
        raise RecordError(f"{len(data) - at} bytes are too few for a record")
    total, version, kind, marker, key, head, state, serial = _FIXED.unpack_from(
        data, at + _CHECKSUM.size
    )
    _check_format(version)
    if marker != MARKER or not _is_kind(version, kind):
        raise RecordError(f"not a record: kind {kind}, marker {marker:#x}")
    if total != PREFIX_SIZE + key + head + state or total > len(data) - at:
        raise RecordError(
            f"the record says {total} bytes, but its parts have {PREFIX_SIZE + key + head + state} "
            f"and {len(data) - at} are there"
        )
    return Frame(total, kind, key, head, state, serial)


def _check_format(version: int) -> None:
    if version not in {FORMAT, GROWN_FORMAT}:
        raise FormatError(
            f"the record has format {version}; this version reads formats {FORMAT} and "
            f"{GROWN_FORMAT}"
        )


def _is_kind(version: int, kind: int) -> bool:
    return kind == GROW if version == GROWN_FORMAT else version == FORMAT and PUT <= kind <= OWN


def outline(data: Buffer, at: int = 0) -> tuple[int, int, int]:
    """Total size, kind and key size of the record at ``at``, by its own word."""
    total, kind, key_size = _OUTLINE.unpack_from(data, at + _CHECKSUM.size)
    return total, kind, key_size


def check_record(data: Buffer, at: int = 0) -> Frame:
    """Verify the record at ``at`` by its checksum.

    Raises:
        RecordError: It is not valid.
    """
    frame = read_frame(data, at)
    (stored,) = _CHECKSUM.unpack_from(data, at)
    if stored != xxh3_64_intdigest(memoryview(data)[at + _CHECKSUM.size : at + frame.total]):
        raise RecordError(f"the checksum of a record of {frame.total} bytes does not match")
    return frame


def header_holds(data: Buffer, at: int = 0) -> bool:
    """Tell whether lengths, serial and key of a (damaged) record may be believed."""
    try:
        frame = read_frame(data, at)
    except RecordError:
        return False
    return _header_check(data, at, frame.key_size)


def _header_check(data: Buffer, at: int, key_size: int) -> bool:
    view = memoryview(data)
    fixed = bytes(view[at + _CHECKSUM.size : at + _FIXED_END])
    key = bytes(view[at + PREFIX_SIZE : at + PREFIX_SIZE + key_size])
    (stored,) = _CHECK.unpack_from(data, at + _FIXED_END)
    return bool(stored == xxh3_64_intdigest(fixed + key) & _U32)


def salvage(data: Buffer, at: int = 0, *, longest_key: int = 4096) -> tuple[Frame, bytes] | None:
    """Name the damaged record at ``at``: its frame and key as they were written.

    They are believed if the header check holds, as it is or after the flip of one bit.

    Returns:
        ``None`` where more than one bit of them is wrong.
    """
    window = bytearray(memoryview(data)[at : at + PREFIX_SIZE + longest_key])
    if len(window) < PREFIX_SIZE:
        return None
    if (frame := _believed(window)) is not None:
        return frame, bytes(window[PREFIX_SIZE : PREFIX_SIZE + frame.key_size])
    for bit in range(_CHECKSUM.size * 8, len(window) * 8):
        window[bit >> 3] ^= 1 << (bit & 7)
        frame = _believed(window)
        if frame is not None:
            return frame, bytes(window[PREFIX_SIZE : PREFIX_SIZE + frame.key_size])
        window[bit >> 3] ^= 1 << (bit & 7)
    return None


def _believed(window: bytearray) -> Frame | None:
    total, version, kind, marker, key, head, state, serial = _FIXED.unpack_from(
        window, _CHECKSUM.size
    )
    fits = total == PREFIX_SIZE + key + head + state and PREFIX_SIZE + key <= len(window)
    if not fits or marker != MARKER or not _is_kind(version, kind):
        return None
    if not _header_check(window, 0, key):
        return None
    return Frame(total, kind, key, head, state, serial)


def find_record(data: bytes | bytearray | memoryview, start: int) -> int | None:
    """Offset of the first valid record at or after ``start``."""
    for match in _START.finditer(data, start + _START_OFFSET):
        at = match.start() - _START_OFFSET
        if not header_holds(data, at):
            continue
        try:
            check_record(data, at)
        except RecordError:
            continue
        return at
    return None


class Glance(NamedTuple):
    """What an index needs of a record; of a SEAL only the first three fields mean anything."""

    kind: int
    serial: int
    touched: float
    key: bytes
    epoch: int
    step: int
    incarnation: bytes
    origin: int
    created: float
    ttl_s: float
    owner: str
    succeeds: bool
    state_bytes: int


def glance(data: bytes, view: memoryview, at: int, total: int) -> Glance:
    """Verify a record of ``total`` bytes and read what an index needs, not decoding the rest.

    For the scan of a whole log, so made of few calls. ``view`` is a view of ``data``.

    Raises:
        RecordError: The record is not valid.
    """
    stored, (size, version, kind, marker, key_size, head_size, state_size, serial) = (
        _CHECKSUM.unpack_from(data, at)[0],
        _FIXED.unpack_from(data, at + 8),
    )
    if (
        size != total
        or stored != xxh3_64_intdigest(view[at + 8 : at + total])
        or (version != FORMAT and not (version == GROWN_FORMAT and kind == GROW))
        or marker != MARKER
        or total != PREFIX_SIZE + key_size + head_size + state_size
    ):
        check_record(data, at)  # says what is wrong
        raise RecordError("the record contradicts itself")
    start = at + PREFIX_SIZE + key_size
    if kind == SEAL:
        return Glance(kind, serial, _SEAL.unpack_from(data, start)[0], b"", 0, 0, b"", 0, 0.0, 0.0,
                      "", False, 0)  # fmt: skip
    (
        epoch, step, touched, _, incarnation, origin, created, ttl_s,
        version_size, digest_size, dialect_size, level_size, owner_size, before,
    ) = _SCAN.unpack_from(data, start)  # fmt: skip
    owner = ""
    if owner_size:
        text = start + _SCAN.size + version_size + digest_size + dialect_size + level_size
        owner = data[text : text + owner_size].decode("utf-8", "surrogatepass")
    carried = _state_bytes(data, at + total - state_size) if kind == PUT else 0
    if kind == GROW:
        (carried,) = _WHOLE.unpack_from(data, at + total - state_size)
    key = data[at + PREFIX_SIZE : start]
    return Glance(kind, serial, touched, key, epoch, step, incarnation, origin, created, ttl_s,
                  owner, before != 0, carried)  # fmt: skip


def stated_size(data: Buffer, at: int = 0) -> int:
    """Size of the record at ``at`` by its own word, not yet believed.

    Raises:
        RecordError: It is too small for a record, or not even that word is there.
    """
    if len(data) - at < PREFIX_SIZE:
        raise RecordError(f"{len(data) - at} bytes are too few for a record")
    (total,) = _CHECK.unpack_from(data, at + _CHECKSUM.size)
    if total < PREFIX_SIZE:
        raise RecordError(f"a record of {total} bytes is too small")
    return int(total)


def _state_bytes(data: bytes, at: int) -> int:
    """Bytes of a state, its layout not counted."""
    (count,) = _COUNT.unpack_from(data, at)
    at += _COUNT.size
    total = 0
    for _ in range(count):
        rank, length = _TENSOR.unpack_from(data, at)
        at += _TENSOR.size + 8 * rank
        total += length
    return total


def group_part(key: bytes) -> bytes:
    """The group of an encoded key (:func:`legato.core.ids.group_of`), not decoded."""
    tag, size = _KEY.unpack_from(key)
    end = _KEY.size + size
    model = key[_KEY.size : end]
    return _SNAPSHOTS + model if tag == _STR_TAG and key.startswith(_RESERVED, end) else model


def decode_record(data: Buffer, *, with_state: bool = True) -> Record:
    """Decode one whole record and verify it.

    Args:
        data: Exactly the record.
        with_state: Leave the state out (``None``) where only the head is wanted.

    Raises:
        FormatError: Another format.
        RecordError: Anything else is wrong with the bytes.
    """
    frame = check_record(data)
    if frame.total != len(data):
        raise RecordError(f"{len(data) - frame.total} bytes follow the record")
    if frame.kind == SEAL:
        raise RecordError("a seal belongs to no sequence")
    blob = data if isinstance(data, bytes) else bytes(data)
    return _decode_checked(blob, frame, with_state=with_state)


def decode_head(data: bytes) -> Record:
    """Decode a record of which only prefix, key and head were read.

    The checksum covers the state too, so it is not verified here; only the
    header check is. For listings, which must not read states.

    Raises:
        RecordError: The bytes do not fit.
    """
    if len(data) < PREFIX_SIZE:
        raise RecordError(f"{len(data)} bytes are too few for a record")
    total, version, kind, _, key, head, state, serial = _FIXED.unpack_from(data, _CHECKSUM.size)
    _check_format(version)
    if len(data) < PREFIX_SIZE + key + head or not _header_check(data, 0, key):
        raise RecordError("the header of a record cannot be believed")
    frame = Frame(total, kind, key, head, state, serial)
    return _decode_checked(data, frame, with_state=False)


def head_end(data: Buffer, at: int = 0) -> int:
    """Bytes from the start of a record to the end of its head, by its own word."""
    _, _, _, _, key, head, _, _ = _FIXED.unpack_from(data, at + _CHECKSUM.size)
    return int(PREFIX_SIZE + key + head)


def peek(data: bytes) -> tuple[int, int]:
    """Kind of a record of which only the beginning was read, and where its head ends.

    Raises:
        RecordError: The bytes are too few, or cannot be believed.
    """
    if len(data) < PREFIX_SIZE:
        raise RecordError(f"{len(data)} bytes are too few for a record")
    _, version, kind, marker, key_size, head_size, _, _ = _FIXED.unpack_from(data, _CHECKSUM.size)
    if marker != MARKER or not _is_kind(version, kind) or not _header_check(data, 0, key_size):
        raise RecordError("the header of a record cannot be believed")
    return kind, PREFIX_SIZE + key_size + head_size


def read_checksum(data: Buffer, at: int = 0) -> int:
    """The checksum that a record begins with."""
    return int(_CHECKSUM.unpack_from(data, at)[0])


def _decode_checked(blob: bytes, frame: Frame, *, with_state: bool) -> Record:
    try:
        return _decode(blob, frame, with_state=with_state)
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise RecordError(f"a record of {frame.total} bytes cannot be read: {error}") from error


def _decode(blob: bytes, frame: Frame, *, with_state: bool) -> Record:
    at = PREFIX_SIZE
    key = decode_key(blob[at : at + frame.key_size])
    at += frame.key_size
    head_stop = at + frame.head_size
    epoch, step, touched, count = _VARIES.unpack_from(blob, at)
    at += _VARIES.size
    incarnation, origin, created, ttl_s, *sizes, has_before = _KEEPS.unpack_from(blob, at)
    at += _KEEPS.size
    texts = []
    for size in sizes:
        texts.append(blob[at : at + size].decode("utf-8", "surrogatepass"))
        at += size
    before, before_ending = b"", None
    if has_before:
        before, reason, end_step, end_at = _BEFORE.unpack_from(blob, at)
        before_ending = _decode_ending(reason, end_step, end_at)
        at += _BEFORE.size
    receipts, at = _decode_receipts(blob, at, count)
    ending, span = None, Span(0, 0)
    if frame.kind == DELETE:
        reason, end_step, end_at, first, last = _ENDING.unpack_from(blob, at)
        ending, span = _decode_ending(reason, end_step, end_at), Span(first, last)
        at += _ENDING.size
    if at != head_stop:
        raise RecordError(f"the head of a record ends at byte {at}, not {head_stop}")
    version, digest, dialect, level, owner = texts
    head = RecordHead(
        incarnation=incarnation,
        epoch=epoch,
        step=step,
        receipts=receipts,
        version=version,
        model_digest=digest,
        dialect=dialect,
        created=created,
        ttl_s=ttl_s,
        level=level,
        ending=ending,
    )
    state = _decode_state(blob, head_stop) if with_state and frame.kind == PUT else None
    growth = blob[head_stop:] if with_state and frame.kind == GROW else b""
    return Record(
        frame.kind, frame.serial, key, head, state, owner, touched, origin, before, before_ending,
        span, growth,
    )  # fmt: skip


def _decode_ending(reason: int, step: int, at: float) -> Ending | None:
    if reason >= len(_REASONS):
        raise RecordError(f"an ending has reason {reason}, which this version does not know")
    named = _REASONS[reason]
    return None if named is None else Ending(named, step, at)


def _decode_receipts(blob: bytes, at: int, count: int) -> tuple[tuple[Receipt, ...], int]:
    receipts = []
    for _ in range(count):
        number, id_size, digest_size, size = _RECEIPT.unpack_from(blob, at)
        at += _RECEIPT.size
        ends = at + id_size, at + id_size + digest_size, at + id_size + digest_size + size
        receipts.append(
            Receipt(number, blob[at : ends[0]], blob[ends[0] : ends[1]], blob[ends[1] : ends[2]])
        )
        at = ends[2]
    return tuple(receipts), at


def _decode_state(blob: bytes, at: int) -> StateRow:
    (count,) = _COUNT.unpack_from(blob, at)
    at += _COUNT.size
    shapes, lengths = [], []
    for _ in range(count):
        rank, length = _TENSOR.unpack_from(blob, at)
        at += _TENSOR.size
        shapes.append(struct.unpack_from(f"<{rank}q", blob, at))
        at += 8 * rank
        lengths.append(length)
    data = []
    for length in lengths:
        data.append(blob[at : at + length])
        at += length
    if at != len(blob):
        raise RecordError(f"the state of a record ends at byte {at}, not {len(blob)}")
    return StateRow(tuple(data), _shared(tuple(shapes)))


@lru_cache(maxsize=4096)
def _shared(shapes: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """One tuple for all states of equal shapes, so that comparing them is an ``is``."""
    return shapes
