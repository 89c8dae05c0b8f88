"""What a store should answer, as a dictionary. Written apart from the stores, on purpose.

Answers are plain tuples (:func:`told` brings a store's answers into the same form).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from store_kit import TOMBSTONE_S, plain

from legato.core.types import EndReason, Receipt, SequenceKey
from legato.stores.base import Commit, Conflict, Duplicate, Fenced, Gone, Held, Missing, Ok, Owned

Ended = tuple[EndReason, int]
NEVER = float("inf")


def told(answer: Any) -> Any:
    """A store's answer without what is for display only."""
    match answer:
        case Ok():
            return ("ok",)
        case Duplicate(receipt):
            return ("duplicate", receipt[1:])
        case Fenced(epoch, step):
            return ("fenced", epoch, step)
        case Conflict(step):
            return ("conflict", step)
        case Gone(ending):
            return ("gone", ending and (ending.reason, ending.step))
        case Held(owner):
            return ("held", owner)
        case Owned(head, state):
            return ("owned", plain(head)[:9], state and state.data)
        case Missing(head):
            return ("missing", head and (head.incarnation, head.receipts, plain(head)[9]))
        case (head, state):
            return ("owned", plain(head)[:9], state.data)
    raise TypeError(f"no store answers {answer!r}")


@dataclass
class Line:
    """One sequence of the model."""

    entry: Commit  # the newest commit
    epoch: int
    touched: float
    ended: Ended | None = None
    owner: str = ""
    owned_since: float = -NEVER
    before: tuple[bytes, Ended | None] | None = None

    @property
    def until(self) -> float:
        return self.touched + self.entry.ttl_s if self.entry.ttl_s else NEVER

    def head(self) -> tuple[Any, ...]:
        e = self.entry
        return (
            e.incarnation, self.epoch, e.step, e.receipts,
            e.version, e.model_digest, e.dialect, e.ttl_s, e.level,
        )  # fmt: skip


