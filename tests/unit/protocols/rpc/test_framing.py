"""Length-prefixed messages, cut and joined in every way."""

from __future__ import annotations

import gzip
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.protocols.rpc.framing import FrameReader, frame, frame_gzip, gunzip
from legato.protocols.rpc.service import RpcError, Status

MESSAGES = st.lists(st.binary(max_size=40), max_size=8)


def pop_all(reader: FrameReader) -> list[bytes]:
    found = []
    while (popped := reader.pop()) is not None:
        found.append(popped[1])
    return found


@given(messages=MESSAGES, cuts=st.lists(st.integers(0, 400), max_size=12))
def test_messages_survive_any_chunking(messages: list[bytes], cuts: list[int]) -> None:
    """However the bytes are split or joined, the same messages come out in order."""
    data = b"".join(map(frame, messages))
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    reader = FrameReader(limit=1000)

    found = []
    for begin, end in pairwise(edges):
        reader.push(data[begin:end])
        found += pop_all(reader)

    assert found == messages
    assert reader.pending == 0


@given(messages=MESSAGES, missing=st.integers(1, 5))
def test_a_cut_message_stays_pending(messages: list[bytes], missing: int) -> None:
    """The beginning of a message is never mistaken for a message."""
    reader = FrameReader(limit=1000)
    reader.push(b"".join(map(frame, messages)) + frame(b"last")[:-missing])

    assert pop_all(reader) == messages
    assert reader.pending == 9 - missing


def test_a_claimed_length_beyond_the_limit_is_refused_at_once() -> None:
    """The header alone is enough to refuse: nothing is waited for or allocated."""
    reader = FrameReader(limit=100)
    reader.push(b"\x00\xff\xff\xff\xff")

    with pytest.raises(
        RpcError, match="4294967295 bytes is larger than the limit of 100"
    ) as caught:
        reader.pop()

    assert caught.value.status is Status.RESOURCE_EXHAUSTED


def test_the_limit_itself_is_allowed() -> None:
    """A message of exactly the limit passes, one byte more does not."""
    reader = FrameReader(limit=3)
    reader.push(frame(b"abc") + frame(b"abcd"))

    assert reader.pop() == (0, b"abc")
    with pytest.raises(RpcError):
        reader.pop()


@pytest.mark.parametrize("flag", [2, 3, 128, 255])
def test_unknown_flags_are_malformed(flag: int) -> None:
    """Only 0 and 1 are flags."""
    reader = FrameReader(limit=100)
    reader.push(bytes([flag]) + b"\x00\x00\x00\x01x")

    with pytest.raises(RpcError, match=f"flag byte {flag}") as caught:
        reader.pop()

    assert caught.value.status is Status.INTERNAL


def test_good_messages_before_a_bad_one_come_out_first() -> None:
    """An error concerns only what comes after the last good message."""
    reader = FrameReader(limit=100)
    reader.push(frame(b"good") + b"\x07\x00\x00\x00\x00")

    assert reader.pop() == (0, b"good")
    with pytest.raises(RpcError):
        reader.pop()


@given(message=st.binary(max_size=2000))
def test_gzip_goes_both_ways(message: bytes) -> None:
    """What we compress is gzip, and what gzip compresses we read."""
    packed = frame_gzip(message)

    assert packed[0] == 1
    assert gzip.decompress(packed[5:]) == message
    assert gunzip(gzip.compress(message), limit=2000) == message


def test_a_small_bomb_is_stopped_at_the_limit() -> None:
    """A message that is small on the wire may not grow beyond the limit."""
    with pytest.raises(RpcError, match="when decompressed") as caught:
        gunzip(gzip.compress(bytes(10_000_000)), limit=1000)

    assert caught.value.status is Status.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "data",
    [b"", b"not gzip", gzip.compress(b"abc")[:-1], gzip.compress(b"abc") + b"more"],
    ids=["empty", "garbage", "cut short", "too long"],
)
def test_broken_gzip_is_refused(data: bytes) -> None:
    """Broken data is INTERNAL, as gRPC wants it."""
    with pytest.raises(RpcError) as caught:
        gunzip(data, limit=1000)

    assert caught.value.status is Status.INTERNAL
