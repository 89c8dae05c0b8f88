"""Decide which steps run together. Pure: no clock, no I/O, no awaiting.

The scheduler holds work that is ready: each sequence has at most one piece in it
(D2), so any rows of one plan are of different sequences. Plans are natural: with
no delay set, whatever is ready when an instance is free goes at once, and what
comes meanwhile is the next batch.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator


class Schedulable(Protocol):
    """What the scheduler needs to know of a piece of work.

    Attributes:
        group: Work shares a batch only within equal groups (data shapes, state
            shapes, scalar values); ``None`` where all are equal by construction.
        arrived: Monotonic seconds at which the step arrived.
        priority: 1 = highest; 0 = default, after all others.
    """

    @property
    def group(self) -> Hashable:
        """What it must have in common with its company."""

    @property
    def arrived(self) -> float:
        """When it arrived."""

    @property
    def priority(self) -> int:
        """How urgent it is."""


W = TypeVar("W", bound=Schedulable)


@dataclass(frozen=True, slots=True)
class Policy:
    """How long to wait for company, and how much of it.

    Attributes:
        max_batch: Most rows of one plan.
        max_delay_s: How long the oldest work may wait for a preferred size; 0 = never.
        preferred: Batch sizes that go at once when a delay is set; empty = ``max_batch``.
    """

    max_batch: int
    max_delay_s: float = 0.0
    preferred: tuple[int, ...] = ()


class Scheduler(Generic[W]):
    """Ready work of one model version, oldest first."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._ready: deque[W] = deque()
        self._urgent = 0

    def __len__(self) -> int:
        return len(self._ready)

    def __iter__(self) -> Iterator[W]:
        return iter(self._ready)

    def __repr__(self) -> str:
        return f"<Scheduler ready={len(self._ready)}>"

    def add(self, work: W) -> None:
        """Make a piece of work ready to run."""
        self._ready.append(work)
        if work.priority:
            self._urgent += 1

    def schedule(self, now: float, company: int | None = None) -> list[W]:
        """Take the next batch; empty if there is none, or it is better to wait.

        Args:
            now: Monotonic seconds.
            company: How many rows there can be at most; a batch of so many waits for no
                more. ``None`` = not known.
        """
        if not self._ready:
            return []
        if self._urgent:
            self._order_by_priority()
        ready = self._ready
        plan = (
            self._waited_for(now, company) if self.policy.max_delay_s else self._of_group(ready[0])
        )
        if not plan:
            return []
        if len(plan) == len(ready):
            ready.clear()
        else:
            taken = set(map(id, plan))
            self._ready = deque(work for work in ready if id(work) not in taken)
        if self._urgent:
            self._urgent -= sum(1 for work in plan if work.priority)
        return plan

    def wake_at(self) -> float | None:
        """When a batch that waits for company must go; ``None`` if none waits."""
        if not self._ready or not self.policy.max_delay_s:
            return None
        return min(work.arrived for work in self._ready) + self.policy.max_delay_s

    def clear(self) -> list[W]:
        """Take everything, whether it should wait or not."""
        taken = list(self._ready)
        self._ready.clear()
        self._urgent = 0
        return taken

    def remove(self, gone: Iterable[W]) -> None:
        """Drop work that must not run any more."""
        ids = set(map(id, gone))
        self._ready = deque(work for work in self._ready if id(work) not in ids)
        self._urgent = sum(1 for work in self._ready if work.priority)

    def _of_group(self, head: W) -> list[W]:
        plan = [work for work in self._ready if work.group == head.group]
        del plan[self.policy.max_batch :]
        return plan

    def _waited_for(self, now: float, company: int | None) -> list[W]:
        """Take the first group that need not wait; a group that waits holds up no other."""
        seen: list[Hashable] = []
        for work in self._ready:
            if work.group not in seen:
                seen.append(work.group)
                plan = self._of_group(work)
                if not self._should_wait(plan, now, company):
                    return plan
        return []

    def _should_wait(self, plan: list[W], now: float, company: int | None) -> bool:
        """Wait only while the delay has not passed and no preferred size is reached."""
        # The oldest need not be the first: a step may have waited behind its predecessor.
        # The sum is the one of wake_at, or rounding could wake the caller too early for ever.
        if len(plan) >= self.policy.max_batch or (company is not None and len(plan) >= company):
            return False
        if now >= min(work.arrived for work in plan) + self.policy.max_delay_s:
            return False
        for size in sorted(self.policy.preferred, reverse=True):
            if len(plan) >= size:
                del plan[size:]
                return False
        return True

    def _order_by_priority(self) -> None:
        # Stable: equal priorities stay in order of arrival; 0 means "after all levels".
        self._ready = deque(sorted(self._ready, key=lambda work: work.priority or 1 << 30))
