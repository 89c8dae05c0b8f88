"""The table of errors is complete, and Triton's texts are kept to the letter."""

from __future__ import annotations

import numpy as np
import pytest

from legato.core import errors as core
from legato.core.types import KSERVE, Ending, EndReason, Step
from legato.protocols.kserve.errors import CASES, failure
from legato.protocols.rpc.service import RpcError, Status


def all_subclasses(kind):
    found = {kind}
    for child in kind.__subclasses__():
        found |= all_subclasses(child)
    return found


def test_every_core_error_has_a_case() -> None:
    """Each code of each ServerError of the core stands in the table, and nothing else does."""
    kinds = {kind for kind in all_subclasses(core.ServerError) if kind.__module__ == core.__name__}

    codes = {kind.code for kind in kinds}

    assert codes == set(CASES)


@pytest.mark.parametrize(
    ("error", "status", "http_status", "text"),
    [
        (
            core.MissingIdError("m"),
            Status.INVALID_ARGUMENT,
            400,
            "inference request to model 'm' must specify a non-zero or non-empty correlation ID",
        ),
        (
            core.UnknownSequenceError(7),
            Status.INVALID_ARGUMENT,
            400,
            (
                "inference request for sequence 7 to model 'm' must specify the START flag on the "
                "first request of the sequence"
            ),
        ),
        (
            core.InputError("x", reason="batch", tensor="X"),
            Status.INVALID_ARGUMENT,
            400,
            (
                "inference request to model 'm' must specify batch-size 1 due to requirements of "
                "sequence batcher"
            ),
        ),
        (
            core.BacklogTimeoutError("x"),
            Status.UNAVAILABLE,
            503,
            "timeout of the corresponding sequence has been expired",
        ),
        (
            core.DrainingError(),
            Status.UNAVAILABLE,
            503,
            "Server is stopping, scheduler for model has stopped accepting new inference requests",
        ),
        (core.CancelledStepError(), Status.CANCELLED, 499, ""),
        (
            core.UnknownModelError("m"),
            Status.NOT_FOUND,
            404,
            "Request for unknown model: 'm' is not found",
        ),
        (
            core.UnknownModelError("m", "9"),
            Status.NOT_FOUND,
            404,
            "Request for unknown model: 'm' version 9 is not found",
        ),
        (
            core.UnknownModelError("m", unloaded=True),
            Status.NOT_FOUND,
            404,
            "Request for unknown model: 'm' has no available versions",
        ),
        (
            core.InputError("x", reason="dtype", tensor="X", expected="float32", got="float64"),
            Status.INVALID_ARGUMENT,
            400,
            "[request id: r] inference input 'X' data-type is 'FP64', but model 'm' expects 'FP32'",
        ),
        (
            core.InputError("x", reason="unknown", tensor="X"),
            Status.INVALID_ARGUMENT,
            400,
            "unexpected inference input 'X' for model 'm'",
        ),
        (
            core.InputError("x", reason="unknown_output", tensor="X"),
            Status.INVALID_ARGUMENT,
            400,
            "unexpected inference output 'X' for model 'm'",
        ),
        (
            core.InputError("x", reason="no_data", tensor="X"),
            Status.INVALID_ARGUMENT,
            400,
            "unable to find data for input tensor 'X' for model 'm' in request.",
        ),
    ],
)
def test_known_cases_have_tritons_words(engine, error, status, http_status, text) -> None:
    """Users match on these texts."""
    step = Step("m", 7, {}, KSERVE, request_id="r")

    what = failure(error, step, engine)

    assert (what.status, what.http_status, what.message) == (status, http_status, text)


def test_wrong_shape_shows_the_batch_dimension_as_open(engine) -> None:
    """The expected shape reads as in the metadata, and without an id the marker says so."""
    error = core.InputError("x", reason="shape", tensor="INPUT", expected=(1, 1), got=(1, 2))

    text = failure(error, Step("accumulator", 7, {}, KSERVE), engine).message

    assert text.startswith(
        "[request id: <id_unknown>] unexpected shape for input 'INPUT' for model 'accumulator'. "
        "Expected [-1,1], got [1,2]. "
    )


def test_missing_input_names_what_came_and_what_is_missing(engine) -> None:
    """The count error lists inputs given and required."""
    error = core.InputError("x", reason="missing", tensor="INPUT")
    step = Step("accumulator", 7, {"A": np.zeros(1)}, KSERVE, request_id="r")

    text = failure(error, step, engine).message

    assert text == (
        "[request id: r] expected 1 inputs but got 1 inputs for model 'accumulator'. Got input(s) "
        "['A'], but missing required input(s) ['INPUT']. Please provide all required input(s)."
    )


def test_reason_of_an_ended_sequence_travels_beside_the_text(engine) -> None:
    """The START text is the same for all causes; the trailer tells them apart."""
    ending = Ending(EndReason.EXPIRED, 3, 0.0)

    what = failure(core.UnknownSequenceError(7, ending), Step("m", 7, {}, KSERVE), engine)

    assert dict(what.trailers()) == {"legato-reason": "expired"}


def test_cancelled_sequence_and_dropped_step_have_different_reasons(engine) -> None:
    """The first will never take a step again, the second may simply be sent again."""
    ending = Ending(EndReason.CANCELLED, 3, 0.0)
    step = Step("m", 7, {}, KSERVE)

    over = failure(core.UnknownSequenceError(7, ending), step, engine)
    dropped = failure(core.CancelledStepError(), step, engine)

    assert (over.reason, dropped.reason) == ("cancelled", "step_cancelled")


def test_step_errors_carry_the_expected_number(engine) -> None:
    """It stands in the text and in a trailer."""
    what = failure(core.StepGapError(9, 4), Step("m", 7, {}, KSERVE), engine)

    assert "step 4 is expected" in what.message
    assert dict(what.trailers())["legato-expected-step"] == "4"
    assert what.status is Status.FAILED_PRECONDITION


def test_busy_errors_say_when_to_come_back(engine) -> None:
    """Trailers hold milliseconds, the HTTP header whole seconds."""
    what = failure(core.StepQueueFullError(64), Step("m", 7, {}, KSERVE), engine)

    assert dict(what.trailers())["legato-retry-after-ms"] == "50"
    assert what.headers()["retry-after"] == "1"


def test_errors_of_the_protocol_keep_their_status(engine) -> None:
    """An RpcError passes with its own status, text and trailers."""
    error = RpcError(Status.UNIMPLEMENTED, "no", (("a", "b"),))

    what = failure(error, Step("m", 7, {}, KSERVE), engine)

    assert (what.http_status, what.message, what.trailers()) == (501, "no", (("a", "b"),))
