"""gRPC's text conventions in HTTP headers: timeouts, messages, metadata. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeVar, overload

from legato.protocols.rpc.service import RpcError, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_T = TypeVar("_T")

_TIMEOUT_UNITS: Final = {
    b"H": 3600.0,
    b"M": 60.0,
    b"S": 1.0,
    b"m": 1e-3,
    b"u": 1e-6,
    b"n": 1e-9,
}
_MAX_TIMEOUT_DIGITS: Final = 8
_LONGEST_MESSAGE: Final = 4096
"""Bytes of a ``grpc-message``: gRPC's clients begin to refuse headers of 8 KiB in all."""
_CUT: Final = b"..."
_UNSAFE: Final = re.compile(rb"[^\x20-\x24\x26-\x7e]")
_NAME: Final = re.compile(r"[0-9a-z_.\-]+")


def parse_timeout(value: bytes) -> float:
    """Return the seconds of a ``grpc-timeout`` header.

    Raises:
        RpcError: INTERNAL, as gRPC servers answer a timeout they cannot read.
    """
    digits, unit = value[:-1], _TIMEOUT_UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > _MAX_TIMEOUT_DIGITS:
        raise RpcError(Status.INTERNAL, f"bad grpc-timeout header {value[:20]!r}")
    return int(digits) * unit


def encode_message(text: str) -> bytes:
    """Percent-encode a ``grpc-message``; a long one is cut to what clients take in a header."""
    encoded = _encoded(text)
    if len(encoded) <= _LONGEST_MESSAGE:
        return encoded
    kept, room = [], _LONGEST_MESSAGE - len(_CUT)
    for character in text:
        kept.append(_encoded(character))
        room -= len(kept[-1])
        if room < 0:
            break
    return b"".join(kept[:-1]) + _CUT


def _encoded(text: str) -> bytes:
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], text.encode("utf-8", "replace"))


def encode_metadata(name: str, value: str) -> tuple[bytes, bytes]:
    """Return a header for a piece of metadata.

    The value of a ``-bin`` name is taken as latin-1 and sent as base64.

    Raises:
        ValueError: The name or the value cannot stand in a header.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a metadata name: {name!r}")
    if name.endswith("-bin"):
        return name.encode(), base64.b64encode(value.encode("latin-1")).rstrip(b"=")
    if not (value.isascii() and value.isprintable()):
        raise ValueError(f"metadata {name!r} holds characters that a header cannot carry")
    return name.encode(), value.encode()


class Metadata(Mapping[str, str]):
    """Headers as text: lower-case names, repeated values joined by ``,``.

    Decoded when looked at: most calls are asked for one name, which did not come.
    """

    __slots__ = ("_decoded", "_headers")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._headers = headers
        self._decoded: dict[str, str] | None = None

    def __getitem__(self, name: str) -> str:
        """Return the value of a header."""
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter(self._all())

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._all())

    def __repr__(self) -> str:
        return f"<Metadata {', '.join(self)}>"  # names only: values may be secrets

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str | _T) -> str | _T: ...
    def get(self, name: str, default: object = None) -> object:
        """Return the value of a header, or the default; decodes nothing if it did not come."""
        wanted = name.encode("latin-1", "replace")
        for raw_name, _value in self._headers:
            if raw_name.lower() == wanted:
                return self._all()[name]
        return default

    def _all(self) -> dict[str, str]:
        found = self._decoded
        if found is None:
            found = self._decoded = {}
            for raw_name, raw_value in self._headers:
                name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
                found[name] = f"{found[name]},{value}" if name in found else value
        return found


def decode_binary(value: str) -> bytes:
    """Decode the value of a ``-bin`` header; the first one if it was repeated.

    Raises:
        RpcError: INVALID_ARGUMENT if it is not base64.
    """
    first = value.partition(",")[0].strip()
    try:
        return base64.b64decode(first + "=" * (-len(first) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RpcError(
            Status.INVALID_ARGUMENT, f"binary metadata is not base64: {error}"
        ) from error


def is_grpc(content_type: bytes) -> bool:
    """Whether a content type is gRPC's (``application/grpc``, ``+proto``, ``;...``)."""
    lower = content_type.lower()
    return lower.startswith(b"application/grpc") and lower[16:17] in {b"", b"+", b";", b" "}
