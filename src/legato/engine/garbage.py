"""Keeps Python's garbage collector from stalling a server with many sequences in memory.

What a step and a resident sequence leave behind is freed by reference counts: the collector
is only for cycles, of which there are next to none. But a full collection walks over every
resident sequence, about two microseconds each, and sequences that are parked and return make
it do so again and again: with 16,000 of them 0.13 s, every second or so.
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LONGEST_S: Final = 0.002
MOST_FOUND: Final = 100_000
# A full collection after every third of the middle generation instead of every eleventh: it
# finds at most some 20,000 new objects, and takes a hundredth of a second.
THRESHOLDS: Final = (700, 10, 2)
_FULL: Final = 2


class Garbage:
    """Takes out of the collector's sight what a long full collection has found alive.

    What was taken out is still freed by its reference counts. Only a cycle that dies later
    would stay; so once the collections have found many, the next full one looks at everything.

    Args:
        clock: Seconds, for how long collections take.
        longest_s: A full collection that takes longer was too long.
        most_found: So many objects in dead cycles are many.

    Attributes:
        found: Objects in dead cycles since a collection last looked at everything.
        thorough: The next full collection looks at everything.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.perf_counter,
        longest_s: float = LONGEST_S,
        most_found: int = MOST_FOUND,
    ) -> None:
        self.found = 0
        self.thorough = False
        self._clock = clock
        self._longest_s = longest_s
        self._most_found = most_found
        self._began = 0.0
        self._thresholds = THRESHOLDS

    def __repr__(self) -> str:
        return f"<Garbage found={self.found} thorough={self.thorough}>"

    def start(self) -> None:
        """Take out what is alive now, and watch the collections from now on."""
        gc.collect()
        gc.freeze()
        self._thresholds = gc.get_threshold()
        gc.set_threshold(*THRESHOLDS)
        gc.callbacks.append(self.collected)

    def stop(self) -> None:
        """Watch no more; the collector sees everything again."""
        if self.collected in gc.callbacks:
            gc.callbacks.remove(self.collected)
            gc.set_threshold(*self._thresholds)
            gc.unfreeze()

    def collected(self, phase: str, info: Mapping[str, int]) -> None:
        """Take note of a collection; Python calls this before and after each."""
        if phase == "start":
            self._began = self._clock()
            return
        self.found += info["collected"]
        if info["generation"] < _FULL:
            return
        if self.thorough:
            self.thorough = False
            self.found = 0
        elif self.found >= self._most_found:
            self.thorough = True
            gc.unfreeze()
            return
        if self._clock() - self._began > self._longest_s:
            gc.freeze()
