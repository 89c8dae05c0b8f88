"""Errors as clients of OpenVINO Model Server know them: gRPC status, HTTP status, text.

Users match on its texts, so those are given to the letter, with details behind `` - ``.
What else is known (the reason, the step expected next, when to try again) travels
beside the text, as gRPC trailers and HTTP headers. Cases that it does not know have
their usual statuses and our own sentence.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from legato.core.errors import (
    InputError,
    SequenceExistsError,
    ServerError,
    UnknownModelError,
    UnknownSequenceError,
)
from legato.protocols.rpc.service import RpcError, Status
from legato.protocols.tfserving.datatypes import word_of_numpy

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.core.types import Step
    from legato.protocols.tfserving.ports import EnginePort

REASON: Final = "legato-reason"
EXPECTED_STEP: Final = "legato-expected-step"
RETRY_AFTER_MS: Final = "legato-retry-after-ms"
DETAIL: Final = "legato-detail"
_LONGEST_DETAIL: Final = 300


class Words(NamedTuple):
    """Statuses and text of one case; details are put behind the text."""

    status: Status
    http_status: int
    text: str

    def refusal(self, detail: str = "") -> RefusalError:
        """Return the exception that answers a request with this."""
        return RefusalError(self, detail)


class RefusalError(Exception):
    """A request that is wrong before it becomes a step, or asks for what is not there."""

    def __init__(self, words: Words, detail: str = "") -> None:
        self.words = words
        self.message = f"{words.text} - {detail}" if detail else words.text
        super().__init__(self.message)


class StillLoadingError(RefusalError):
    """The model is not there yet, and soon will be: worth a little wait."""


# -- sequences ------------------------------------------------------------------------------

SEQUENCE_MISSING: Final = Words(Status.NOT_FOUND, 404, "Sequence with provided ID does not exist")
SEQUENCE_EXISTS: Final = Words(
    Status.ALREADY_EXISTS, 409, "Sequence with provided ID already exists"
)
MOST_SEQUENCES: Final = Words(
    Status.UNAVAILABLE,
    503,
    "Max sequence number has been reached. Could not create new sequence.",
)
ID_MISSING: Final = Words(
    Status.INVALID_ARGUMENT, 400, "Sequence ID has not been provided in request inputs"
)
BAD_CONTROL: Final = Words(
    Status.INVALID_ARGUMENT, 400, "Unexpected value of sequence control input"
)
ID_TYPE: Final = Words(
    Status.INVALID_ARGUMENT,
    400,
    "Could not find sequence id in expected tensor proto field uint64_val",
)
CONTROL_TYPE: Final = Words(
    Status.INVALID_ARGUMENT,
    400,
    "Could not find sequence control input in expected tensor proto field uint32_val",
)
NO_SHAPE: Final = Words(
    Status.INVALID_ARGUMENT, 400, "Special input proto does not contain tensor shape information"
)
STATE_MISFIT: Final = Words(Status.INTERNAL, 500, "Internal server error")
"""The model is not the one that wrote the state."""

# -- inputs -----------------------------------------------------------------------------------

INPUT_COUNT: Final = Words(Status.INVALID_ARGUMENT, 400, "Invalid number of inputs")
INPUT_MISSING: Final = Words(Status.INVALID_ARGUMENT, 400, "Missing input with specific name")
PRECISION: Final = Words(Status.INVALID_ARGUMENT, 400, "Invalid input precision")
RANK: Final = Words(Status.INVALID_ARGUMENT, 400, "Invalid number of shape dimensions")
BATCH: Final = Words(Status.INVALID_ARGUMENT, 400, "Invalid input batch size")
SHAPE: Final = Words(Status.INVALID_ARGUMENT, 400, "Invalid input shape")
CONTENT_SIZE: Final = Words(Status.INVALID_ARGUMENT, 400, "Invalid content size of tensor proto")
VALUE_COUNT: Final = Words(
    Status.INVALID_ARGUMENT, 400, "Invalid number of values in tensor proto container"
)

# -- models -------------------------------------------------------------------------------------

MODEL_MISSING: Final = Words(Status.NOT_FOUND, 404, "Model with requested name is not found")
PIPELINE_MISSING: Final = Words(Status.NOT_FOUND, 404, "Pipeline with requested name is not found")
"""What gRPC Predict says of an unknown model."""
VERSION_MISSING: Final = Words(Status.NOT_FOUND, 404, "Model with requested version is not found")
VERSION_RETIRED: Final = Words(Status.NOT_FOUND, 404, "Model with requested version is retired")
NOT_LOADED: Final = Words(Status.UNAVAILABLE, 404, "Model with requested version is not loaded yet")
INFERENCE: Final = Words(Status.INTERNAL, 500, "Internal inference error")
BAD_SIGNATURE: Final = Words(Status.INVALID_ARGUMENT, 400, "Invalid signature name")
NO_SPEC: Final = Words(Status.INVALID_ARGUMENT, 400, "model_spec missing in request")

# -- REST ---------------------------------------------------------------------------------------

NO_JSON: Final = Words(Status.INVALID_ARGUMENT, 412, "The file is not valid json")
NO_OBJECT: Final = Words(Status.INVALID_ARGUMENT, 400, "Request body should be JSON object")
NO_FORMAT: Final = Words(
    Status.INVALID_ARGUMENT,
    400,
    "Invalid JSON structure. Could not detect row or column format",
)
NO_INPUTS_OBJECT: Final = Words(
    Status.INVALID_ARGUMENT, 400, "Invalid JSON structure. One of inputs is not a JSON object."
)
NO_INPUTS: Final = Words(Status.INVALID_ARGUMENT, 400, "Invalid JSON structure, missing inputs")
NO_NDARRAY: Final = Words(
    Status.INVALID_ARGUMENT, 400, "Could not parse input content. Not valid ndarray detected"
)
NO_INSTANCE_NDARRAY: Final = Words(
    Status.INVALID_ARGUMENT, 400, "Could not parse instance content. Not valid ndarray detected"
)
NO_INSTANCES: Final = Words(
    Status.INVALID_ARGUMENT, 400, "Invalid JSON structure. Missing instances in row format"
)
OTHER_BATCHES: Final = Words(
    Status.INVALID_ARGUMENT,
    400,
    "Invalid JSON structure. Request inputs have different batch sizes",
)
UNNAMED: Final = Words(
    Status.INVALID_ARGUMENT, 400, "Inputs inside buffer does not match expected format."
)
NO_RESOURCE: Final = Words(Status.NOT_FOUND, 404, "Requested REST resource not found")
BAD_METHOD: Final = Words(Status.UNIMPLEMENTED, 406, "Unsupported method")
BAD_URL: Final = Words(Status.INVALID_ARGUMENT, 400, "Invalid request URL")

# -- answers to steps ---------------------------------------------------------------------------


class Failure(NamedTuple):
    """An error in the words of this protocol, with what travels beside the text."""

    status: Status
    http_status: int
    message: str
    extra: tuple[tuple[str, str], ...] = ()

    def headers(self) -> dict[str, str]:
        """Return the trailers as HTTP headers, with Retry-After in whole seconds."""
        headers = dict(self.extra)
        if RETRY_AFTER_MS in headers:
            headers["retry-after"] = str(max(1, math.ceil(int(headers[RETRY_AFTER_MS]) / 1000)))
        return headers


class _Case(NamedTuple):
    """One row of the table; a text of ``None`` is the error's own sentence."""

    status: Status
    http_status: int
    text: str | None = None


