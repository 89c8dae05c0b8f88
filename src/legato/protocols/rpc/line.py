"""Unary calls of one connection are handed over in the order in which they were begun.

A client may send the next step of a sequence before the answer to the last one is there.
Over one connection its requests come in order; but the server below tells the bodies of
different calls in any order, a few milliseconds apart, and a step must not overtake the one
before it. So a call whose request has come waits for those that were begun before it on the
same connection, though never for long: their senders may just be slow.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import asyncio

HOLD_S: Final = 0.05
"""Longest that a call waits for others; those are then passed over."""


class Waiting(Protocol):
    """A call that stands in line."""

    has_come: bool

    def next_in_line(self, *, come: bool) -> None:
        """Leave the line, and be handed over if the request has come."""


class Line:
    """The calls of one connection whose requests have not all come.

    Args:
        loop: For the time limit.
        lines: Where lines are kept by their connection; one that is empty leaves it.
        client: The connection.
    """

    __slots__ = ("_calls", "_client", "_lines", "_loop", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, lines: dict[Any, Line], client: Any
    ) -> None:
        self._loop = loop
        self._lines = lines
        self._client = client
        self._calls: deque[Waiting] = deque()
        self._timer: asyncio.TimerHandle | None = None
        lines[client] = self

    def __repr__(self) -> str:
        return f"<Line of {self._client} calls={len(self._calls)}>"

    def join(self, call: Waiting) -> None:
        """Stand behind the calls that were begun before."""
        self._calls.append(call)

    def came(self, call: Waiting) -> None:
        """Hand a call over whose request has come, once it is its turn."""
        call.has_come = True
        self._go_on()
        if self._calls and self._timer is None:
            self._timer = self._loop.call_later(HOLD_S, self._pass_over)

    def leave(self, call: Waiting) -> None:
        """Let the others pass: the call is over before its request came."""
        self._calls.remove(call)
        self._go_on()

    def _go_on(self) -> None:
        calls = self._calls
        while calls and calls[0].has_come:
            calls.popleft().next_in_line(come=True)
        if calls:
            return
        if self._lines.get(self._client) is self:
            del self._lines[self._client]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pass_over(self) -> None:
        """Wait no longer for those in front; they go when they come."""
        self._timer = None
        calls = self._calls
        while calls and not calls[0].has_come:
            calls.popleft().next_in_line(come=False)
        self._go_on()
        if any(call.has_come for call in calls):
            self._timer = self._loop.call_later(HOLD_S, self._pass_over)
