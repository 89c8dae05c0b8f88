"""Core errors in TorchServe's words."""

from __future__ import annotations

import pytest

from legato.core import errors as core
from legato.core.errors import (
    ModelError,
    SequenceLimitError,
    StepGapError,
    StepQueueFullError,
    UnknownModelError,
)
from legato.engine import refusals
from legato.engine.workers import WorkerDiedError
from legato.protocols.rpc.service import Status
from legato.protocols.torchserve.errors import CASES, failure, no_worker, rpc_status


def kinds(base):
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_every_code_has_a_case() -> None:
    """A new core error is not forgotten here."""
    rooms = ("legato.core", "legato.engine", "legato.runtimes", "legato.stores")
    found = {k.code for k in kinds(core.ServerError) if k.__module__.startswith(rooms)}

    assert refusals.NotAtStepError.code in found
    assert found <= set(CASES)


@pytest.mark.parametrize("error", [SequenceLimitError("m", 4), StepQueueFullError(10)])
def test_what_cannot_be_queued_has_the_one_text(error) -> None:
    """Users match on its phrase; which limit was hit is said behind it."""
    found = failure(error, "m")

    assert (found.status, found.kind) == (503, "ServiceUnavailableException")
    assert found.rpc is Status.INTERNAL
    assert found.message.startswith('Model "m" has no worker to serve inference request.')
    assert "maxSequenceJobQueueSize" in found.message
    assert error.message in found.message
    assert found.rpc_error().message.endswith("\nInternalServerException.()")


def test_the_refusal_names_the_version_that_was_asked_for() -> None:
    """The quote moves, as in TorchServe."""
    assert no_worker("m", "2.0").message.startswith('Model "m Version: 2.0" has no worker')


def test_an_unknown_model_is_internal_on_grpc() -> None:
    """With TorchServe's class below the text; over HTTP it is 404."""
    found = failure(UnknownModelError("m"), "m")

    assert (found.status, found.message) == (404, "Model not found: m")
    error = found.rpc_error()
    assert error.status is Status.INTERNAL
    assert error.message.splitlines()[1] == "org.pytorch.serve.archive.model.ModelNotFoundException"


def test_an_unknown_version_is_told_apart() -> None:
    """The text names both."""
    found = failure(UnknownModelError("m", "9"), "m", "9")

    assert found.message == "Model version: 9 does not exist for model: m"


def test_a_handler_that_raises_gives_the_usual_text() -> None:
    """What it raised stays in the log."""
    found = failure(ModelError("KeyError: 'secret'"), "m")

    assert (found.status, found.message) == (503, "Prediction failed")
    assert found.rpc is Status.UNAVAILABLE


@pytest.mark.parametrize(("given", "shown"), [(507, 507), (413, 507), (422, 422)])
def test_a_handler_may_choose_its_code(given: int, shown: int) -> None:
    """A worker's 413 is shown as 507."""
    error = ModelError("Out of resources")
    error.status = given

    assert (failure(error, "m").status, failure(error, "m").message) == (shown, "Out of resources")


@pytest.mark.parametrize(
    ("timed_out", "killed", "status"), [(True, False, 500), (False, True, 507), (False, False, 500)]
)
def test_a_worker_that_died_is_told(timed_out: bool, killed: bool, status: int) -> None:
    """507 for one that was killed, 500 for one that took too long, or left by itself."""
    error = WorkerDiedError("it died", timed_out=timed_out, killed=killed)

    found = failure(error, "m")

    assert (found.status, found.message) == (status, "Worker died.")


def test_the_step_expected_next_travels_beside_the_text() -> None:
    """For clients that number their steps."""
    assert ("legato-expected-step", "3") in failure(StepGapError(9, 3), "m").headers


@pytest.mark.parametrize(
    ("http", "status"),
    [
        (200, Status.OK), (400, Status.INVALID_ARGUMENT), (409, Status.ABORTED),
        (418, Status.FAILED_PRECONDITION), (503, Status.UNAVAILABLE), (507, Status.INTERNAL),
        (100, Status.UNKNOWN),
    ],
)  # fmt: skip
def test_http_codes_have_a_grpc_status(http: int, status: Status) -> None:
    """The table of spec 6.3."""
    assert rpc_status(http) is status
