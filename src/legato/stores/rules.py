"""What a store answers, as pure functions of what it holds. One definition for every engine.

The order of tests is the contract's: Gone, Duplicate, Fenced, Conflict, Ok. One
case needs a word: a commit that stands already is :class:`Duplicate` also on a
tombstone, because the writer of an *ending* step that lost its reply must learn
that the step stands. Everything else about a tombstone is :class:`Gone` (D7).

Upholds D3 (the same commit again changes nothing), D4 (compare incarnation,
epoch and step) and D7 (a dead incarnation never returns).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from legato.core.types import Ending, EndReason, Receipt
from legato.stores.base import Conflict, Duplicate, Fenced, Gone

if TYPE_CHECKING:
    from legato.stores.base import Commit

NEVER = float("inf")
"""A moment that does not come."""

LEVELS = ("none", "process", "disk", "replicated")
"""Durability levels, weakest first."""


class Standing(NamedTuple):
    """What a store holds of a key at this moment.

    Attributes:
        incarnation, epoch, step: As in the record.
        newest: The last receipt, ``None`` where there is none (fork, import).
        ending: ``None`` = live. An expired record has one, swept or not.
        before: The incarnation that this one took the place of, ``b""`` = not known.
        before_ending: How that one ended.
    """

    incarnation: bytes
    epoch: int
    step: int
    newest: Receipt | None
    ending: Ending | None
    before: bytes = b""
    before_ending: Ending | None = None


def expires(touched: float, ttl_s: float) -> float:
    """Last moment at which a record still lives; infinity where it has no limit."""
    return touched + ttl_s if ttl_s > 0.0 else NEVER


def judge(standing: Standing | None, entry: Commit) -> Gone | Duplicate | Fenced | Conflict | None:
    """Decide one entry of a commit; ``None`` means that it may be written (Ok).

    Args:
        standing: What the store holds of the key, ``None`` for nothing (or a
            tombstone past its retention).
        entry: The commit. With ``create``, the epoch is not compared: a new
            incarnation has no owner yet.
    """
    if standing is None:
        return None if entry.create else Gone(None)
    if standing.incarnation != entry.incarnation:
        if standing.before == entry.incarnation:  # D7, also for a late create
            return Gone(standing.before_ending)
        if not entry.create:
            return Gone(None)
        if standing.ending is None and standing.incarnation != entry.replaces:
            return Conflict(standing.step)
        return None
    if stands(standing, entry):
        return Duplicate(standing.newest or entry.receipts[-1])
    if standing.ending is not None:
        return Gone(standing.ending)
    if entry.create:
        return Conflict(standing.step)
    if standing.epoch != entry.epoch:
        return Fenced(standing.epoch, standing.step)
    if standing.step != entry.step - 1:
        return Conflict(standing.step)
    return None


def stands(standing: Standing, entry: Commit) -> bool:
    """Tell whether this very commit was written before: same step, request id and input."""
    kept = standing.newest
    if kept is None or not entry.receipts or standing.step != entry.step:
        return False
    sent = entry.receipts[-1]
    return kept.request_id == sent.request_id and kept.digest == sent.digest


def judge_fork(
    source: Standing | None,
    at_step: int,
    target: Standing | None,
    incarnation: bytes,
    replaces: bytes = b"",
) -> Gone | Duplicate | Conflict | None:
    """Decide a fork; ``None`` means that the target may be written.

    A repeated fork is Duplicate for as long as the target lives, whatever became
    of the source or of the target's step since. With ``replaces`` the target must live
    in that incarnation: what ended meanwhile is not raised again (D7).
    """
    if target is not None:
        if target.incarnation == incarnation:
            if target.ending is not None:
                return Gone(target.ending)
            return Duplicate(Receipt(at_step, b"", b"", b""))
        if target.before == incarnation:
            return Gone(target.before_ending)
    if source is None or source.ending is not None:
        return Gone(None if source is None else source.ending)
    if source.step != at_step:
        return Conflict(source.step)
    if replaces and (target is None or target.ending is not None):
        return Gone(None if target is None else target.ending)
    if target is not None and target.ending is None and target.incarnation != replaces:
        return Conflict(target.step)
    return None


def judge_put(standing: Standing | None, incarnation: bytes) -> Gone | Conflict | None:
    """Decide an import: over a live record Conflict, of a dead incarnation Gone."""
    if standing is None:
        return None
    if standing.ending is None:
        return Conflict(standing.step)
    if standing.incarnation == incarnation:
        return Gone(standing.ending)
    if standing.before == incarnation:
        return Gone(standing.before_ending)
    return None


def judge_delete(standing: Standing | None, incarnation: bytes) -> Gone | None:
    """Decide a delete; on a dead or unknown incarnation it is Gone and changes nothing."""
    if standing is None:
        return Gone(None)
    if standing.incarnation != incarnation:
        return Gone(standing.before_ending if standing.before == incarnation else None)
    return Gone(standing.ending) if standing.ending is not None else None


def succeeded(
    standing: Standing | None, at: float, reason: EndReason = EndReason.DISPLACED
) -> tuple[bytes, Ending | None]:
    """Name the incarnation that a new one takes the place of, and how that one ended.

    Args:
        standing: What the store holds of the key.
        at: Wall-clock seconds now; a live one ends at this moment,
        reason: for this reason.
    """
    if standing is None:
        return b"", None
    if standing.ending is not None:
        return standing.incarnation, standing.ending
    return standing.incarnation, Ending(reason, standing.step, at)
