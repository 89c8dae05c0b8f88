"""What a TorchServe protocol and a TorchServe worker say to each other through a step.

A step carries one BYTES row, ``data``: the parts of the request in one piece, so that the
digest of a numbered step covers all of them. Its parameters carry what a handler sees besides:
the request headers and the request's id. A reply carries two BYTES rows: ``response``, and
``meta``, a JSON object with the status, content type and headers that the handler set.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

import numpy as np
import orjson

from legato.core.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from legato.core.types import Array, Reply

DATA: Final = "data"
RESPONSE: Final = "response"
META: Final = "meta"
HEADERS: Final = "headers"
REQUEST_ID: Final = "request_id"
STREAM_NEXT: Final = "ts_stream_next"
"""Response header of an answer that is one of several: ``true`` on all but the last."""

_FORMAT: Final = 1
_HEAD: Final = struct.Struct("<BH")
_PART: Final = struct.Struct("<HHI")


class Part(NamedTuple):
    """One entry of a request: a form field, an ``input`` of gRPC, or the body.

    Attributes:
        name: Key in the handler's row (``body`` where the wire has no names).
        value: Its bytes, as they came.
        content_type: As it came; ``""`` leaves the value a ``bytearray``.
    """

    name: str
    value: bytes
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler answered to one request.

    Attributes:
        body: The bytes.
        status: HTTP status.
        phrase: Reason phrase, ``""`` = none.
        content_type: ``None`` where the handler set none.
        headers: Response headers as the handler set them.
    """

    body: bytes
    status: int = 200
    phrase: str = ""
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def more(self) -> bool:
        """Further answers to the same request follow."""
        return self.headers.get(STREAM_NEXT) == "true"

    def meta(self) -> dict[str, Any]:
        """Everything but the body, as :meth:`of` takes it."""
        return {
            "status": self.status,
            "phrase": self.phrase,
            "content_type": self.content_type,
            "headers": dict(self.headers),
        }

    @classmethod
    def of(cls, body: bytes, meta: Mapping[str, Any]) -> Answer:
        """Put together what ``Step.partial`` is called with."""
        return cls(body, **meta)


class HandlerError(ModelError):
    """A handler failed on a request, with the code and text that TorchServe gives it.

    Attributes:
        status: HTTP status.
    """

    code: ClassVar[str] = "model_failed"

    def __init__(self, message: str, status: int = 503) -> None:
        super().__init__(message)
        self.status = status


def to_step(
    parts: Sequence[Part], headers: Mapping[str, Any], request_id: str
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Make the inputs and parameters of a step.

    Args:
        parts: What goes into the handler's row; a repeated name keeps the last.
        headers: What ``context.get_request_header`` finds, names spelt as the client did.
            Whoever makes a sequence id puts it here too.
        request_id: What ``context.get_request_id`` gives.
    """
    row = np.empty(1, object)
    row[0] = pack(parts)
    return {DATA: row}, {HEADERS: dict(headers), REQUEST_ID: request_id}


def from_reply(reply: Reply) -> Answer:
    """Read the reply to a step."""
    values = {header.name: blob[4:] for header, blob in zip(reply.headers, reply.data, strict=True)}
    return Answer.of(values[RESPONSE], orjson.loads(values[META]))


def pack(parts: Sequence[Part]) -> bytes:
    """Put the parts of a request into one piece."""
    pieces = [_HEAD.pack(_FORMAT, len(parts))]
    for name, value, content_type in parts:
        key, kind = name.encode(), content_type.encode()
        pieces += [_PART.pack(len(key), len(kind), len(value)), key, kind, value]
    return b"".join(pieces)


def unpack(data: bytes) -> list[Part]:
    """Take a request apart again.

    Raises:
        ValueError: The bytes are not a request.
    """
    try:
        version, count = _HEAD.unpack_from(data)
        if version != _FORMAT:
            raise ValueError(f"a request has format {version}, not {_FORMAT}")
        parts, at = [], _HEAD.size
        for _ in range(count):
            n_key, n_kind, n_value = _PART.unpack_from(data, at)
            at += _PART.size
            ends = (at + n_key, at + n_key + n_kind, at + n_key + n_kind + n_value)
            if ends[2] > len(data):
                raise ValueError("a request is cut off")
            parts.append(
                Part(
                    data[at : ends[0]].decode(),
                    data[ends[1] : ends[2]],
                    data[ends[0] : ends[1]].decode(),
                )
            )
            at = ends[2]
    except struct.error as error:
        raise ValueError(f"a request cannot be read: {error}") from error
    return parts
