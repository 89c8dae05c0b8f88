"""Token authorisation: three keys in ``key_file.json``, two of which expire."""

from __future__ import annotations

import base64
import hmac
import json
import os
import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Kind = Literal["management", "inference", "API"]
FILE_NAME: Final = "key_file.json"
RENEWABLE: Final = ("management", "inference")
_EXPIRY: Final = "expiration time"
_BEARER: Final = "Bearer "
_KEY_BYTES: Final = 6  # eight characters of base64


class _Key(NamedTuple):
    text: str
    until: datetime | None


class Tokens:
    """The keys of one server.

    Args:
        file: Where they are written, readable by its owner only.
        minutes: How long the two that expire are good for.
        wall: Wall-clock seconds.
    """

    def __init__(self, file: Path, minutes: int, wall: Callable[[], float]) -> None:
        self._file = file
        self._life = timedelta(minutes=minutes)
        self._wall = wall
        self._keys: dict[str, _Key] = {}

    def __repr__(self) -> str:
        return f"<Tokens in {self._file}>"

    def create(self) -> None:
        """Draw all keys and write the file."""
        self._keys = {"API": _Key(_draw(), None)}
        for kind in RENEWABLE:
            self._keys[kind] = self._fresh()
        self._write()

    def load(self) -> None:
        """Take the keys of the file, as a process does that follows one that died."""
        try:
            found = json.loads(self._file.read_text())
            self._keys = {kind: _read(found[kind]) for kind in (*RENEWABLE, "API")}
        except (OSError, ValueError, KeyError, TypeError):
            self.create()

    def allows(self, kind: Kind, header: str | None) -> bool:
        """Whether an ``Authorization`` header holds the key of a kind, not expired."""
        if header is None or not header.startswith(_BEARER):
            return False
        key = self._keys[kind]
        if key.until is not None and self._now() >= key.until:
            return False
        given = header[len(_BEARER) :].strip().encode("utf-8", "surrogateescape")
        return hmac.compare_digest(given, key.text.encode())

    def renew(self, kind: Literal["management", "inference"]) -> None:
        """Draw a key again and rewrite the file."""
        self._keys[kind] = self._fresh()
        self._write()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall(), UTC)

    def _fresh(self) -> _Key:
        return _Key(_draw(), self._now() + self._life)

    def _write(self) -> None:
        described: dict[str, dict[str, str]] = {}
        for kind in (*RENEWABLE, "API"):
            text, until = self._keys[kind]
            described[kind] = {"key": text}
            if until is not None:
                described[kind][_EXPIRY] = until.isoformat().replace("+00:00", "Z")
        unfinished = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        number = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(number, "w") as stream:
            json.dump(described, stream, indent=2)
        unfinished.replace(self._file)


def _draw() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


def _read(entry: dict[str, str]) -> _Key:
    until = entry.get(_EXPIRY)
    return _Key(str(entry["key"]), datetime.fromisoformat(until) if until else None)
