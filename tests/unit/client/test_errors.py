"""Which failures are tried again, and what the others are called."""

from __future__ import annotations

import pytest

from legato.client.errors import (
    Failure,
    Hope,
    InvalidInputError,
    ModelFailedError,
    SequenceError,
    SequenceGoneError,
    StateLostError,
    StepConflictError,
    UnknownModelError,
    gave_up,
    hope,
    refusal,
)


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        ("UNAVAILABLE", "", Hope.GOOD),
        ("UNAVAILABLE", "draining", Hope.GOOD),
        ("DEADLINE_EXCEEDED", "", Hope.GOOD),
        ("CANCELLED", "step_cancelled", Hope.GOOD),
        ("RESOURCE_EXHAUSTED", "storage_full", Hope.GOOD),
        ("RESOURCE_EXHAUSTED", "", Hope.GOOD),
        ("ABORTED", "conflict", Hope.GOOD),
        ("", "step_queue_full", Hope.GOOD),
        ("OK", "", Hope.GOOD),
        ("INTERNAL", "", Hope.FAINT),
        ("UNKNOWN", "", Hope.FAINT),
        ("INTERNAL", "model_failed", Hope.NONE),
        ("ABORTED", "step_taken", Hope.NONE),
        ("INVALID_ARGUMENT", "cancelled", Hope.NONE),
        ("UNAUTHENTICATED", "", Hope.NONE),
        ("", "", Hope.NONE),
    ],
)
def test_hope_is_where_the_same_request_may_succeed(code, reason, expected) -> None:
    """A reason decides before a status; a sequence that was cancelled stays so."""
    assert hope(Failure(code, "text", reason)) is expected


def test_message_that_is_too_large_stays_too_large() -> None:
    """Its status is that of a full queue, its text is not."""
    text = "a message of 9 bytes is larger than the limit of 5 bytes"

    assert hope(Failure("RESOURCE_EXHAUSTED", text)) is Hope.NONE


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        ("DATA_LOSS", "data_loss", StateLostError),
        ("FAILED_PRECONDITION", "step_gap", StepConflictError),
        ("ABORTED", "step_taken", StepConflictError),
        ("INVALID_ARGUMENT", "request_id_reused", StepConflictError),
        ("INVALID_ARGUMENT", "expired", SequenceGoneError),
        ("INVALID_ARGUMENT", "unknown_sequence", SequenceGoneError),
        ("NOT_FOUND", "sequence_recreated", SequenceGoneError),
        ("INTERNAL", "non_finite_state", ModelFailedError),
        ("NOT_FOUND", "unknown_model", UnknownModelError),
        ("INVALID_ARGUMENT", "invalid_input", InvalidInputError),
        ("PERMISSION_DENIED", "", SequenceError),
    ],
)
def test_final_failures_have_a_class_each(code, reason, kind) -> None:
    """The facts that the server told are attributes."""
    error = refusal(Failure(code, "text", reason, expected_step=4), "sequence 'a'", 5)

    assert type(error) is kind
    assert (error.code, error.reason, error.expected_step, error.step) == (code, reason, 4, 5)
    assert "sequence 'a', step 5: text" in str(error)


def test_reply_that_is_no_longer_kept_hints_at_the_window() -> None:
    """The usual cause is a window larger than the model's receipts."""
    failure = Failure("FAILED_PRECONDITION", "already applied", "step_already_applied")

    assert "window is larger" in str(refusal(failure, "sequence 'a'", 2))


def test_giving_up_says_what_is_not_known() -> None:
    """Nobody is left to guess whether the step was applied."""
    error = gave_up(Failure("OK", "the server closed the stream"), "sequence 'a'", 3, 60.0)

    assert error.code == "UNAVAILABLE"
    assert "it is not known whether the step was applied" in str(error)
    assert "the server closed the stream" in str(error)
