"""The table of errors is complete."""

from __future__ import annotations

import pytest

import legato.archive.sequence
import legato.engine.refusals
import legato.engine.suspicion
import legato.recorder.frames
from legato.core import errors as core
from legato.core.types import Ending, EndReason
from legato.protocols.sequences.errors import CASES, case_of, problem_of, rpc_error


def kinds(kind=core.ServerError) -> set:
    """Every error of the server that a call may meet."""
    found = {kind}
    for child in kind.__subclasses__():
        if child.__module__.startswith("legato."):
            found |= kinds(child)
    return found


def test_every_error_is_mapped() -> None:
    """Those of the core, the engine, the archive and the recorder, and no others."""
    assert {kind.code for kind in kinds()} == set(CASES)
    assert {kind.__module__ for kind in kinds()} >= {
        legato.archive.sequence.__name__, legato.engine.refusals.__name__,
        legato.recorder.frames.__name__,
    }  # fmt: skip


@pytest.mark.parametrize("code", sorted(CASES))
def test_whose_turn_it_is_shows_in_the_status(code) -> None:
    """The client's: 4xx; the server's: 5xx; wait: 429 or 503 with a time, where one is known."""
    kind = next(kind for kind in kinds() if kind.code == code)
    case = CASES[code]

    assert case.status != 0
    if issubclass(kind, core.BusyError):
        assert case.http_status in (429, 503)
    elif issubclass(kind, core.ClientError):
        assert 400 <= case.http_status < 500
    else:
        assert case.http_status in (409, 499, 500, 503, 504)


def test_a_problem_says_what_is_known() -> None:
    """Text, code, step, time and ending."""
    error = core.UnknownSequenceError(7, Ending(EndReason.ROLLED_BACK, 3, 1.0), 2.0)
    busy = core.BusyError("later", retry_after_s=0.0501)

    assert problem_of(error).status == "rolled_back"
    assert problem_of(core.UnknownSequenceError(7)).status == "unknown"
    assert problem_of(busy).retry_after_s == 0.0501
    assert dict(rpc_error(busy).trailers) == {
        "legato-reason": "unavailable",
        "legato-retry-after-ms": "51",
    }
    assert dict(rpc_error(core.StepGapError(5, 3)).trailers)["legato-expected-step"] == "3"


def test_an_error_that_nobody_foresaw_is_internal() -> None:
    """Better than none."""

    class StrangeError(core.ServerError):
        code = "strange"

    assert case_of(StrangeError("?")).http_status == 500
