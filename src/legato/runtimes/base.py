"""The contract of every runtime: one model call over a batch of rows.

A runtime never writes state in place: it returns the next state, so that a
step which was not committed may run again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from legato.core.types import (
        Array,
        CorrelationId,
        EndReason,
        OutputHeader,
        Signature,
        StateRow,
    )

    Answer = tuple[tuple[OutputHeader, ...], tuple[bytes, ...]]


AGAIN = "legato_again"
"""Parameter of a row that is run again: how often it was run before."""


class Partial:
    """Takes answers of a row that are not its last, while the call goes on.

    Attributes:
        used: Something was sent; the row must not be run again, or the client gets it twice.
    """

    def __init__(self, send: Callable[[bytes, dict[str, Any]], None]) -> None:
        self._send = send
        self.used = False

    def __call__(self, body: bytes, meta: dict[str, Any]) -> None:
        """Send an answer; from any thread."""
        self.used = True
        self._send(body, meta)


class Asked(NamedTuple):
    """What a model may know of the request behind a row, where its signature ``asks``.

    Attributes:
        request_id: The client's name for it.
        outputs: Outputs asked for; empty = all.
        priority: 0 = default, 1 = highest.
        timeout_us: Microseconds it may wait in a queue; 0 = no limit.
        cancelled: Tells whether the client has given it up; from any thread, until it is answered.
        finish: Takes the last answer, or why there is none, of a row that was said to be
            answered later; from any thread. ``None`` = it must be answered in the call.
    """

    request_id: str
    outputs: tuple[str, ...]
    priority: int
    timeout_us: int
    cancelled: Callable[[], bool]
    finish: Callable[[Answer | Exception], None] | None = None


class RowInfo(NamedTuple):
    """What a model may know of a row of the batch."""

    correlation_id: CorrelationId
    step: int
    start: bool
    end: bool
    parameters: Mapping[str, Any]
    partial: Partial | None = None
    asked: Asked | None = None


@dataclass(frozen=True, slots=True)
class StepBatch:
    """One model call. Row ``i`` lies at index ``i`` of every batch axis.

    Attributes:
        inputs: Data, scalar and control inputs by name. A WINDOW state is already
            put before its data input.
        state: State by the *state's name*, rows side by side on its batch axis.
            WINDOW states are not here: the engine keeps them.
        rows: One entry a row.
        held: The rows' states as they were committed, where the runtime is ``resident``;
            ``state`` is then empty.
    """

    inputs: Mapping[str, Array]
    state: Mapping[str, Array]
    rows: tuple[RowInfo, ...]
    held: Sequence[StateRow] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a model call gave.

    Attributes:
        outputs: Output name to array, same row order.
        state: State name to the output that feeds it (before its update rule),
            same row order. WRITE_ONCE states are read at the first step only.
        failed: Row to its error; the other rows are valid.
        again: Row to an answer that is not its last: what this call gave is committed, the
            answer goes out, and the same request is run again as a further step.
        over: Rows whose sequence ends with this step by the model's own word.
        bound: Rows part of whose state the instance has in its memory alone.
        answers: Headers and data of each row, where the rows of a call may differ in what they
            have; ``outputs`` is then empty.
        later: Rows that are answered after the call, and what stands for each until then.
        lasting: The arrays stay what they are when the model is called again, and may be kept.
    """

    outputs: Mapping[str, Array]
    state: Mapping[str, Array]
    failed: Mapping[int, Exception] = field(default_factory=dict)
    again: Mapping[int, tuple[bytes, dict[str, Any]]] = field(default_factory=dict)
    over: Collection[int] = ()
    bound: Collection[int] = ()
    answers: Sequence[Answer] | None = None
    later: Mapping[int, Any] = field(default_factory=dict)
    lasting: bool = False


class Runtime(Protocol):
    """A loaded model on one device.

    ``step`` blocks and may be called from any thread, one call at a time. A runtime that
    is costly to examine may also have ``clone() -> Runtime``: further instances are then
    made by it and not by loading again. One that keeps states on its device has a ``resident``
    that is not ``None``: where states are replaced whole, it then gets ``StepBatch.held``, and
    after each call ``keep(rows)`` tells it the rows that its next states became.
    """

    signature: Signature

    def step(self, batch: StepBatch) -> StepResult:
        """Run the model once and return the next state without storing it.

        Safe to repeat: the batch is not modified and nothing outside the result
        changes. Outputs may be views that stay valid until the next call.

        Raises:
            Exception: Any error of the model; no row is valid.
        """

    def sequence_ended(self, correlation_id: CorrelationId, reason: EndReason) -> None:
        """A sequence of this model is over (hook for Python models; usually nothing)."""

    def close(self) -> None:
        """Free the model."""
