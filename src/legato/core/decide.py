"""The decision table: what a step means for the record it finds.

Pure, and the only place where the rules of spec durability section 7 and the
dialects of design section 4 are applied. The engine asks it when a step reaches
the head of its sequence, so "the same request is in flight" needs no rule of its
own: the second one waits for the first and then finds its receipt (D3).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from legato.core.errors import (
    RecreatedError,
    RequestIdReusedError,
    SequenceExistsError,
    ServerError,
    StepAppliedError,
    StepGapError,
    StepLostError,
    StepTakenError,
    UnknownSequenceError,
)
from legato.core.types import StartOfLive

if TYPE_CHECKING:
    from legato.core.types import Receipt, RecordHead, Step


class Verdict(enum.Enum):
    """What to do with a step."""

    APPLY = "apply"
    CREATE = "create"
    RESTART = "restart"
    REPLAY = "replay"
    REFUSE = "refuse"


class Decision(NamedTuple):
    """A verdict with what it needs.

    Attributes:
        verdict: What to do.
        number: Step number to apply (APPLY, CREATE, RESTART).
        receipt: The stored reply (REPLAY).
        error: Why not (REFUSE).
    """

    verdict: Verdict
    number: int = 0
    receipt: Receipt | None = None
    error: ServerError | None = None


_CREATE = Decision(Verdict.CREATE, 1)
_RESTART = Decision(Verdict.RESTART, 1)


def decide(
    record: RecordHead | None,
    step: Step,
    *,
    dedupe: bool = False,
    start_of_live: StartOfLive | None = None,
) -> Decision:
    """Decide what ``step`` means for its sequence.

    Args:
        record: The live record, a tombstone (``ending`` set), or ``None``.
        step: The request; ``digest`` filled in.
        dedupe: An unnumbered step whose request id matches a kept receipt is a repeat.
        start_of_live: What START of a live id does; ``None`` = what its dialect says.

    Returns:
        APPLY, CREATE or RESTART with the number the step takes; REPLAY with the
        stored receipt; REFUSE with the error for the client.
    """
    if record is None or record.ending is not None:
        return _decide_without_record(record, step, dedupe=dedupe)
    if step.incarnation and step.incarnation != record.incarnation:
        return _refuse(RecreatedError(step.correlation_id or 0))
    if step.number == 0:
        return _decide_next(record, step, dedupe=dedupe, start_of_live=start_of_live)
    if step.start:
        if step.number != 1:
            return _refuse(StepGapError(step.number, 1))
        if step.restart and not _repeats(record, step):
            return _RESTART
    return _decide_numbered(record, step)


def _decide_without_record(tombstone: RecordHead | None, step: Step, *, dedupe: bool) -> Decision:
    """No live record: a retry of the last steps of an ended one, a creation, or unknown."""
    expected = step.incarnation in (b"", tombstone.incarnation if tombstone else b"")
    if tombstone is not None and expected and (step.number or dedupe):
        receipt = _find(tombstone, step)
        # Without a request id a START is a repeat only of the very last step: the same
        # id may be used for a new sequence that begins with the same input.
        distinct = not step.start or step.request_id or tombstone.step == 1
        if receipt is not None and distinct and _same_input(receipt, step):
            return Decision(Verdict.REPLAY, receipt=receipt)
    if step.acknowledged > 0 and tombstone is None and not step.start:
        return _refuse(StepLostError(step.acknowledged, 1))
    if not step.start and (step.incarnation or not step.dialect.unknown_opens):
        return _refuse(
            UnknownSequenceError(step.correlation_id or 0, tombstone.ending if tombstone else None)
        )
    if step.number > 1:
        return _refuse(StepGapError(step.number, 1))
    return _CREATE


def _decide_next(
    record: RecordHead, step: Step, *, dedupe: bool, start_of_live: StartOfLive | None
) -> Decision:
    """An unnumbered step takes the next number, unless it starts or repeats."""
    if dedupe and step.request_id:
        receipt = _find(record, step)
        if receipt is not None:
            return _judge(receipt, step, record.step)
    if step.start:
        rule = start_of_live or step.dialect.start_of_live
        if step.restart or rule is StartOfLive.RESTART:
            return _RESTART
        return _refuse(SequenceExistsError(step.correlation_id or 0, record.step))
    if step.acknowledged > record.step:
        return _refuse(StepLostError(step.acknowledged, record.step + 1))
    return Decision(Verdict.APPLY, record.step + 1)


def _decide_numbered(record: RecordHead, step: Step) -> Decision:
    """Compare the step's number with the record's (D2, D3)."""
    number, expected = step.number, record.step + 1
    if number == expected:
        return Decision(Verdict.APPLY, number)
    if number > expected:
        if step.acknowledged >= expected:
            return _refuse(StepLostError(step.acknowledged, expected))
        return _refuse(StepGapError(number, expected))
    for receipt in record.receipts:
        if receipt.step == number:
            return _judge(receipt, step, record.step)
    return _refuse(StepAppliedError(number, expected))


def _judge(receipt: Receipt, step: Step, record_step: int) -> Decision:
    """A receipt of this number is kept: is the step its repeat?"""
    expected = record_step + 1
    if receipt.request_id != step.request_id.encode():
        if receipt.step == record_step:
            return _refuse(StepTakenError(receipt.step, expected))
        return _refuse(StepAppliedError(receipt.step, expected))
    if not _same_input(receipt, step):
        return _refuse(RequestIdReusedError(receipt.step, expected))
    return Decision(Verdict.REPLAY, receipt=receipt)


def _find(record: RecordHead, step: Step) -> Receipt | None:
    """Find the kept receipt that the step may be a repeat of."""
    request_id = step.request_id.encode()
    for receipt in reversed(record.receipts):
        if receipt.request_id == request_id and (step.number in (0, receipt.step)):
            return receipt
    return None


def _repeats(record: RecordHead, start: Step) -> bool:
    """Tell whether a START that may restart is a repeat of the one that began the record.

    With a request id, the id says so. Without one the input must be the same, too.
    """
    receipt = _find(record, start)
    return receipt is not None and (bool(start.request_id) or _same_input(receipt, start))


def _same_input(receipt: Receipt, step: Step) -> bool:
    """Compare digests; one that was not taken matches anything."""
    return not receipt.digest or not step.digest or receipt.digest == step.digest


def _refuse(error: ServerError) -> Decision:
    return Decision(Verdict.REFUSE, error=error)
