r"""The file of a recording: frames, each with its checksum, appended and never changed.

Layout, little endian::

    file     b"LEGATOREC1\n", then frames
    frame    u64 checksum (xxh3-64 of all that follows), u32 length of the payload, u8 kind, payload
    payload  u32 length of the facts, the facts as JSON, then blobs (their sizes are in the facts)

Kinds: BEGIN (an export of the sequence at that moment is its blob), STEP (inputs, outputs),
LOST (steps that are missing, and why). A file may hold several BEGINs: a recording goes on
in the same file after a restart of the server, or after a loss.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from xxhash import xxh3_64, xxh3_64_hexdigest, xxh3_64_intdigest

from legato.core.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from legato.core.types import StateRow

MAGIC = b"LEGATOREC1\n"
BEGIN, STEP, LOST = 1, 2, 3

_PREFIX = struct.Struct("<QIB")
_FACTS = struct.Struct("<I")
_MOST_PAYLOAD = 1 << 31


class RecordingError(ClientError):
    """The file is no recording, or nothing can be made of it."""

    code = "bad_recording"


class Frame(NamedTuple):
    """One frame.

    Attributes:
        kind: BEGIN, STEP or LOST.
        facts: What it says.
        blobs: Its data.
        end: Offset behind it.
    """

    kind: int
    facts: dict[str, Any]
    blobs: list[bytes]
    end: int


def encode(kind: int, facts: dict[str, Any], blobs: Sequence[bytes] = ()) -> list[bytes]:
    """Encode a frame as pieces to be written one after another; blobs are not copied."""
    text = orjson.dumps({**facts, "sizes": [len(blob) for blob in blobs]})
    size = _FACTS.size + len(text) + sum(map(len, blobs))
    head = struct.pack("<IB", size, kind) + _FACTS.pack(len(text)) + text
    digest = xxh3_64(head)
    for blob in blobs:
        digest.update(blob)
    return [struct.pack("<Q", digest.intdigest()), head, *blobs]


def read(stream: BinaryIO) -> Iterator[Frame]:
    """Read the frames of a file, up to its end or to the first torn or damaged one.

    Raises:
        RecordingError: It is no recording.
    """
    if stream.read(len(MAGIC)) != MAGIC:
        raise RecordingError("the file is no recording of a sequence")
    at = len(MAGIC)
    while True:
        prefix = stream.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size:
            return
        checksum, size, kind = _PREFIX.unpack(prefix)
        if not _FACTS.size <= size <= _MOST_PAYLOAD:
            return
        payload = stream.read(size)
        if len(payload) < size or xxh3_64_intdigest(prefix[8:] + payload) != checksum:
            return
        at += _PREFIX.size + size
        yield _decode(kind, payload, at)


def _decode(kind: int, payload: bytes, end: int) -> Frame:
    (size,) = _FACTS.unpack_from(payload)
    at = _FACTS.size + size
    try:
        facts = orjson.loads(payload[_FACTS.size : at])
        blobs = []
        for length in facts["sizes"]:
            blobs.append(payload[at : at + length])
            at += length
    except (ValueError, KeyError, TypeError) as error:
        raise RecordingError(f"a frame that ends at byte {end} cannot be read: {error}") from error
    return Frame(kind, facts, blobs, end)


def whole_size(path: Path) -> int:
    """Bytes of a file up to the end of its last whole frame; 0 = it was hardly begun.

    Raises:
        RecordingError: It is something else.
    """
    if path.stat().st_size < len(MAGIC):
        return 0
    end = len(MAGIC)
    with path.open("rb") as stream:
        for frame in read(stream):
            end = frame.end
    return end


def digests(state: StateRow) -> list[str]:
    """Digest of each state: its shape and its bytes, 16 hex digits."""
    return [
        xxh3_64_hexdigest(repr(tuple(shape)).encode() + bytes(data))
        for shape, data in zip(state.shapes, state.data, strict=True)
    ]
