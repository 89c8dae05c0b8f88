"""Bodies of HTTP requests and responses: size limits and compression.

A body is read to its end with one ``receive`` at a time and none left pending: the
server below logs an exception for every ``receive`` that is given up.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING

from legato.protocols.rpc.service import RpcError, Status

if TYPE_CHECKING:
    from starlette.types import Receive

_WORTH_COMPRESSING = 1024
_INLINE = 64 * 1024  # larger bodies are compressed and decompressed off the loop


class TooLargeError(Exception):
    """The body is larger than allowed."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body of the request is larger than the limit of {limit} bytes")


class ClientGoneError(Exception):
    """The client left before it had sent its body."""


async def read_body(receive: Receive, declared: str | None, limit: int) -> bytes:
    """Return the whole body of a request.

    Raises:
        TooLargeError: It is longer than ``limit``.
        ClientGoneError: It never came to its end.
    """
    if (
        declared is not None
        and declared.isdigit()
        and (len(declared) > 18 or int(declared) > limit)
    ):
        raise TooLargeError(limit)
    parts: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientGoneError
        part = event.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLargeError(limit)
        parts.append(part)
        if not event.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def decompress(body: bytes, encoding: str | None, limit: int) -> bytes:
    """Undo the Content-Encoding of a body, never making more than ``limit`` bytes.

    Raises:
        RpcError: The encoding is unknown or the bytes are damaged.
        TooLargeError: The result would be larger than ``limit``.
    """
    name = (encoding or "identity").strip().lower()
    if name == "identity":
        return body
    if name not in ("gzip", "deflate"):
        raise RpcError(
            Status.INVALID_ARGUMENT,
            f"Content-Encoding '{name[:40]}' is not supported; send gzip, deflate or neither",
        )
    return await asyncio.to_thread(_inflate, body, limit)


def _inflate(body: bytes, limit: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, by its header
    try:
        data = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise RpcError(
            Status.INVALID_ARGUMENT, f"the compressed body is damaged: {error}"
        ) from None
    if len(data) > limit:
        raise TooLargeError(limit)
    if not unpacker.eof or unpacker.unused_data:
        raise RpcError(
            Status.INVALID_ARGUMENT, "the compressed body is cut off, or has bytes behind its end"
        )
    return data


async def compress(body: bytes, accepted: str | None) -> tuple[bytes, str | None]:
    """Return the body as the client accepts it, and its Content-Encoding."""
    if accepted is None or len(body) < _WORTH_COMPRESSING:
        return body, None
    name = _preferred(accepted)
    if name is None:
        return body, None
    if len(body) > _INLINE:
        return await asyncio.to_thread(_deflate, body, name), name
    return _deflate(body, name), name


def _preferred(accepted: str) -> str | None:
    offered = set()
    for part in accepted.lower().split(","):
        name, _, quality = part.partition(";")
        if quality.strip().replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            offered.add(name.strip())
    return next((name for name in ("gzip", "deflate") if name in offered), None)


def _deflate(body: bytes, name: str) -> bytes:
    wbits = zlib.MAX_WBITS | 16 if name == "gzip" else zlib.MAX_WBITS
    packer = zlib.compressobj(level=1, wbits=wbits)
    return packer.compress(body) + packer.flush()
