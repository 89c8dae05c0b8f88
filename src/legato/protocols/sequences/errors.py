"""Errors of the sequence API: a stable code, a sentence, and a status for each wire."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from legato.core.errors import UnknownSequenceError
from legato.protocols.rpc.service import RpcError, Status
from legato.protocols.sequences.messages import Problem

if TYPE_CHECKING:
    from legato.core.errors import ServerError

REASON = "legato-reason"
EXPECTED_STEP = "legato-expected-step"
RETRY_AFTER_MS = "legato-retry-after-ms"


class Case(NamedTuple):
    """Statuses of one code."""

    status: Status
    http_status: int


_BAD = Case(Status.INVALID_ARGUMENT, 400)
_NOT_FOUND = Case(Status.NOT_FOUND, 404)
_EXISTS = Case(Status.ALREADY_EXISTS, 409)
_PRECONDITION = Case(Status.FAILED_PRECONDITION, 409)
_ABORTED = Case(Status.ABORTED, 409)
_FULL = Case(Status.RESOURCE_EXHAUSTED, 429)
_INTERNAL = Case(Status.INTERNAL, 500)
_UNAVAILABLE = Case(Status.UNAVAILABLE, 503)

CASES: dict[str, Case] = {
    "internal": _INTERNAL,
    "invalid_argument": _BAD,
    "unavailable": _UNAVAILABLE,
    "conflict": _ABORTED,
    "instance_gone": _UNAVAILABLE,
    "data_loss": Case(Status.DATA_LOSS, 500),
    "unknown_model": _NOT_FOUND,
    "model_changed": _PRECONDITION,
    "state_full": _PRECONDITION,
    "invalid_input": _BAD,
    "missing_correlation_id": _BAD,
    "unknown_sequence": _NOT_FOUND,
    "sequence_exists": _EXISTS,
    "step_gap": _PRECONDITION,
    "step_already_applied": _PRECONDITION,
    "step_taken": _ABORTED,
    "request_id_reused": _BAD,
    "other_version": _BAD,
    "sequence_recreated": _NOT_FOUND,
    "sequence_limit": _FULL,
    "step_queue_full": _FULL,
    "queue_full": _FULL,
    "draining": _UNAVAILABLE,
    "queue_timeout": _UNAVAILABLE,
    "deadline_exceeded": Case(Status.DEADLINE_EXCEEDED, 504),
    "cancelled": Case(Status.CANCELLED, 499),
    "model_failed": _INTERNAL,
    "state_lost": _UNAVAILABLE,
    "non_finite_state": _INTERNAL,
    "storage_full": _FULL,
    "store_unavailable": _UNAVAILABLE,
    "bad_model_output": _INTERNAL,
    "unknown_snapshot": _NOT_FOUND,
    "snapshot_exists": _EXISTS,
    "not_at_step": _PRECONDITION,
    "bad_archive": _BAD,
    "bad_recording": _BAD,
}
"""Code of an error to its statuses."""

HTTP_STATUSES = sorted({case.http_status for case in CASES.values()} | {413})


def case_of(error: ServerError) -> Case:
    """Statuses of an error."""
    return CASES.get(error.code, _INTERNAL)


def problem_of(error: ServerError) -> Problem:
    """The body of an error."""
    status = None
    if isinstance(error, UnknownSequenceError):
        ending = error.ending
        status = "unknown" if ending is None else ending.reason.name.lower()
    return Problem(
        error=error.message,
        code=error.code,
        expected_step=error.expected_step,
        retry_after_s=error.retry_after_s,
        status=status,
    )


def rpc_error(error: ServerError) -> RpcError:
    """The error as gRPC tells it: what is beside the text travels as trailers."""
    problem = problem_of(error)
    ended = problem.status not in (None, "unknown")
    trailers = [(REASON, problem.status if ended and problem.status else error.code)]
    if error.expected_step is not None:
        trailers.append((EXPECTED_STEP, str(error.expected_step)))
    if error.retry_after_s is not None:
        trailers.append((RETRY_AFTER_MS, str(math.ceil(error.retry_after_s * 1000))))
    return RpcError(case_of(error).status, error.message, trailers)
