"""What a client is told when a step cannot be taken, and which failures are worth another try.

Pure: gRPC statuses are known by name here. A server's ``legato-reason`` says more than
its status; a status without a reason comes from something in between, or from another server.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class SequenceError(Exception):
    """A step was refused, or its outcome could not be learnt.

    Attributes:
        code: Name of the gRPC status, for example ``FAILED_PRECONDITION``.
        reason: The server's name of the case, for example ``step_gap``; "" = not told.
        expected_step: Step number that the server expects next, where it says so.
        step: Number of the step concerned; 0 = none.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str = "",
        expected_step: int | None = None,
        step: int = 0,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.expected_step = expected_step
        self.step = step


class UnavailableError(SequenceError):
    """No answer within ``retry_for_s``; the step may or may not have been applied.

    The sequence holds on to its unanswered steps: ``retry()`` sends them again.
    """


class SequenceGoneError(SequenceError):
    """The sequence is no longer alive; ``reason`` says how it ended."""


class StateLostError(SequenceError):
    """The server has lost steps that it had acknowledged, or cannot trust what it stored."""


class StepConflictError(SequenceError):
    """The step number does not fit: somebody else has moved the sequence, or it is another one."""


class ModelFailedError(SequenceError):
    """The model failed on this input; the sequence is as it was before the step."""


class UnknownModelError(SequenceError):
    """The server does not serve this model."""


class InvalidInputError(SequenceError, ValueError):
    """The input or the request does not fit the model."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a stream or a call ended without the answer.

    Attributes:
        code: Name of the gRPC status; "" = only a text came.
        message: The text.
        reason: See :class:`SequenceError`.
        expected_step: See :class:`SequenceError`.
        retry_after_s: When to try again, by the server's estimate.
    """

    code: str
    message: str
    reason: str = ""
    expected_step: int | None = None
    retry_after_s: float | None = None


class Hope(enum.Enum):
    """Whether trying again may help."""

    GOOD = "good"  # it passes: a restart, a full queue, a lost connection
    FAINT = "faint"  # a broken connection often looks like this, but a broken server does too
    NONE = "none"


_GOOD_CODES = {"OK", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED"}
_FAINT_CODES = {"INTERNAL", "UNKNOWN"}
_GOOD_REASONS = {
    *("unavailable", "instance_gone", "conflict", "sequence_limit", "step_queue_full"),
    *("queue_full", "draining", "queue_timeout", "deadline_exceeded", "storage_full"),
    *("store_unavailable", "step_cancelled"),
}
_TOO_LARGE = "larger than"  # in the text of every gRPC library that refuses a message for its size


def hope(failure: Failure) -> Hope:
    """Tell whether the same request may succeed later."""
    if failure.reason in _GOOD_REASONS:
        return Hope.GOOD
    if failure.code == "RESOURCE_EXHAUSTED" and not failure.reason:
        return Hope.NONE if _TOO_LARGE in failure.message else Hope.GOOD
    if failure.code in _GOOD_CODES:
        return Hope.GOOD
    if failure.code in _FAINT_CODES and not failure.reason:
        return Hope.FAINT
    return Hope.NONE


_GONE = {
    *("unknown_sequence", "sequence_recreated", "ended", "expired", "evicted"),
    *("cancelled", "displaced", "failed", "rolled_back", "lost"),
}
_CONFLICT = {
    *("step_gap", "step_already_applied", "step_taken", "request_id_reused", "sequence_exists"),
    "conflict",
}
_MODEL = {"model_failed", "non_finite_state", "bad_model_output"}


def _kind(failure: Failure) -> type[SequenceError]:
    """Return the class of the error that tells of a failure nothing can be done about."""
    code, reason = failure.code, failure.reason
    if reason == "data_loss" or code == "DATA_LOSS":
        return StateLostError
    if reason in _CONFLICT:
        return StepConflictError
    if reason in _GONE:
        return SequenceGoneError
    if reason in _MODEL:
        return ModelFailedError
    if reason == "unknown_model" or (code == "NOT_FOUND" and not reason):
        return UnknownModelError
    if code == "INVALID_ARGUMENT":
        return InvalidInputError
    return SequenceError


def refusal(failure: Failure, where: str, step: int = 0) -> SequenceError:
    """Return the error for a failure that is final.

    Args:
        failure: What happened.
        where: What it happened to, for people: ``sequence 'a' of model 'm'``.
        step: Number of the step concerned.
    """
    what = f"{where}, step {step}" if step else where
    message = f"{what}: {failure.message or failure.code}"
    if failure.reason == "step_already_applied":
        message += " (if this client sent it: its window is larger than the model's receipts)"
    return _kind(failure)(
        message,
        code=failure.code,
        reason=failure.reason,
        expected_step=failure.expected_step,
        step=step,
    )


def gave_up(failure: Failure, where: str, step: int, waited_s: float) -> UnavailableError:
    """Return the error for a step whose outcome could not be learnt in time."""
    text = failure.message or failure.code
    return UnavailableError(
        f"{where}, step {step}: no answer for {waited_s:.1f} s, and it is not known whether the "
        f"step was applied; retry() sends it again. Last seen: {text}",
        code=failure.code if failure.code not in {"", "OK"} else "UNAVAILABLE",
        reason=failure.reason,
        expected_step=failure.expected_step,
        step=step,
    )