@dataclass
class StoreModel:
    """The dictionary. ``now`` is the time of the test's clock."""

    now: float
    lines: dict[SequenceKey, Line] = field(default_factory=dict)

    def look(self, key: SequenceKey, at: float | None = None) -> tuple[Line | None, Ended | None]:
        """The line of a key and how it ended; nothing once the retention is over."""
        at = self.now if at is None else at
        line = self.lines.get(key)
        if line is None:
            return None, None
        ended, since = line.ended, line.touched
        if ended is None and at > line.until:
            ended, since = (EndReason.EXPIRED, line.entry.step), line.until
        if ended is not None and at > since + TOMBSTONE_S:
            return None, None
        return line, ended

    def begin(self, entry: Commit, epoch: int, line: Line | None, ended: Ended | None) -> None:
        new = Line(entry, epoch, self.now)
        if line is not None:
            displaced = (EndReason.DISPLACED, line.entry.step)
            new.before = (line.entry.incarnation, ended or displaced)
        self.lines.pop(entry.key, None)
        self.lines[entry.key] = new

    def commit(self, entry: Commit) -> Any:
        line, ended = self.look(entry.key, self.now - entry.waited_s)
        if line is None:
            if not entry.create:
                return ("gone", None)
        elif line.before and line.before[0] == entry.incarnation != line.entry.incarnation:
            return ("gone", line.before[1])
        elif line.entry.incarnation != entry.incarnation:
            if not entry.create:
                return ("gone", None)
            if ended is None and line.entry.incarnation != entry.replaces:
                return ("conflict", line.entry.step)
        else:
            verdict = self.same_incarnation(line, ended, entry)
            if verdict is not None:
                return verdict
        if entry.create:
            self.begin(entry, entry.epoch, line, ended)
        else:
            line.entry, line.touched = entry, self.now
        if entry.end is not None:
            self.end(entry.key, (entry.end, entry.step), self.now)
        return ("ok",)

    def same_incarnation(self, line: Line, ended: Ended | None, entry: Commit) -> Any:
        kept = line.entry.receipts[-1] if line.entry.receipts else None
        sent = entry.receipts[-1]
        if kept is not None and line.entry.step == entry.step and kept[1:3] == sent[1:3]:
            return ("duplicate", kept[1:])
        if ended is not None:
            return ("gone", ended)
        if entry.create:
            return ("conflict", line.entry.step)
        if line.epoch != entry.epoch:
            return ("fenced", line.epoch, line.entry.step)
        if line.entry.step + 1 != entry.step:
            return ("conflict", line.entry.step)
        return None

    def end(self, key: SequenceKey, ended: Ended, at: float) -> None:
        line = self.lines[key]
        line.ended, line.touched = ended, at

    def acquire(self, key: SequenceKey, owner: str, hold_s: float) -> Any:
        line, ended = self.look(key)
        if line is None or ended is not None:
            return self.missing(line, ended)
        if line.owner != owner:
            if line.owner and self.now - line.owned_since < hold_s:
                return ("held", line.owner)
            line.owner, line.owned_since = owner, self.now
            line.epoch += 1
        return ("owned", line.head(), line.entry.state.data)

    def read(self, key: SequenceKey) -> Any:
        line, ended = self.look(key)
        if line is None or ended is not None:
            return self.missing(line, ended)
        return ("owned", line.head(), line.entry.state.data)

    @staticmethod
    def missing(line: Line | None, ended: Ended | None) -> Any:
        return ("missing", line and (line.entry.incarnation, line.entry.receipts, ended))

    def fork(
        self, source: SequenceKey, step: int, target: SequenceKey, incarnation: bytes, ttl_s: float
    ) -> Any:
        origin, origin_ended = self.look(source)
        line, ended = self.look(target)
        if line is not None and line.entry.incarnation == incarnation:
            return ("gone", ended) if ended else ("duplicate", Receipt(0, b"", b"", b"")[1:])
        if line is not None and line.before and line.before[0] == incarnation:
            return ("gone", line.before[1])
        if origin is None or origin_ended:
            return ("gone", origin_ended)
        if origin.entry.step != step:
            return ("conflict", origin.entry.step)
        if line is not None and ended is None:
            return ("conflict", line.entry.step)
        copy = origin.entry._replace(key=target, incarnation=incarnation, receipts=(), ttl_s=ttl_s)
        self.begin(copy, 0, line, ended)
        return ("ok",)

    def put(self, entry: Commit) -> Any:
        line, ended = self.look(entry.key)
        if line is not None:
            if ended is None:
                return ("conflict", line.entry.step)
            if line.entry.incarnation == entry.incarnation:
                return ("gone", ended)
            if line.before and line.before[0] == entry.incarnation:
                return ("gone", line.before[1])
        self.begin(entry, entry.epoch, line, ended)
        return ("ok",)

    def delete(self, key: SequenceKey, incarnation: bytes, reason: EndReason) -> Any:
        line, ended = self.look(key)
        if line is None:
            return ("gone", None)
        if line.entry.incarnation != incarnation:
            known = line.before and line.before[0] == incarnation
            return ("gone", line.before[1] if known else None)
        if ended is not None:
            return ("gone", ended)
        self.end(key, (reason, line.entry.step), self.now)
        return ("ok",)

    def sweep(self, busy: set[SequenceKey]) -> set[SequenceKey]:
        swept = {
            key
            for key, line in self.lines.items()
            if line.ended is None and self.now > line.until and key not in busy
        }
        for key in swept:
            line = self.lines[key]
            self.end(key, (EndReason.EXPIRED, line.entry.step), line.until)
        return swept

    def listed(self) -> list[tuple[SequenceKey, float]]:
        return [
            (key, self.now - line.touched)
            for key, line in self.lines.items()
            if line.ended is None and self.now <= line.until
        ]

    def live(self) -> int:
        return sum(line.ended is None for line in self.lines.values())
