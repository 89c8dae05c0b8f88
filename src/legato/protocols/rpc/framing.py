"""Length-prefixed gRPC messages: one flag byte, four length bytes, the message.

Pure: bytes in, messages out. Chunks may hold parts of a message or many of them.
What a length prefix claims is never allocated; only what has come is kept.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from legato.protocols.rpc.service import RpcError, Status

HEADER_BYTES: Final = 5
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS

_unpack_header = struct.Struct(">BI").unpack_from
_pack_header = struct.Struct(">BI").pack


def frame(message: bytes) -> bytes:
    """Return ``message`` with its header."""
    return _pack_header(0, len(message)) + message


def frame_gzip(message: bytes) -> bytes:
    """Return ``message`` compressed, with its header."""
    packer = zlib.compressobj(level=1, wbits=_GZIP_WINDOW)
    packed = packer.compress(message) + packer.flush()
    return _pack_header(1, len(packed)) + packed


def gunzip(data: bytes, limit: int) -> bytes:
    """Decompress one message of at most ``limit`` bytes.

    Raises:
        RpcError: RESOURCE_EXHAUSTED beyond the limit, INTERNAL for broken data.
    """
    unpacker = zlib.decompressobj(wbits=_GZIP_WINDOW)
    try:
        message = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise RpcError(Status.INTERNAL, f"a compressed message is broken: {error}") from error
    if len(message) > limit:
        raise RpcError(
            Status.RESOURCE_EXHAUSTED,
            f"a message is larger than the limit of {limit} bytes when decompressed",
        )
    if not unpacker.eof or unpacker.unused_data:
        raise RpcError(Status.INTERNAL, "a compressed message is cut short or goes on too long")
    return message


class FrameReader:
    """Cuts a stream of chunks into messages.

    ``push`` takes a chunk, ``pop`` gives the next whole message or ``None``.
    """

    __slots__ = ("_chunk", "_have", "_later", "_limit", "_need", "_offset")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunk = b""  # what is being cut, from _offset on
        self._offset = 0
        self._later: list[bytes] = []  # chunks after it, joined only when a message is whole
        self._have = 0  # bytes not yet popped, in all chunks
        self._need = HEADER_BYTES  # bytes that the next step needs

    @property
    def pending(self) -> int:
        """Bytes that have come and are not part of a popped message."""
        return self._have

    def push(self, data: bytes) -> None:
        """Add a chunk."""
        if self._have:
            self._later.append(data)
        else:
            self._chunk = data
            self._offset = 0
        self._have += len(data)

    def pop(self) -> tuple[int, bytes] | None:
        """Return (flag, message), or ``None`` until more has come.

        Raises:
            RpcError: RESOURCE_EXHAUSTED if a message is longer than the limit,
                INTERNAL if the flag byte is not one.
        """
        if self._have < self._need:
            return None
        if self._later:
            self._chunk = b"".join((self._chunk[self._offset :], *self._later))
            self._later.clear()
            self._offset = 0
        flag, length = _unpack_header(self._chunk, self._offset)
        if flag > 1:
            raise RpcError(Status.INTERNAL, f"malformed message: flag byte {flag}, expected 0 or 1")
        if length > self._limit:
            raise RpcError(
                Status.RESOURCE_EXHAUSTED,
                f"a message of {length} bytes is larger than the limit of {self._limit} bytes",
            )
        whole = HEADER_BYTES + length
        if self._have < whole:
            self._need = whole
            return None
        start = self._offset + HEADER_BYTES
        self._offset = start + length
        self._have -= whole
        self._need = HEADER_BYTES
        message = self._chunk[start : self._offset]
        if not self._have:
            self._chunk = b""
        return flag, message