def _of(words: Words) -> _Case:
    return _Case(words.status, words.http_status, words.text)


CASES: Final[dict[str, _Case]] = {
    "internal": _Case(Status.INTERNAL, 500),
    "invalid_argument": _Case(Status.INVALID_ARGUMENT, 400),
    "unavailable": _Case(Status.UNAVAILABLE, 503),
    "conflict": _Case(Status.ABORTED, 409),
    "instance_gone": _Case(Status.UNAVAILABLE, 503),
    "data_loss": _Case(Status.DATA_LOSS, 500),
    "unknown_model": _of(MODEL_MISSING),
    # "The stored state lacks a variable of the model"
    "model_changed": _of(STATE_MISFIT),
    "state_full": _Case(Status.FAILED_PRECONDITION, 412),
    "invalid_input": _Case(Status.INVALID_ARGUMENT, 400),
    "missing_correlation_id": _of(ID_MISSING),
    "unknown_sequence": _of(SEQUENCE_MISSING),
    "sequence_exists": _of(SEQUENCE_EXISTS),
    "step_gap": _Case(Status.FAILED_PRECONDITION, 409),
    "step_already_applied": _Case(Status.FAILED_PRECONDITION, 409),
    "step_taken": _Case(Status.ABORTED, 409),
    "request_id_reused": _Case(Status.INVALID_ARGUMENT, 400),
    # There, sequences belong to a version: no other one knows them.
    "other_version": _of(SEQUENCE_MISSING),
    "sequence_recreated": _of(SEQUENCE_MISSING),
    "sequence_limit": _of(MOST_SEQUENCES),
    "step_queue_full": _Case(Status.RESOURCE_EXHAUSTED, 429),
    "queue_full": _Case(Status.RESOURCE_EXHAUSTED, 429),
    "draining": _Case(Status.UNAVAILABLE, 503),
    "queue_timeout": _Case(Status.UNAVAILABLE, 503),
    "deadline_exceeded": _Case(Status.DEADLINE_EXCEEDED, 504),
    "cancelled": _Case(Status.CANCELLED, 499),
    "model_failed": _of(INFERENCE),
    "state_lost": _Case(Status.UNAVAILABLE, 503),
    "non_finite_state": _of(INFERENCE),
    "bad_model_output": _of(INFERENCE),
    "storage_full": _Case(Status.RESOURCE_EXHAUSTED, 503),
    "store_unavailable": _Case(Status.UNAVAILABLE, 503),
}
"""Code of a core error to its statuses and text."""

