"""What goes wrong, in the words of TorchServe: HTTP status and type, gRPC class, text.

Users match on its texts, so those are given to the letter where TorchServe has the case.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from legato.core.errors import ServerError
from legato.engine.workers import WorkerDiedError
from legato.protocols.rpc.service import RpcError, Status

if TYPE_CHECKING:
    from collections.abc import Callable

_HTTP = "org.pytorch.serve.http"
_MODEL = "org.pytorch.serve.archive.model"
INTERNAL_REASON: Final = "InternalServerException.()"
BAD_REQUEST_REASON: Final = "BadRequestException.()"

NOT_FOUND_TEXT: Final = "Requested resource is not found, please refer to API document."
METHOD_TEXT: Final = "Requested method is not allowed, please refer to API document."
KEY_TEXT: Final = (
    "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
)


class Failure(Exception):  # noqa: N818 - it is an answer, not only an exception
    """An error as clients get it.

    Attributes:
        status: HTTP status.
        kind: ``type`` of the JSON body.
        message: Text.
        java: Class that gRPC clients find below the text.
        rpc: gRPC status of a unary call.
        headers: Further HTTP headers.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        java: str = "",
        rpc: Status = Status.INTERNAL,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.java = java or f"{_HTTP}.{kind}"
        self.rpc = rpc
        self.headers = headers

    def body(self) -> bytes:
        """Return the JSON body of the HTTP answer."""
        return pretty({"code": self.status, "type": self.kind, "message": self.message})

    def rpc_error(self) -> RpcError:
        """Return the end of a unary call."""
        text = self.message if not self.java else f"{self.message}\n{self.java}"
        return RpcError(self.rpc, text, self.headers)


def pretty(value: object) -> bytes:
    """Return JSON as TorchServe writes it: two blanks of indent and a newline."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n"


# -- cases ----------------------------------------------------------------------------


def not_found() -> Failure:
    """No such path."""
    return Failure(404, "ResourceNotFoundException", NOT_FOUND_TEXT)


def method_not_allowed() -> Failure:
    """A path that takes another method, or the model API is off."""
    return Failure(405, "MethodNotAllowedException", METHOD_TEXT)


def model_api_off() -> Failure:
    """Models may not be registered by clients."""
    return Failure(
        405,
        "MethodNotAllowedException",
        "Model API disabled",
        rpc=Status.PERMISSION_DENIED,
    )


def bad_token() -> Failure:
    """The token is missing, wrong or too old."""
    return Failure(400, "InvalidKeyException", KEY_TEXT, rpc=Status.PERMISSION_DENIED)


def bad_request(message: str, *, rpc: Status = Status.INTERNAL) -> Failure:
    """A parameter is missing or impossible."""
    return Failure(400, "BadRequestException", message, java=BAD_REQUEST_REASON, rpc=rpc)


def unknown_model(name: str) -> Failure:
    """No such model."""
    kind = "ModelNotFoundException"
    return Failure(404, kind, f"Model not found: {name}", java=f"{_MODEL}.{kind}")


def unknown_version(name: str, version: str) -> Failure:
    """No such version."""
    kind = "ModelVersionNotFoundException"
    text = f"Model version: {version} does not exist for model: {name}"
    return Failure(404, kind, text, java=f"{_MODEL}.{kind}")


def no_worker(name: str, version: str = "", why: str = "") -> Failure:
    """The one text for all that cannot be queued; what it was is said behind it."""
    asked = f' Version: {version}"' if version else '"'
    text = (
        f'Model "{name}{asked} has no worker to serve inference request. Please use scale workers '
        "API to add workers. If this is a sequence inference, please check if it is closed, or "
        "expired; or exceeds maxSequenceJobQueueSize"
    )
    return Failure(
        503,
        "ServiceUnavailableException",
        f"{text} ({why})" if why else text,
        java=INTERNAL_REASON,
    )


def _internal(status: int, message: str, rpc: Status = Status.INTERNAL) -> Failure:
    return Failure(status, "InternalServerException", message, rpc=rpc)


# -- from the core --------------------------------------------------------------------

_RPC_OF_HTTP: Final = {
    400: Status.INVALID_ARGUMENT,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.NOT_FOUND,
    409: Status.ABORTED,
    413: Status.RESOURCE_EXHAUSTED,
    416: Status.OUT_OF_RANGE,
    429: Status.RESOURCE_EXHAUSTED,
    499: Status.CANCELLED,
    501: Status.UNIMPLEMENTED,
    503: Status.UNAVAILABLE,
    504: Status.DEADLINE_EXCEEDED,
}


def rpc_status(http: int) -> Status:
    """Return the gRPC status for a handler's HTTP code."""
    found = _RPC_OF_HTTP.get(http)
    if found is not None:
        return found
    if 200 <= http < 300:
        return Status.OK
    if 400 <= http < 500:
        return Status.FAILED_PRECONDITION
    return Status.INTERNAL if 500 <= http < 600 else Status.UNKNOWN


