"""Texts as bytes: each after its length, four bytes little-endian."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LENGTH = 4


def join_texts(values: Iterable[bytes]) -> bytes:
    """Put texts into one row of bytes."""
    return b"".join(part for raw in values for part in (len(raw).to_bytes(_LENGTH, "little"), raw))


def split_texts(data: bytes) -> list[bytes]:
    """Take them out again.

    Raises:
        ValueError: The last one is cut off.
    """
    values, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + _LENGTH], "little")
        at += _LENGTH + size
        if at > len(data):
            raise ValueError(f"a text of {size} bytes is cut off")
        values.append(data[at - size : at])
    return values
