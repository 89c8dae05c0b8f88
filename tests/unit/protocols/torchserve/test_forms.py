"""Bodies as parts of a handler's row."""

from __future__ import annotations

import pytest

from legato.protocols.torchserve.errors import Failure
from legato.protocols.torchserve.forms import parts_of, query_parts


def test_a_plain_body_is_one_part() -> None:
    """Under the name ``body``, with its content type."""
    (part,) = parts_of(b"\x00\r\n1", "application/octet-stream")

    assert part == ("body", b"\x00\r\n1", "application/octet-stream")


def test_an_empty_body_is_no_part() -> None:
    """A GET has an empty row."""
    assert parts_of(b"", "") == []


def test_a_form_has_a_part_a_field() -> None:
    """Values are bytes."""
    found = parts_of(b"a=1&b=x%20y&a=", "application/x-www-form-urlencoded; charset=utf-8")

    assert [(p.name, p.value) for p in found] == [("a", b"1"), ("b", b"x y"), ("a", b"")]


def test_a_multipart_form_keeps_every_byte() -> None:
    """Line ends and boundaries within a value are the value's."""
    value = b"\r\n--not-it\r\n\x00\xff\n"
    body = (
        b'--xyz\r\nContent-Disposition: form-data; name="data"; filename="a.bin"\r\n'
        b"Content-Type: image/png\r\n\r\n" + value + b"\r\n"
        b"--xyz\r\ncontent-disposition: form-data; name=b\r\n\r\n\r\n--xyz--\r\n"
    )

    found = parts_of(body, 'multipart/form-data; boundary="xyz"')

    assert found == [("data", value, "image/png"), ("b", b"", "")]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"--x\r\n\r\n", "multipart/form-data"),
        (b"--x\r\nname", "multipart/form-data; boundary=x"),
        (b"--x\r\nname\r\n--x--", "multipart/form-data; boundary=x"),
        (b"--x\r\nA: b\r\n\r\n1\r\n--x--", "multipart/form-data; boundary=x"),
        (b"a=1&" * 2000, "application/x-www-form-urlencoded"),
    ],
)
def test_a_broken_form_is_refused(body: bytes, kind: str) -> None:
    """With 400, and without a guess at what was meant."""
    with pytest.raises(Failure) as caught:
        parts_of(body, kind)

    assert caught.value.status == 400


def test_query_parameters_are_parts() -> None:
    """As SageMaker's path has them."""
    assert query_parts(b"model_name=m&k=v")[1] == ("k", b"v", "")
