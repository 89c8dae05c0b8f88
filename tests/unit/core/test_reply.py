"""Bytes of a stored reply: what goes in comes out, and garbage is named as such."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.core.reply import decode_reply, encode_reply
from legato.core.types import OutputHeader

HEADERS = st.builds(
    OutputHeader,
    st.text(max_size=20),
    st.sampled_from(["float32", "object", "bool"]),
    st.lists(st.integers(-1, 2**40), max_size=5).map(tuple),
)
REPLIES = st.lists(st.tuples(HEADERS, st.binary(max_size=40)), max_size=4)


@given(REPLIES)
def test_a_reply_survives_its_receipt(outputs) -> None:
    """Names of any text, shapes of any rank, data of any size, none at all."""
    headers = tuple(header for header, _ in outputs)
    data = tuple(blob for _, blob in outputs)

    assert decode_reply(encode_reply(headers, data)) == (headers, data)


@given(st.binary(max_size=80))
def test_garbage_is_refused(blob) -> None:
    """Bytes that were never a reply raise ValueError and nothing else."""
    try:
        headers, data = decode_reply(blob)
    except ValueError:
        return
    assert encode_reply(headers, data) == blob


@given(REPLIES, st.data())
def test_a_cut_reply_is_refused(outputs, data) -> None:
    """Whatever is missing at its end, or added to it."""
    blob = encode_reply(tuple(h for h, _ in outputs), tuple(b for _, b in outputs))
    cut = data.draw(st.integers(0, len(blob) - 1))

    for damaged in (blob[:cut], blob + b"\0"):
        with pytest.raises(ValueError, match="stored reply"):
            decode_reply(damaged)


def test_an_unknown_format_is_named() -> None:
    """So that a person knows which version wrote it."""
    with pytest.raises(ValueError, match="format 9"):
        decode_reply(b"\x09\0\0")


def test_the_bytes_are_what_the_format_says() -> None:
    """Receipts on disk are read by later versions: the layout is frozen."""
    blob = encode_reply((OutputHeader("y", "int8", (1, 2)),), (b"ab",))

    assert blob == (
        b"\x01\x01\0" b"\x01\0\x04\x02" b"yint8" b"\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0"
        b"\x02\0\0\0" b"ab"
    )  # fmt: skip