class Asked(NamedTuple):
    """Which model a failed request was for."""

    model: str
    version: str


def _cannot_queue(error: ServerError, asked: Asked) -> Failure:
    return no_worker(asked.model, asked.version, error.message)


def _handler(error: ServerError, _asked: Asked) -> Failure:
    """Take a handler's own code and text; what has none is TorchServe's usual one."""
    if isinstance(error, WorkerDiedError):
        return _internal(507 if error.killed else 500, "Worker died.")
    status = getattr(error, "status", None)
    if not isinstance(status, int):
        return _internal(503, "Prediction failed", Status.UNAVAILABLE)
    shown = 507 if status == 413 else status
    return _internal(shown, error.message, rpc_status(status))


def _died(_error: ServerError, _asked: Asked) -> Failure:
    return _internal(500, "Worker died.")


def _unknown(error: ServerError, asked: Asked) -> Failure:
    version = getattr(error, "version", "")
    return unknown_version(asked.model, version) if version else unknown_model(asked.model)


def _as(status: int, kind: str = "InternalServerException") -> Callable[..., Failure]:
    rpc = rpc_status(status)

    def make(error: ServerError, _asked: Asked) -> Failure:
        return Failure(status, kind, error.message, rpc=rpc)

    return make


_BAD = _as(400, "BadRequestException")
_CONFLICT = _as(409, "ConflictStatusException")
_BUSY = _as(503, "ServiceUnavailableException")

CASES: dict[str, Callable[[ServerError, Asked], Failure]] = {
    "internal": _as(500),
    "invalid_argument": _BAD,
    "unavailable": _cannot_queue,
    "conflict": _CONFLICT,
    "instance_gone": _died,
    "data_loss": _as(500),
    "unknown_model": _unknown,
    "model_changed": _CONFLICT,
    "state_full": _CONFLICT,
    "invalid_input": _BAD,
    "missing_correlation_id": _BAD,
    "unknown_sequence": _BAD,
    "sequence_exists": _CONFLICT,
    "step_gap": _CONFLICT,
    "step_already_applied": _CONFLICT,
    "step_taken": _CONFLICT,
    "request_id_reused": _BAD,
    "other_version": _BAD,
    "sequence_recreated": _CONFLICT,
    "state_lost": _BUSY,
    "sequence_limit": _cannot_queue,
    "step_queue_full": _cannot_queue,
    "queue_full": _cannot_queue,
    "draining": _BUSY,
    "queue_timeout": _BUSY,
    "deadline_exceeded": _as(504),
    "cancelled": _as(499),
    "model_failed": _handler,
    "non_finite_state": _as(500),
    "storage_full": _BUSY,
    "store_unavailable": _BUSY,
    "bad_model_output": _as(503),
    "quarantined": _as(500),
    "unknown_snapshot": _as(404, "ResourceNotFoundException"),
    "snapshot_exists": _CONFLICT,
    "not_at_step": _CONFLICT,
}
"""Code of a core error to what clients get."""


def failure(error: BaseException, model: str, version: str = "") -> Failure:
    """Return an error in the words of this protocol."""
    if isinstance(error, Failure):
        return error
    if not isinstance(error, ServerError):
        return _internal(500, str(error))
    made = CASES.get(error.code, CASES["internal"])(error, Asked(model, version))
    made.headers = _extra(error)
    return made


def _extra(error: ServerError) -> tuple[tuple[str, str], ...]:
    """Say what a client of numbered steps, or one that tries again, wants to know."""
    pairs: list[tuple[str, Any]] = [("legato-reason", error.code)]
    if error.expected_step is not None:
        pairs.append(("legato-expected-step", error.expected_step))
    if error.retry_after_s is not None:
        pairs.append(("legato-retry-after-ms", math.ceil(error.retry_after_s * 1000)))
    return tuple((name, str(value)) for name, value in pairs)
