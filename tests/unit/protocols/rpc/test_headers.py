"""Timeouts, messages and metadata as text in headers."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.protocols.rpc import headers
from legato.protocols.rpc.service import RpcError, Status


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"500m", 0.5),
        (b"250u", 0.00025),
        (b"99999999n", 0.099999999),
        (b"0S", 0.0),
    ],
)
def test_timeouts_have_units(value: bytes, seconds: float) -> None:
    """Every unit of the protocol is known."""
    assert headers.parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"S", b"5", b"-1S", b"1.5S", b"5x", b"123456789S", b"1 S"])
def test_other_timeouts_are_refused(value: bytes) -> None:
    """A timeout that cannot be read is an error, not no timeout."""
    with pytest.raises(RpcError, match="grpc-timeout") as caught:
        headers.parse_timeout(value)

    assert caught.value.status is Status.INTERNAL


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_messages_are_ascii_and_come_back(text: str) -> None:
    """Any text travels as printable ASCII and is decoded by percent-decoding."""
    encoded = headers.encode_message(text)

    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert unquote(encoded.decode("ascii")) == text


@pytest.mark.parametrize("character", ["a", "%", "\u00e9", "\U0001f600"])
def test_long_messages_are_cut_between_characters(character: str) -> None:
    """Clients drop the whole call over a header that is too long for them."""
    encoded = headers.encode_message(character * 5000)

    assert 4080 < len(encoded) <= 4096
    shown = unquote(encoded.decode("ascii"), errors="strict")
    assert shown == character * (len(shown) - 3) + "..."


def test_repeated_metadata_is_joined() -> None:
    """Names are lower-cased, repeated values joined in order."""
    found = headers.Metadata([(b"X-A", b"1"), (b"x-b", b"2"), (b"x-a", b"3")])

    assert found == {"x-a": "1,3", "x-b": "2"}


@given(data=st.binary(max_size=50))
def test_binary_metadata_comes_back(data: bytes) -> None:
    """Binary values travel as base64 without padding."""
    _name, encoded = headers.encode_metadata("x-bin", data.decode("latin-1"))

    assert b"=" not in encoded
    assert headers.decode_binary(encoded.decode()) == data


def test_binary_metadata_that_is_not_base64_is_refused() -> None:
    """A client learns that its header is broken."""
    with pytest.raises(RpcError, match="base64"):
        headers.decode_binary("***")


@pytest.mark.parametrize(
    ("name", "value"), [("Up", "x"), ("a b", "x"), ("", "x"), ("a", "line\nbreak"), ("a", "\u00e9")]
)
def test_metadata_that_no_header_can_carry_is_refused(name: str, value: str) -> None:
    """Neither names nor values can smuggle another header in."""
    with pytest.raises(ValueError, match="metadata"):
        headers.encode_metadata(name, value)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"Application/GRPC;charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/grpcx", False),
        (b"application/json", False),
    ],
)
def test_content_types_are_told_apart(content_type: bytes, expected: bool) -> None:
    """gRPC-Web is another protocol."""
    assert headers.is_grpc(content_type) is expected
