"""Bodies of HTTP requests as parts of a handler's row. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from legato.protocols.torchserve.errors import bad_request
from legato.runtimes.torchserve.exchange import Part

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY: Final = "body"
_MOST_PARTS: Final = 1000
_TOKEN: Final = re.compile(r';\s*([^=;\s]+)\s*=\s*("(?:\\.|[^"\\])*"|[^;]*)')


def parts_of(body: bytes, content_type: str) -> list[Part]:
    """Cut a body: one part a form field, or the whole as ``body``.

    Raises:
        Failure: It is a form and broken.
    """
    kind, _, _parameters = content_type.partition(";")
    kind = kind.strip().lower()
    if kind == "multipart/form-data":
        boundary = _parameters_of(content_type).get("boundary", "")
        if not boundary:
            raise bad_request("the multipart body has no boundary")
        return list(_multipart(body, boundary.encode("latin-1", "replace")))
    if kind == "application/x-www-form-urlencoded":
        return _urlencoded(body)
    return [Part(BODY, body, content_type)] if body else []


def query_parts(query: bytes) -> list[Part]:
    """Return the parameters of a query string as parts."""
    return _urlencoded(query)


def _urlencoded(body: bytes) -> list[Part]:
    try:
        pairs = parse_qsl(body, keep_blank_values=True, max_num_fields=_MOST_PARTS)
        return [Part(name.decode(), value) for name, value in pairs]
    except ValueError as error:
        raise bad_request(f"the form cannot be read: {error}") from None


def _parameters_of(header: str) -> dict[str, str]:
    """Read the ``; name=value`` of a header."""
    found = {}
    for name, value in _TOKEN.findall(header):
        text = value.strip()
        if text[:1] == '"':
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        found[name.lower()] = text
    return found


def _multipart(body: bytes, boundary: bytes) -> Iterator[Part]:
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise bad_request("the multipart body is cut off")
    if len(pieces) > _MOST_PARTS:
        raise bad_request(f"a form has at most {_MOST_PARTS} fields")
    for piece in pieces[1:-1]:
        head, separator, value = piece.lstrip(b" \t").partition(b"\r\n\r\n")
        if not separator:
            raise bad_request("a part of the multipart body has no headers")
        headers = {}
        for line in head.decode("utf-8", "replace").split("\r\n"):
            name, _, text = line.partition(":")
            headers[name.strip().lower()] = text.strip()
        field = _parameters_of(headers.get("content-disposition", "")).get("name")
        if field is None:
            raise bad_request("a part of the multipart body has no name")
        yield Part(field, value, headers.get("content-type", ""))
