"""The table of errors is complete, and Model Server's texts are kept to the letter."""

from __future__ import annotations

import pytest

from legato.core import errors as core
from legato.core.types import TFSERVING, Ending, EndReason, Step
from legato.protocols.rpc.service import RpcError, Status
from legato.protocols.tfserving.errors import CASES, failure


def all_subclasses(kind):
    found = {kind}
    for child in kind.__subclasses__():
        found |= all_subclasses(child)
    return found


def told(error, engine):
    return failure(error, Step("m", 7, {}, TFSERVING), engine)


def test_every_core_error_has_a_case() -> None:
    """Each code of each ServerError of the core stands in the table, and nothing else does."""
    kinds = {kind for kind in all_subclasses(core.ServerError) if kind.__module__ == core.__name__}

    assert {kind.code for kind in kinds} == set(CASES)


@pytest.mark.parametrize(
    ("error", "status", "http_status", "text"),
    [
        (core.UnknownSequenceError(7), 5, 404, "Sequence with provided ID does not exist"),
        (core.RecreatedError(7), 5, 404, "Sequence with provided ID does not exist"),
        (core.OtherVersionError(7, "1"), 5, 404, "Sequence with provided ID does not exist"),
        (core.SequenceExistsError(7, 3), 6, 409, "Sequence with provided ID already exists"),
        (
            core.SequenceLimitError("m", 1),
            14,
            503,
            "Max sequence number has been reached. Could not create new sequence.",
        ),
        (
            core.MissingIdError("m"),
            3,
            400,
            "Sequence ID has not been provided in request inputs",
        ),
        (core.ModelError("boom"), 13, 500, "Internal inference error"),
        (core.PoisonError("NaN"), 13, 500, "Internal inference error"),
        (core.UnknownModelError("m"), 5, 404, "Model with requested name is not found"),
        (core.UnknownModelError("m", "3"), 5, 404, "Model with requested version is not found"),
        (
            core.InputError("x", reason="missing", tensor="x"),
            3,
            400,
            "Missing input with specific name - Required input: x",
        ),
        (
            core.InputError("x", reason="dtype", tensor="x", expected="float32", got="int32"),
            3,
            400,
            "Invalid input precision - Expected: FP32; Actual: I32; input name: x",
        ),
        (
            core.InputError("x", reason="shape", tensor="x", expected=(1, 10), got=(1, 11)),
            3,
            400,
            "Invalid input shape - Expected: (1,10); Actual: (1,11); input name: x",
        ),
        (core.InputError("own words", reason="value", tensor="x"), 3, 400, "own words"),
        (core.StepGapError(9, 4), 9, 409, core.StepGapError(9, 4).message),
        (core.DeadlineError(), 4, 504, core.DeadlineError().message),
        (core.StorageFullError("no room"), 8, 503, "no room"),
        (RpcError(Status.INTERNAL, "odd"), 13, 500, "odd"),
    ],
)
def test_texts_and_statuses(engine, error, status, http_status, text) -> None:
    """As Model Server has them; our own sentence where it has none."""
    found = told(error, engine)

    assert (int(found.status), found.http_status, found.message) == (status, http_status, text)


def test_a_full_table_is_told_before_a_taken_id(engine) -> None:
    """Model Server looks for room first."""
    engine.full = core.SequenceLimitError("m", 1)

    found = told(core.SequenceExistsError(7, 3), engine)

    assert found.status is Status.UNAVAILABLE
    assert found.message.startswith("Max sequence number has been reached.")


def test_what_is_known_travels_beside_the_text(engine) -> None:
    """The reason, the step expected next, our own sentence."""
    ended = core.UnknownSequenceError(7, Ending(EndReason.EXPIRED, 3, 0.0))

    assert dict(told(ended, engine).extra)["legato-reason"] == "expired"
    assert dict(told(core.StepGapError(9, 4), engine).extra)["legato-expected-step"] == "4"
    assert "no live sequence" in dict(told(ended, engine).extra)["legato-detail"]


def test_details_fit_a_header(engine) -> None:
    """One line of plain characters, and not a long one."""
    error = core.ModelError("ümläut\nsecond line " + "x" * 1000)

    detail = dict(told(error, engine).extra)["legato-detail"]

    assert detail.isascii()
    assert "\n" not in detail
    assert len(detail) <= 300


def test_http_says_when_to_try_again(engine) -> None:
    """In whole seconds, and never 0."""
    found = told(core.SequenceLimitError("m", 1, retry_after_s=0.2), engine)

    assert found.headers()["retry-after"] == "1"
    assert found.headers()["legato-retry-after-ms"] == "200"
