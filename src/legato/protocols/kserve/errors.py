"""Core errors as KServe clients know them: gRPC status, HTTP status, text.

Users match on some of Triton's texts, so those are given to the letter; what else
is known (the reason, the step expected next, when to try again) travels beside
the text: as gRPC trailers, HTTP headers or response parameters.

HTTP statuses follow Triton where Triton has the case (everything but INTERNAL,
NOT_FOUND, UNAVAILABLE and UNSUPPORTED is 400). Cases it does not know have their
usual HTTP status: 409 for a step number that does not fit, 429 with Retry-After for
limits, 504 for a deadline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from legato.core.errors import (
    CancelledStepError,
    InputError,
    ModelSaysError,
    ServerError,
    UnknownModelError,
    UnknownSequenceError,
)
from legato.protocols.kserve.datatypes import wire_name
from legato.protocols.kserve.describe import client_inputs, may_be_left_out
from legato.protocols.rpc.service import RpcError, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.core.types import Signature, Step
    from legato.protocols.kserve.ports import EnginePort

REASON = "legato-reason"
EXPECTED_STEP = "legato-expected-step"
RETRY_AFTER_MS = "legato-retry-after-ms"
STATUS = "legato-status"
STEP_CANCELLED = "step_cancelled"
"""Reason of a step that was dropped; ``cancelled`` alone is how a sequence ended."""

HTTP_STATUS = {
    Status.CANCELLED: 499,
    Status.DEADLINE_EXCEEDED: 504,
    Status.NOT_FOUND: 404,
    Status.RESOURCE_EXHAUSTED: 429,
    Status.UNIMPLEMENTED: 501,
    Status.INTERNAL: 500,
    Status.UNAVAILABLE: 503,
    Status.DATA_LOSS: 500,
}
"""HTTP status of an error that has only a gRPC status; 400 for those not listed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in the words of this protocol.

    Attributes:
        status: gRPC status.
        http_status: HTTP status.
        message: Text, as Triton has it where Triton has the case.
        reason: Machine-readable name of the case.
        expected_step: Step number the sequence expects next, where known.
        retry_after_s: When to try again, where that helps.
    """

    status: Status
    http_status: int
    message: str
    reason: str = ""
    expected_step: int | None = None
    retry_after_s: float | None = None
    extra: tuple[tuple[str, str], ...] = field(default=())

    def trailers(self) -> tuple[tuple[str, str], ...]:
        """Return what goes beside the text in gRPC trailers and HTTP headers."""
        pairs = list(self.extra)
        if self.reason:
            pairs.append((REASON, self.reason))
        if self.expected_step is not None:
            pairs.append((EXPECTED_STEP, str(self.expected_step)))
        if self.retry_after_s is not None:
            pairs.append((RETRY_AFTER_MS, str(math.ceil(self.retry_after_s * 1000))))
        return tuple(pairs)

    def headers(self) -> dict[str, str]:
        """Return the trailers as HTTP headers, with Retry-After in whole seconds."""
        headers = dict(self.trailers())
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        return headers


class Case(NamedTuple):
    """One row of the table: statuses, and how the text is made."""

    status: Status
    http_status: int
    text: Callable[[ServerError, Step, EnginePort], str]


def _own(error: ServerError, _step: Step, _engine: EnginePort) -> str:
    return error.message


def _constant(text: str) -> Callable[[ServerError, Step, EnginePort], str]:
    return lambda _error, _step, _engine: text


def _unknown_model(error: ServerError, step: Step, engine: EnginePort) -> str:
    if not isinstance(error, UnknownModelError):
        return f"Request for unknown model: '{step.model}' is not found"
    if error.unloaded or error.model in engine.unloaded:
        return f"Request for unknown model: '{error.model}' has no available versions"
    version = f" version {error.version}" if error.version else ""
    return f"Request for unknown model: '{error.model}'{version} is not found"


def _missing_id(_error: ServerError, step: Step, _engine: EnginePort) -> str:
    return (
        f"inference request to model '{step.model}' must specify a non-zero or non-empty "
        "correlation ID"
    )


def _unknown_sequence(_error: ServerError, step: Step, _engine: EnginePort) -> str:
    return (
        f"inference request for sequence {step.correlation_id} to model '{step.model}' must "
        "specify the START flag on the first request of the sequence"
    )


# -- inputs -------------------------------------------------------------------------------


def _signature(step: Step, engine: EnginePort) -> Signature | None:
    try:
        return engine.model(step.model, step.version).signature
    except ServerError:
        return None


def _display_shape(shape: object, *, batched: bool) -> str:
    if not isinstance(shape, (tuple, list)):
        return str(shape)
    dims = list(shape)
    if batched and dims:
        dims[0] = -1
    return f"[{','.join(map(str, dims))}]"


def _shape_text(error: InputError, step: Step, signature: Signature | None) -> str:
    specs = signature.inputs if signature is not None else ()
    batched = any(spec.name == error.tensor and spec.batch_axis == 0 for spec in specs)
    note = (
        "NOTE: the first dimension is the batch; a step of a sequence has 1 there."
        if batched
        else "NOTE: this input has no batch dimension in front."
    )
    return (
        f"unexpected shape for input '{error.tensor}' for model '{step.model}'. Expected "
        f"{_display_shape(error.expected, batched=batched)}, "
        f"got {_display_shape(error.got, batched=False)}. {note}"
    )


def _count_text(error: InputError, step: Step, signature: Signature | None) -> str:
    required = []
    if signature is not None:
        required = [
            spec.name for spec in client_inputs(signature) if not may_be_left_out(spec, signature)
        ]
    missing = [name for name in required if name not in step.inputs] or [error.tensor]
    names = ",".join(f"'{name}'" for name in step.inputs)
    lacking = ",".join(f"'{name}'" for name in missing)
    return (
        f"expected {len(required)} inputs but got {len(step.inputs)} inputs for model "
        f"'{step.model}'. Got input(s) [{names}], but missing required input(s) [{lacking}]. "
        "Please provide all required input(s)."
    )


def _invalid_input(error: ServerError, step: Step, engine: EnginePort) -> str:
    if not isinstance(error, InputError):
        return error.message
    marker = f"[request id: {step.request_id or '<id_unknown>'}] "
    tensor, model = error.tensor, step.model
    if error.reason == "dtype":
        got, expected = wire_name(str(error.got)), wire_name(str(error.expected))
        return (
            f"{marker}inference input '{tensor}' data-type is '{got}', but model '{model}' "
            f"expects '{expected}'"
        )
    if error.reason == "shape":
        return marker + _shape_text(error, step, _signature(step, engine))
    if error.reason == "missing":
        return marker + _count_text(error, step, _signature(step, engine))
    if error.reason == "size":
        return marker + error.message
    if error.reason == "batch":
        signature = _signature(step, engine)
        if signature is None or signature.states:
            return (
                f"inference request to model '{model}' must specify batch-size 1 due to "
                "requirements of sequence batcher"
            )
    fixed = {
        "unknown": f"unexpected inference input '{tensor}' for model '{model}'",
        "unknown_output": f"unexpected inference output '{tensor}' for model '{model}'",
        "no_data": f"unable to find data for input tensor '{tensor}' for model '{model}' in "
        "request.",
    }
    return fixed.get(error.reason, error.message)


_STOPPING = "Server is stopping, scheduler for model has stopped accepting new inference requests"

CASES: dict[str, Case] = {
    "internal": Case(Status.INTERNAL, 500, _own),
    "invalid_argument": Case(Status.INVALID_ARGUMENT, 400, _own),
    "unavailable": Case(Status.UNAVAILABLE, 503, _own),
    "conflict": Case(Status.ABORTED, 409, _own),
    "instance_gone": Case(Status.UNAVAILABLE, 503, _own),
    "data_loss": Case(Status.DATA_LOSS, 500, _own),
    "unknown_model": Case(Status.NOT_FOUND, 404, _unknown_model),
    "model_changed": Case(Status.FAILED_PRECONDITION, 400, _own),
    "state_full": Case(Status.FAILED_PRECONDITION, 400, _own),
    "invalid_input": Case(Status.INVALID_ARGUMENT, 400, _invalid_input),
    "missing_correlation_id": Case(Status.INVALID_ARGUMENT, 400, _missing_id),
    "unknown_sequence": Case(Status.INVALID_ARGUMENT, 400, _unknown_sequence),
    "sequence_exists": Case(Status.ALREADY_EXISTS, 409, _own),
    "step_gap": Case(Status.FAILED_PRECONDITION, 409, _own),
    "step_already_applied": Case(Status.FAILED_PRECONDITION, 409, _own),
    "step_taken": Case(Status.ABORTED, 409, _own),
    "request_id_reused": Case(Status.INVALID_ARGUMENT, 400, _own),
    "other_version": Case(Status.INVALID_ARGUMENT, 400, _own),
    "sequence_recreated": Case(Status.NOT_FOUND, 404, _own),
    "sequence_limit": Case(Status.RESOURCE_EXHAUSTED, 429, _own),
    "step_queue_full": Case(Status.RESOURCE_EXHAUSTED, 429, _own),
    "queue_full": Case(Status.RESOURCE_EXHAUSTED, 429, _own),
    "draining": Case(Status.UNAVAILABLE, 503, _constant(_STOPPING)),
    "queue_timeout": Case(
        Status.UNAVAILABLE,
        503,
        _constant("timeout of the corresponding sequence has been expired"),
    ),
    "deadline_exceeded": Case(Status.DEADLINE_EXCEEDED, 504, _own),
    "cancelled": Case(Status.CANCELLED, 499, _constant("")),
    "model_failed": Case(Status.INTERNAL, 500, _own),
    "state_lost": Case(Status.UNAVAILABLE, 503, _own),
    "non_finite_state": Case(Status.INTERNAL, 500, _own),
    "storage_full": Case(Status.RESOURCE_EXHAUSTED, 503, _own),
    "store_unavailable": Case(Status.UNAVAILABLE, 503, _own),
    "bad_model_output": Case(Status.INTERNAL, 500, _own),
}
"""Code of a core error to its statuses and text."""


_SAID = {
    "unknown": Status.UNKNOWN,
    "not_found": Status.NOT_FOUND,
    "invalid_argument": Status.INVALID_ARGUMENT,
    "unavailable": Status.UNAVAILABLE,
    "unsupported": Status.UNIMPLEMENTED,
    "already_exists": Status.ALREADY_EXISTS,
    "cancelled": Status.CANCELLED,
}
"""What a model may call its own error, to its status; INTERNAL for the others."""


def failure(error: ServerError | RpcError, step: Step, engine: EnginePort) -> Failure:
    """Return the error of a step in the words of this protocol."""
    if isinstance(error, RpcError):
        http_status = HTTP_STATUS.get(error.status, 400)
        return Failure(error.status, http_status, error.message, extra=error.trailers)
    case = CASES.get(error.code, CASES["internal"])
    status, http_status = case.status, case.http_status
    if isinstance(error, ModelSaysError):
        status = _SAID.get(error.category, Status.INTERNAL)
        http_status = HTTP_STATUS.get(status, 400)
    return Failure(
        status,
        http_status,
        case.text(error, step, engine),
        reason=_reason(error),
        expected_step=error.expected_step,
        retry_after_s=error.retry_after_s,
    )


def _reason(error: ServerError) -> str:
    if isinstance(error, UnknownSequenceError) and error.ending is not None:
        return error.ending.reason.name.lower()
    return STEP_CANCELLED if isinstance(error, CancelledStepError) else error.code
