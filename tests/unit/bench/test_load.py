"""Loads: ids, lengths, and what is written on a command line."""

from __future__ import annotations

import pytest

from legato.bench.load import (
    Load,
    LoadError,
    parse_address,
    parse_range,
    parse_shape,
    parse_value,
)


def test_places_of_a_load_never_share_an_id() -> None:
    """However differently places get on, no id is in flight twice."""
    load = Load("h:1", "m", sequences=4, first_id=10, ids=11)

    ids = [{load.id_of(place + 4 * turn) for turn in range(50)} for place in range(4)]

    assert all(not a & b for i, a in enumerate(ids) for b in ids[:i])
    assert set().union(*ids) == set(range(10, 18))


def test_lengths_vary_around_the_one_wanted() -> None:
    """All lengths within the spread occur, and no others."""
    load = Load("h:1", "m", length=20, spread=0.2)

    lengths = {load.length_of(ordinal) for ordinal in range(1000)}

    assert lengths == set(range(16, 25))


def test_no_spread_means_equal_lengths() -> None:
    """A spread of 0 keeps the length."""
    load = Load("h:1", "m", length=7, spread=0)

    assert {load.length_of(ordinal) for ordinal in range(100)} == {7}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("127.0.0.1:8000", ("127.0.0.1:8000", False)),
        ("grpc://[::1]:8001", ("[::1]:8001", False)),
        ("grpcs://host:443/", ("host:443", True)),
    ],
)
def test_addresses_are_read(url: str, expected: tuple[str, bool]) -> None:
    """host:port, with or without a scheme."""
    assert parse_address(url) == expected


@pytest.mark.parametrize("url", ["host", "ftp://host:1", "host:port", ":80", "grpc://host"])
def test_what_is_no_address_is_refused(url: str) -> None:
    """The message shows what was written."""
    with pytest.raises(LoadError, match=url):
        parse_address(url)


def test_ranges_name_first_and_last_id() -> None:
    """Both ends belong to the range."""
    assert parse_range("5:14") == (5, 10)


@pytest.mark.parametrize("text", ["5", "0:3", "9:3", "a:b", "1:9223372036854775808", "-1:4"])
def test_what_is_no_range_is_refused(text: str) -> None:
    """Ids are positive 63-bit numbers."""
    with pytest.raises(LoadError, match="id"):
        parse_range(text)


def test_shapes_and_values_are_read() -> None:
    """A name may hold colons; sizes may have spaces."""
    assert parse_shape("serving:x:1, 257,1") == ("serving:x", (1, 257, 1))
    assert parse_value("sr=16000") == ("sr", 16000.0)


@pytest.mark.parametrize("text", ["x", "x:", ":1,2", "x:1,-1", "x:a"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    """Sizes are numbers, and there is a name."""
    with pytest.raises(LoadError, match="shape"):
        parse_shape(text)


@pytest.mark.parametrize("text", ["sr", "=3", "sr=", "sr=fast"])
def test_what_is_no_value_is_refused(text: str) -> None:
    """A value is a number, and there is a name."""
    with pytest.raises(LoadError, match="value"):
        parse_value(text)
