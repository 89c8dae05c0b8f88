"""Everything that can go wrong, named once.

Core errors know nothing of HTTP or gRPC: each carries a stable ``code`` and the
facts of the case as attributes, and every protocol maps codes to its own
statuses and texts. The class says whose turn it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence as Seq

    from legato.core.types import Ending


class ServerError(Exception):
    """Base of all errors that may reach a client.

    Attributes:
        code: Stable, machine-readable name of the case.
        message: One sentence: what was wrong, what was expected, what to do.
        expected_step: Step number that the sequence expects next, where known.
        retry_after_s: When to try again, for errors worth retrying.
    """

    code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        expected_step: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.expected_step = expected_step
        self.retry_after_s = retry_after_s


class ClientError(ServerError):
    """The request must be changed before it can succeed."""

    code = "invalid_argument"


class BusyError(ServerError):
    """The server cannot take this now; the same request may succeed later."""

    code = "unavailable"


class ConflictError(ServerError):
    """Another node moved the sequence; the server decides again by itself."""

    code = "conflict"


class InstanceGoneError(ServerError):
    """The instance that ran the step died; the server recovers it."""

    code = "instance_gone"


class StateDamagedError(ServerError):
    """Stored state cannot be trusted; a person must look."""

    code = "data_loss"


# -- models ---------------------------------------------------------------------


class UnknownModelError(ClientError):
    """No model of this name (or version) is served."""

    code = "unknown_model"

    def __init__(self, model: str, version: str = "", *, unloaded: bool = False) -> None:
        what = f"version {version} of model '{model}'" if version else f"model '{model}'"
        super().__init__(f"{what} is not served here")
        self.model = model
        self.version = version
        self.unloaded = unloaded


class ModelChangedError(ClientError):
    """A sequence's state was written by a model with other content (D8)."""

    code = "model_changed"

    def __init__(self, model: str, *, written_by: str, served: str) -> None:
        super().__init__(
            f"the state of this sequence was written by model '{model}' with content "
            f"{written_by}, but {served} is served now; start the sequence again, or declare "
            f"'compatible_with: [{written_by}]' in the model's config if the state still fits"
        )
        self.written_by = written_by
        self.served = served


# -- inputs ---------------------------------------------------------------------


class InputError(ClientError):
    """A data input is missing, unknown, or has the wrong dtype, shape or size.

    Attributes:
        reason: ``missing``, ``unknown``, ``dtype``, ``shape``, ``size``,
            ``no_data``, ``unknown_output``, ``batch`` or ``value``.
        tensor: Name of the tensor.
        expected: What the model expects (dtype name, shape or bytes).
        got: What came.
    """

    code = "invalid_input"

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        tensor: str,
        expected: object = None,
        got: object = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.tensor = tensor
        self.expected = expected
        self.got = got


# -- sequences ------------------------------------------------------------------


class MissingIdError(ClientError):
    """A step of a stateful model names no correlation id."""

    code = "missing_correlation_id"

    def __init__(self, model: str) -> None:
        super().__init__(f"a step of stateful model '{model}' must name a correlation id")
        self.model = model


class UnknownSequenceError(ClientError):
    """No live sequence has this id; ``ending`` tells what became of the last one."""

    code = "unknown_sequence"

    def __init__(
        self, correlation_id: int | str, ending: Ending | None = None, ago_s: float | None = None
    ) -> None:
        message = f"no live sequence has the id {correlation_id!r}"
        if ending is not None:
            when = "" if ago_s is None else f" {ago_s:.1f} s ago"
            message += f": it {ending.reason.value} at step {ending.step}{when}"
        super().__init__(message + "; begin it with a START step")
        self.correlation_id = correlation_id
        self.ending = ending
        self.ago_s = ago_s


class SequenceExistsError(ClientError):
    """START names a live sequence and the dialect does not restart."""

    code = "sequence_exists"

    def __init__(self, correlation_id: int | str, step: int) -> None:
        super().__init__(
            f"sequence {correlation_id!r} is live at step {step}; end it, or ask for a restart",
            expected_step=step + 1,
        )


class StepGapError(ClientError):
    """The step number is ahead of the sequence."""

    code = "step_gap"

    def __init__(self, got: int, expected: int) -> None:
        super().__init__(
            f"step {got} is ahead of the sequence: step {expected} is expected next",
            expected_step=expected,
        )


class StepLostError(StateDamagedError):
    """The client holds an acknowledgement that the record does not have."""

    code = "data_loss"

    def __init__(self, acknowledged: int, expected: int) -> None:
        super().__init__(
            f"the client holds an acknowledgement of step {acknowledged}, but the record ends at "
            f"step {expected - 1}: acknowledged steps were lost (see the durability level)",
            expected_step=expected,
        )


class StateFullError(ClientError):
    """A growing state has its longest allowed length; the sequence can only be ended."""

    code = "state_full"

    def __init__(self, state: str, max_length: int) -> None:
        super().__init__(
            f"the step was not applied: state '{state}' would grow beyond its longest allowed "
            f"length of {max_length}; end the sequence (a last step is still answered) and begin "
            "a new one"
        )
        self.state = state
        self.max_length = max_length


