"""Time as a store counts it: seconds that passed while it was open.

Idle limits and retention are durations, so they must not care about what a wall
clock does meanwhile: a clock set back would raise the dead (D7), and hours spent
switched off would expire everything at once. :class:`Elapsed` turns the injected
wall clock into a time that never goes back and stands still while the store is
closed; a deadline kept in it is a remaining time by construction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from legato.stores.base import Clock


class Elapsed:
    """A running time that starts at ``start`` and never goes back."""

    __slots__ = ("_clock", "_pause", "_read", "_time")

    def __init__(self, clock: Clock, start: float | None = None) -> None:
        """Start at ``start`` seconds, or at what the wall clock says."""
        self._clock = clock
        self._read = clock()
        self._pause = 0.0
        self._time = self._read if start is None else start

    def __call__(self) -> float:
        """Seconds, in the store's own time."""
        read = self._clock()
        passed = read - self._read
        self._read = read
        if passed > 0.0:
            if self._pause:
                paused = min(passed, self._pause)
                self._pause -= paused
                passed -= paused
            self._time += passed
        return self._time

    def skip(self, pause_s: float = 0.0) -> None:
        """Pass over the time since the last reading, and stand still for some seconds more."""
        self._read = self._clock()
        self._pause = pause_s

    def wall(self, moment: float) -> float:
        """Wall-clock time of a moment in the store's time, for display."""
        now = self()
        return self._read - (now - moment)

    def __repr__(self) -> str:
        return f"Elapsed({self._time:.3f})"
