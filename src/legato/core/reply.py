"""Bytes of a reply as a receipt keeps them: one reply, any protocol.

Layout (little endian): ``u8 format=1, u16 outputs``, then per output
``u16 name bytes, u8 dtype bytes, u8 rank, name, dtype, i64 dims``, then per output ``u32 bytes``,
then the data of all outputs. The header part is the same for all rows of a
batch, so it is encoded once and kept.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from legato.core.types import OutputHeader

_FORMAT = 1


@lru_cache(maxsize=4096)
def _encode_headers(headers: tuple[OutputHeader, ...]) -> bytes:
    parts = [struct.pack("<BH", _FORMAT, len(headers))]
    for name, dtype, shape in headers:
        text, kind = name.encode(), dtype.encode()
        parts.append(struct.pack("<HBB", len(text), len(kind), len(shape)))
        parts += [text, kind, struct.pack(f"<{len(shape)}q", *shape)]
    return b"".join(parts)


def encode_reply(headers: tuple[OutputHeader, ...], data: tuple[bytes, ...]) -> bytes:
    """Encode the outputs of a reply for its receipt."""
    return ReplyEncoder().encode(headers, data)


class ReplyEncoder:
    """Encodes replies that mostly look alike: everything before the data is kept.

    Rows of a batch share one ``headers`` object and mostly the sizes of their data.
    """

    __slots__ = ("_headers", "_prefix", "_sizes")

    def __init__(self) -> None:
        self._headers: tuple[OutputHeader, ...] | None = None
        self._sizes: list[int] = []
        self._prefix = b""

    def encode(self, headers: tuple[OutputHeader, ...], data: tuple[bytes, ...]) -> bytes:
        """Encode the outputs of a reply for its receipt."""
        sizes = [*map(len, data)]
        if headers is not self._headers or sizes != self._sizes:
            self._prefix = _encode_headers(headers) + struct.pack(f"<{len(data)}I", *sizes)
            self._headers, self._sizes = headers, sizes
        return b"".join((self._prefix, *data))


def decode_reply(blob: bytes) -> tuple[tuple[OutputHeader, ...], tuple[bytes, ...]]:
    """Give back the headers and data of an encoded reply.

    Raises:
        ValueError: The bytes are not an encoded reply.
    """
    try:
        return _decode(blob)
    except (struct.error, UnicodeDecodeError) as error:
        msg = f"a stored reply of {len(blob)} bytes cannot be read: {error}"
        raise ValueError(msg) from error


def _decode(blob: bytes) -> tuple[tuple[OutputHeader, ...], tuple[bytes, ...]]:
    version, count = struct.unpack_from("<BH", blob)
    if version != _FORMAT:
        msg = f"a stored reply has format {version}; this version reads format {_FORMAT}"
        raise ValueError(msg)
    at = 3
    headers = []
    for _ in range(count):
        n_name, n_dtype, rank = struct.unpack_from("<HBB", blob, at)
        at += 4
        name = blob[at : at + n_name].decode()
        at += n_name
        dtype = blob[at : at + n_dtype].decode()
        at += n_dtype
        headers.append(OutputHeader(name, dtype, struct.unpack_from(f"<{rank}q", blob, at)))
        at += 8 * rank
    sizes = struct.unpack_from(f"<{count}I", blob, at)
    at += 4 * count
    if at + sum(sizes) != len(blob):
        msg = f"a stored reply has {len(blob) - at} bytes of data; {sum(sizes)} were expected"
        raise ValueError(msg)
    data = []
    for size in sizes:
        data.append(blob[at : at + size])
        at += size
    return tuple(headers), tuple(data)