class StepAppliedError(ClientError):
    """The step was applied before and its reply is no longer kept."""

    code = "step_already_applied"

    def __init__(self, got: int, expected: int) -> None:
        super().__init__(
            f"step {got} was already applied and its reply is no longer kept: "
            f"step {expected} is expected next",
            expected_step=expected,
        )


class StepTakenError(ClientError):
    """Another request has taken this step number."""

    code = "step_taken"

    def __init__(self, got: int, expected: int) -> None:
        super().__init__(
            f"step {got} was taken by another request: step {expected} is expected next",
            expected_step=expected,
        )


class RequestIdReusedError(ClientError):
    """The same step and request id came with other input, or the first without the number."""

    code = "request_id_reused"

    def __init__(self, got: int, expected: int) -> None:
        super().__init__(
            f"step {got} was applied for another request with the same request id (other input, "
            f"or sent without a number): step {expected} is expected next",
            expected_step=expected,
        )


class OtherVersionError(ClientError):
    """The step names a version, and the sequence runs on another one."""

    code = "other_version"

    def __init__(self, correlation_id: int | str, version: str) -> None:
        super().__init__(
            f"sequence {correlation_id!r} runs on version {version} until its end; "
            "name that one, or none"
        )


class RecreatedError(ClientError):
    """The id lives, but not in the incarnation that the client asked for."""

    code = "sequence_recreated"

    def __init__(self, correlation_id: int | str) -> None:
        super().__init__(f"sequence {correlation_id!r} was re-created since; begin again")


# -- limits and time --------------------------------------------------------------


class SequenceLimitError(BusyError):
    """No further sequence can be opened now."""

    code = "sequence_limit"

    def __init__(self, model: str, limit: int, retry_after_s: float = 1.0) -> None:
        super().__init__(
            f"model '{model}' has reached its limit of {limit} live sequences; "
            f"end one or try again in {retry_after_s:g} s",
            retry_after_s=retry_after_s,
        )
        self.limit = limit


class StepQueueFullError(BusyError):
    """This sequence has too many unanswered steps."""

    code = "step_queue_full"

    def __init__(self, limit: int, retry_after_s: float = 0.05) -> None:
        super().__init__(
            f"the sequence already has {limit} unanswered steps; wait for replies and try again",
            retry_after_s=retry_after_s,
        )
        self.limit = limit


class ServerBusyError(BusyError):
    """The server's own queue is full."""

    code = "queue_full"

    def __init__(self, limit: int, retry_after_s: float = 0.1) -> None:
        super().__init__(
            f"{limit} steps are already queued; try again in {retry_after_s:g} s",
            retry_after_s=retry_after_s,
        )
        self.limit = limit


class DrainingError(BusyError):
    """The server finishes what it has and takes nothing new."""

    code = "draining"

    def __init__(self) -> None:
        super().__init__("the server is stopping and takes no new steps", retry_after_s=1.0)


class BacklogTimeoutError(BusyError):
    """A queued step waited longer than its own timeout."""

    code = "queue_timeout"


class DeadlineError(ServerError):
    """The deadline passed before the step began; it was not applied."""

    code = "deadline_exceeded"

    def __init__(self) -> None:
        super().__init__("the deadline passed before the step began; it was not applied")


class CancelledStepError(ServerError):
    """The client cancelled the step before it began; it was not applied."""

    code = "cancelled"

    def __init__(self) -> None:
        super().__init__("the step was cancelled before it began; it was not applied")


# -- running and storing ------------------------------------------------------------


class ModelError(ServerError):
    """The model failed on this step; the sequence is as it was."""

    code = "model_failed"


class ModelSaysError(ModelError):
    """The model refused the step in an orderly way, and says what kind of error that is.

    Attributes:
        category: ``unknown``, ``internal``, ``not_found``, ``invalid_argument``, ``unavailable``,
            ``unsupported``, ``already_exists`` or ``cancelled``.
    """

    def __init__(self, message: str, category: str = "internal") -> None:
        super().__init__(message)
        self.category = category


class NoSlotError(BusyError):
    """The instance has no slot for a new sequence now; the engine tries again until it has."""


class StateLostError(ServerError):
    """The state of the sequence was in the memory of a worker that is gone.

    No client sees it: the engine ends the sequence and decides the step again.
    """

    code = "state_lost"


class PoisonError(ModelError):
    """The next state holds NaN or infinity; the sequence is as it was."""

    code = "non_finite_state"


class StorageFullError(BusyError):
    """The store could not write; nothing changed."""

    code = "storage_full"


class StoreUnavailableError(BusyError):
    """The outcome of the commit is not known; a retry finds the truth."""

    code = "store_unavailable"


class SignatureError(ModelError):
    """A model returned another shape, dtype or row count than declared."""

    code = "bad_model_output"


# -- start-up -------------------------------------------------------------------------


class ConfigError(Exception):
    """A start-up error: names the file, the key and the fix."""

    def __init__(self, problem: str, *, file: str = "", key: str = "", fix: str = "") -> None:
        where = ": ".join(part for part in (file, key) if part)
        super().__init__(
            (f"{where}: " if where else "") + problem + (f"\n  fix: {fix}" if fix else "")
        )
        self.problem = problem
        self.file = file
        self.key = key
        self.fix = fix


def join_names(names: Seq[str]) -> str:
    """List names for a message: ``'a', 'b'``."""
    return ", ".join(f"'{name}'" for name in names)
