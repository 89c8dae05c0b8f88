"""Bodies are read whole, within a limit, and compression is bounded."""

from __future__ import annotations

import gzip
import zlib

import pytest

from legato.protocols.http.body import (
    ClientGoneError,
    TooLargeError,
    compress,
    decompress,
    read_body,
)
from legato.protocols.rpc.service import RpcError


def receiving(*parts: bytes, whole: bool = True):
    """Return a ``receive`` that gives the parts, and the events it has not given yet."""
    events = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    events.append({"type": "http.request", "more_body": False} if whole else {
        "type": "http.disconnect"
    })  # fmt: skip

    async def receive():
        return events.pop(0)

    return receive, events


async def test_body_is_put_together() -> None:
    """All parts, in order, and no receive too many."""
    receive, events = receiving(b"ab", b"", b"c")

    assert await read_body(receive, None, 10) == b"abc"
    assert events == []


@pytest.mark.parametrize("declared", ["11", "9" * 30])
async def test_declared_size_is_refused_before_reading(declared) -> None:
    """Nothing is read of a body that says it is too large."""
    receive, events = receiving(b"x")

    with pytest.raises(TooLargeError):
        await read_body(receive, declared, 10)
    assert len(events) == 2


async def test_undeclared_size_is_refused_while_reading() -> None:
    """A body without a length stops at the limit."""
    receive, events = receiving(*[b"12345"] * 10)

    with pytest.raises(TooLargeError):
        await read_body(receive, None, 10)
    assert len(events) == 8


async def test_client_that_leaves_is_noticed() -> None:
    """Half a body is no body."""
    receive, _ = receiving(b"ab", whole=False)

    with pytest.raises(ClientGoneError):
        await read_body(receive, None, 10)


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        (None, b"hello"),
        ("identity", b"hello"),
        ("gzip", gzip.compress(b"hello")),
        ("GZIP", gzip.compress(b"hello")),
        ("deflate", zlib.compress(b"hello")),
    ],
)
async def test_known_encodings_are_undone(encoding, packed) -> None:
    """Clients send gzip, deflate or neither."""
    assert await decompress(packed, encoding, 100) == b"hello"


async def test_bomb_is_refused() -> None:
    """A small body that would become a large one stops at the limit."""
    with pytest.raises(TooLargeError):
        await decompress(gzip.compress(bytes(1_000_000)), "gzip", 1000)


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", b"hello"),
        ("gzip", gzip.compress(b"hello")[:-4]),
        ("gzip", gzip.compress(b"hello") + b"more"),
        ("br", b"hello"),
    ],
)
async def test_damaged_and_unknown_encodings_are_refused(encoding, packed) -> None:
    """The error is the client's."""
    with pytest.raises(RpcError):
        await decompress(packed, encoding, 1000)


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        (None, None),
        ("", None),
        ("br", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate, gzip;q=0.5", "gzip"),
        ("gzip;q=0, deflate", "deflate"),
    ],
)
async def test_answers_are_compressed_as_accepted(accepted, encoding) -> None:
    """What the client does not accept is not sent."""
    body = bytes(5000)

    packed, name = await compress(body, accepted)

    assert name == encoding
    assert await decompress(packed, name, 5000) == body


async def test_small_answers_stay_as_they_are() -> None:
    """Compressing a hundred bytes costs more than it saves."""
    assert await compress(bytes(100), "gzip") == (bytes(100), None)
