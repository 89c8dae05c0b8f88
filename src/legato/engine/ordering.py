"""Answers in the order of their steps, over all sequences of a model.

A step has its place from the moment at which it is ready to run. One that waits for room
holds up nobody: the sequence that makes room may be waiting for an answer.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from legato.observe.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.core.types import Step

log = get_logger()


class _Place:
    """One step's place in line, and its answer once there is one."""

    __slots__ = ("answer", "done", "line")

    def __init__(self, line: Line, done: Callable[[Any], None]) -> None:
        self.line = line
        self.done = done
        self.answer: Any = None

    def __call__(self, answer: Any) -> None:
        self.answer = answer
        self.line.go()


class Line:
    """Holds answers back until all earlier steps have theirs."""

    def __init__(self) -> None:
        self._places: deque[_Place] = deque()

    def __repr__(self) -> str:
        return f"<Line waiting={len(self._places)}>"

    def enter(self, step: Step) -> None:
        """Give a step the next place, unless it has one: it may become ready again."""
        if not isinstance(step.done, _Place):
            step.done = self.take(step.done)

    def take(self, done: Callable[[Any], None]) -> Callable[[Any], None]:
        """Take the next place; returns what to call with the answer."""
        place = _Place(self, done)
        self._places.append(place)
        return place

    def go(self) -> None:
        """Give all answers that wait for nobody."""
        while self._places and self._places[0].answer is not None:
            place = self._places.popleft()
            try:
                place.done(place.answer)
            except Exception:
                # Whoever comes next must have its answer all the same.
                log.exception("reply_callback_failed")