HTTP_STATUS: Final = {
    Status.UNIMPLEMENTED: 501,
    Status.INTERNAL: 500,
    Status.UNAVAILABLE: 503,
    Status.RESOURCE_EXHAUSTED: 429,
}
"""HTTP status of an error that has only a gRPC status; 400 for those not listed."""


def failure(
    error: ServerError | RpcError | RefusalError, step: Step, engine: EnginePort
) -> Failure:
    """Return an error in the words of this protocol."""
    if isinstance(error, RefusalError):
        return Failure(error.words.status, error.words.http_status, error.message)
    if isinstance(error, RpcError):
        return Failure(error.status, HTTP_STATUS.get(error.status, 400), error.message)
    if isinstance(error, SequenceExistsError) and engine.room(step.model) is not None:
        error_case = CASES["sequence_limit"]  # a full table is told before a taken id
    elif isinstance(error, UnknownModelError) and error.version:
        error_case = _of(VERSION_MISSING)
    else:
        error_case = CASES.get(error.code, CASES["internal"])
    text = error_case.text or error.message
    if isinstance(error, InputError):
        text = _input_text(error)
    return Failure(error_case.status, error_case.http_status, text, _beside(error, text))


def _beside(error: ServerError, text: str) -> tuple[tuple[str, str], ...]:
    """Return what goes beside the text: reason, expected step, wait, and our own sentence."""
    reason = error.code
    if isinstance(error, UnknownSequenceError) and error.ending is not None:
        reason = error.ending.reason.name.lower()
    pairs = [(REASON, reason)]
    if error.expected_step is not None:
        pairs.append((EXPECTED_STEP, str(error.expected_step)))
    if error.retry_after_s is not None:
        pairs.append((RETRY_AFTER_MS, str(math.ceil(error.retry_after_s * 1000))))
    if error.message != text:
        plain = error.message.encode("ascii", "replace").decode()
        pairs.append((DETAIL, " ".join(plain.split())[:_LONGEST_DETAIL]))
    return tuple(pairs)


# -- inputs that the engine refused -----------------------------------------------------------


def shape_text(shape: object) -> str:
    """Write a shape as texts have it: ``(1,10)``."""
    if not isinstance(shape, tuple | list):
        return str(shape)
    return f"({','.join(map(str, shape))})"


def _input_text(error: InputError) -> str:
    """Tell an input that did not fit the version its sequence is pinned to."""
    named = f"input name: {error.tensor}"
    writers: dict[str, Callable[[], RefusalError]] = {
        "missing": lambda: INPUT_MISSING.refusal(f"Required input: {error.tensor}"),
        "dtype": lambda: PRECISION.refusal(
            f"Expected: {word_of_numpy(str(error.expected))}; "
            f"Actual: {word_of_numpy(str(error.got))}; {named}"
        ),
        "shape": lambda: SHAPE.refusal(
            f"Expected: {shape_text(error.expected)}; Actual: {shape_text(error.got)}; {named}"
        ),
        "batch": lambda: BATCH.refusal(
            f"Expected: {shape_text(error.expected)}; Actual: {shape_text(error.got)}; {named}"
        ),
    }
    writer = writers.get(error.reason)
    return error.message if writer is None else writer().message
