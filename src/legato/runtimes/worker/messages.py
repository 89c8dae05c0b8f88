"""What the server and a worker say: signatures, rows and errors as plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from legato.core.errors import (
    BusyError,
    ClientError,
    ConfigError,
    InputError,
    ModelError,
    ModelSaysError,
    NoSlotError,
    PoisonError,
    ServerError,
    SignatureError,
    StateLostError,
)
from legato.core.types import EndReason, Signature
from legato.runtimes.torchserve.exchange import HandlerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from legato.core.types import CorrelationId
    from legato.runtimes.base import RowInfo

_ERRORS: dict[str, type[ServerError]] = {
    kind.__name__: kind
    for kind in (
        ClientError,
        ModelError,
        PoisonError,
        SignatureError,
        BusyError,
        NoSlotError,
        StateLostError,
    )
}


class Held(NamedTuple):
    """Stands for a state that the worker has itself, since it gave it last.

    Attributes:
        digest: Of the state's bytes; the worker may have let go of it since.
    """

    digest: bytes


class StatesWantedError(Exception):
    """The worker has not got states any more that it was told it has.

    Attributes:
        rows: Whose.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__(f"states of rows {list(rows)} are wanted")
        self.rows = list(rows)


# -- signatures -------------------------------------------------------------------------


def from_signature(signature: Signature) -> dict[str, Any]:
    """Make plain data of a signature."""
    plain: dict[str, Any] = msgspec.to_builtins(asdict(signature), enc_hook=_plain_value)
    return plain


def to_signature(plain: Any) -> Signature:
    """Make a signature of plain data.

    Raises:
        msgspec.ValidationError: It is not one.
    """
    return msgspec.convert(plain, Signature)


def _plain_value(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not go into a signature")


# -- rows -------------------------------------------------------------------------------


def from_rows(rows: Iterable[RowInfo]) -> list[tuple[Any, ...]]:
    """Make plain data of what a model may know of its rows."""
    return [
        (
            r.correlation_id,
            r.step,
            r.start,
            r.end,
            dict(r.parameters),
            r.partial is not None,
            None if r.asked is None else r.asked[:4],
        )
        for r in rows
    ]


def from_endings(endings: Iterable[tuple[CorrelationId, EndReason]]) -> list[tuple[Any, str]]:
    """Make plain data of sequences that ended."""
    return [(correlation_id, reason.name) for correlation_id, reason in endings]


def to_endings(plain: Any) -> list[tuple[CorrelationId, EndReason]]:
    """The reverse of :func:`from_endings`."""
    return [(correlation_id, EndReason[name]) for correlation_id, name in plain]


# -- errors -----------------------------------------------------------------------------


def from_error(error: BaseException) -> dict[str, Any]:
    """Make plain data of what a model raised, with its own text."""
    if isinstance(error, ConfigError):
        facts = {"problem": error.problem, "file": error.file, "key": error.key, "fix": error.fix}
        return {"kind": "ConfigError", **facts}
    if isinstance(error, HandlerError):
        return {"kind": "HandlerError", "text": error.message, "status": error.status}
    if isinstance(error, InputError):
        facts = {"reason": error.reason, "tensor": error.tensor}
        return {"kind": "InputError", "text": error.message, **facts}
    if isinstance(error, ModelSaysError):
        return {"kind": "ModelSaysError", "text": error.message, "category": error.category}
    if isinstance(error, ServerError):
        lineage = [kind.__name__ for kind in type(error).__mro__]
        kind = next((name for name in lineage if name in _ERRORS), "ModelError")
        return {"kind": kind, "text": error.message}
    return {"kind": "", "text": f"the model failed: {type(error).__name__}: {error}"}


def to_error(plain: dict[str, Any]) -> Exception:
    """Make an exception of plain data."""
    kind = plain["kind"]
    if kind == "ConfigError":
        return ConfigError(plain["problem"], file=plain["file"], key=plain["key"], fix=plain["fix"])
    if kind == "HandlerError":
        return HandlerError(plain["text"], plain["status"])
    if kind == "InputError":
        return InputError(plain["text"], reason=plain["reason"], tensor=plain["tensor"])
    if kind == "ModelSaysError":
        return ModelSaysError(plain["text"], plain["category"])
    return _ERRORS.get(kind, ModelError)(plain["text"])
