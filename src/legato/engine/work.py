"""Resident sequences and the work they bring. Bookkeeping only: the engine changes it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from legato.runtimes.base import Partial

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.core.types import RecordHead, SequenceKey, StateRow, Step
    from legato.engine.instance import Instance
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
        home: The instance that ran its last step, where that matters.
        bound: Part of its state is in the memory of ``home`` alone.
    """

    __slots__ = (
        "bound", "busy", "contested", "fresh", "handle", "head", "home", "in_backlog", "key",
        "loaded", "state", "steps",
    )  # fmt: skip

    def __init__(self, key: SequenceKey) -> None:
        self.key = key
        self.head: RecordHead | None = None
        self.state: StateRow | None = None
        self.loaded = False
        self.handle: ModelHandle | None = None
        self.steps: list[Step] = []  # short, and a deque would take 700 bytes where none waits
        self.busy = False
        self.in_backlog = False
        self.fresh = False
        self.contested = 0
        self.home: Instance | None = None
        self.bound = False

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
    """A step on its way through the model: satisfies ``core.scheduler.Schedulable``.

    Attributes:
        deaths: Workers that died while they ran it.
        alone: It shares a model call with no other step.
    """

    __slots__ = (
        "_partial", "alone", "arrived", "create", "deaths", "group", "handle", "incarnation",
        "number", "priority", "replaces", "sequence", "state", "step",
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
        self.deaths = 0
        self.alone = False
        self._partial: Partial | None = None
        # Fixed-shape models with no scalars have one group; others compare shapes and values.
        layout = handle.batcher.states
        self.group: Any = (
            step.group if layout.uniform else (step.group, layout.shapes_in_common(state))
        )
        if handle.tells_together:
            self.group = (self.group, handle.told_alike(step, number))
        if sequence.home is not None and (sequence.bound or handle.sticky):
            self.group = (self.group, id(sequence.home))

    @property
    def begun(self) -> bool:
        """Part of its answer has left."""
        return self._partial is not None and self._partial.used

    def set_alone(self) -> None:
        """Let it share no model call from now on."""
        self.alone = True
        self.group = ("alone", id(self))

    def partial(self) -> Partial:
        """The way to the client for answers that are not the last; made for each run."""
        send: Callable[..., None] = functools.partial(self.handle.post, self.step.partial)
        self._partial = Partial(send)
        return self._partial
