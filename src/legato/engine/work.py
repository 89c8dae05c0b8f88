"""Resident sequences and the work they bring. Bookkeeping only: the engine changes it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from legato.core.types import RecordHead, SequenceKey, StateRow, Step
    from legato.engine.model import ModelHandle


class Sequence:
    """What the engine holds of a sequence while it is in memory.

    Attributes:
        key: Its name.
        head: Copy of the record's head; a tombstone, or ``None`` for no record.
        state: Committed state; ``None`` where ``head`` is not live.
        loaded: ``head`` and ``state`` are known; false = ask the store (D5).
        handle: The model version it is pinned to, once checked.
        steps: Waiting steps in order; the running one is not among them.
        busy: A step of it is being decided, scheduled, run or committed.
        in_backlog: It waits for room among the live sequences.
        fresh: ``head`` was read since the step at hand came to be decided.
        contested: How often in a row its commits were refused by the store.
    """

    __slots__ = (
        "busy", "contested", "fresh", "handle", "head", "in_backlog", "key", "loaded", "state",
        "steps",
    )  # fmt: skip

    def __init__(self, key: SequenceKey) -> None:
        self.key = key
        self.head: RecordHead | None = None
        self.state: StateRow | None = None
        self.loaded = False
        self.handle: ModelHandle | None = None
        self.steps: deque[Step] = deque()
        self.busy = False
        self.in_backlog = False
        self.fresh = False
        self.contested = 0

    @property
    def live(self) -> bool:
        """A live record is known."""
        return self.head is not None and self.head.ending is None

    def forget(self) -> None:
        """Drop the copy; the store has the truth (D5)."""
        self.head = self.state = None
        self.loaded = False

    def __repr__(self) -> str:
        step = self.head.step if self.head else "?"
        return f"<Sequence {self.key} step={step} waiting={len(self.steps)} busy={self.busy}>"


class Work:
    """A step on its way through the model: satisfies ``core.scheduler.Schedulable``."""

    __slots__ = (
        "arrived", "create", "group", "handle", "incarnation", "number", "priority", "replaces",
        "sequence", "state", "step",
    )  # fmt: skip

    def __init__(
        self, handle: ModelHandle, sequence: Sequence, step: Step, number: int, state: StateRow
    ) -> None:
        self.handle = handle
        self.sequence = sequence
        self.step = step
        self.number = number
        self.state = state
        self.create = False
        self.replaces = b""
        self.incarnation = b""
        self.arrived = step.arrived
        self.priority = step.priority
        # Fixed-shape models with no scalars have one group; others compare shapes and values.
        fixed = handle.batcher.states.fixed
        self.group: Any = step.group if fixed else (step.group, state.shapes)
