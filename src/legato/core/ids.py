"""Correlation ids as text, and the keys of snapshots.

An id is a number or a text, kept apart. Where both must be written as text (paths,
commands, files) an id is *typed*: ``i:7`` is the number, ``s:7`` the text, and
``b:Nw`` is the text again, its UTF-8 as base64 without padding, for places that
cannot carry every character. A bare ``7`` means the number, any other bare text itself.

A snapshot is a record like any other, under an id that clients cannot use. It is
filed in a group of its own, so that it is neither counted nor listed as a sequence.
"""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

from legato.core.types import CorrelationId, SequenceKey

RESERVED = "legato:snapshot:"
"""Beginning of the ids of snapshots; no step may name such an id."""

SNAPSHOTS = "snapshots/"
"""Beginning of a group of snapshots; no model's name holds a slash."""

_MAX_ID = 0xFFFFFFFFFFFFFFFF
MAX_BYTES = 1000
"""Longest id of text, as UTF-8: it stands in paths and in every record of its sequence."""

_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~@")


class Snapshot(NamedTuple):
    """Which snapshot a reserved id belongs to."""

    correlation_id: CorrelationId
    name: str


def id_to_text(correlation_id: CorrelationId) -> str:
    """Write an id in its typed form, fit for a path: ``i:7``, ``s:ann``, ``b:YS9i``."""
    if isinstance(correlation_id, int):
        return f"i:{correlation_id}"
    if correlation_id and _PLAIN.issuperset(correlation_id):
        return f"s:{correlation_id}"
    return f"b:{_pack(correlation_id)}"


def id_from_text(text: str) -> CorrelationId:
    """Read an id, typed or bare.

    Raises:
        ValueError: It is empty, too long, no unsigned 64-bit number, or not base64.
    """
    kind, colon, rest = text.partition(":")
    if colon and kind == "i":
        return _number(rest)
    if colon and kind == "b":
        return _short(_unpack(rest))
    if colon and kind == "s":
        return _short(rest)
    return _number(text) if text.isascii() and text.isdigit() else _short(text)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and 0 < int(text) <= _MAX_ID):
        msg = f"'{text[:40]}' is not a number from 1 to 2^64 - 1"
        raise ValueError(msg)
    return int(text)


def _short(text: str) -> str:
    if not text or is_too_long(text):
        msg = f"an id of text has 1 to {MAX_BYTES} bytes"
        raise ValueError(msg)
    return text


def is_too_long(correlation_id: CorrelationId) -> bool:
    """Whether an id is more text than an id may be."""
    return (
        isinstance(correlation_id, str)
        and len(correlation_id.encode("utf-8", "surrogatepass")) > MAX_BYTES
    )


def _pack(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).rstrip(b"=").decode()


def _unpack(text: str) -> str:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return raw.decode("utf-8", "surrogatepass")
    except (binascii.Error, ValueError):
        msg = f"'{text[:40]}' is not base64 of a text"
        raise ValueError(msg) from None


# -- snapshots ------------------------------------------------------------------------


def snapshot_prefix(correlation_id: CorrelationId) -> str:
    """Beginning of the ids of all snapshots of a sequence."""
    typed = correlation_id if isinstance(correlation_id, str) else str(correlation_id)
    kind = "s" if isinstance(correlation_id, str) else "i"
    return f"{RESERVED}{kind}.{_pack(typed)}."


def snapshot_key(key: SequenceKey, name: str) -> SequenceKey:
    """Key of the record of a snapshot."""
    return SequenceKey(key.model, snapshot_prefix(key.correlation_id) + _pack(name))


def snapshot_of(correlation_id: CorrelationId) -> Snapshot | None:
    """Tell which snapshot an id belongs to; ``None`` for the id of a sequence."""
    if not is_reserved(correlation_id):
        return None
    kind, _, rest = str(correlation_id)[len(RESERVED) :].partition(".")
    typed, _, name = rest.partition(".")
    if not typed or not name:
        return None
    try:
        text = _unpack(typed)
        return Snapshot(int(text) if kind == "i" else text, _unpack(name))
    except ValueError:
        return None


def is_reserved(correlation_id: CorrelationId) -> bool:
    """Whether an id is kept for snapshots."""
    return isinstance(correlation_id, str) and correlation_id.startswith(RESERVED)


def group_of(key: SequenceKey) -> str:
    """Under what a record is counted and listed: its model, or the model's snapshots."""
    return SNAPSHOTS + key.model if is_reserved(key.correlation_id) else key.model


def snapshots_of(model: str) -> str:
    """The group of a model's snapshots."""
    return SNAPSHOTS + model
