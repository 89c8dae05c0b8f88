"""Which step crashed the process: the supervisor's side.

After a crash that a step can cause, the next process notes which steps it is running
(:mod:`legato.engine.suspicion`). If it crashes too, the note names the suspects; as soon
as it names one alone, that step is quarantined and never run again.
"""

from __future__ import annotations

import contextlib
import json
import signal
from typing import TYPE_CHECKING, Final

from legato.settings import CrashSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from legato.settings import StepName

_CRASHES: Final = frozenset(
    -number
    for number in (
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGABRT,
        signal.SIGTRAP,
        signal.SIGSYS,
    )
)
STORE_FAILED: Final = 70
"""Exit code of a process whose store cannot be trusted any more: no fault of a step."""


class Crashes:
    """What is known of the crashes of one server's processes."""

    def __init__(self, note: Path) -> None:
        self._note = note
        self._watching = False
        self._suspects: tuple[StepName, ...] = ()
        self._quarantined: tuple[StepName, ...] = ()

    def __repr__(self) -> str:
        return f"<Crashes suspects={len(self._suspects)} quarantined={len(self._quarantined)}>"

    def settings(self) -> CrashSettings:
        """What the next process should know."""
        return CrashSettings(
            note=self._note if self._watching else None,
            suspects=self._suspects,
            quarantined=self._quarantined,
        )

    def ended(self, code: int | None) -> Iterator[str]:
        """Learn from the end of a process; give sentences for people.

        A process that was killed from outside (SIGKILL, also for want of memory), or that
        ended because of its store, says nothing about its steps.
        """
        if code is None or (code not in _CRASHES and (code <= 0 or code == STORE_FAILED)):
            return
        running = self._read()
        self._watching = True
        if len(running) == 1:
            (step,) = running
            self._quarantined += (step,)
            self._suspects = tuple(name for name in self._suspects if name != step)
            model, correlation_id, number = step
            yield (
                f"step {number} of sequence {correlation_id!r} of model '{model}' crashed the "
                "process: it is quarantined and will not be run again"
            )
        elif running:
            self._suspects = running
            yield f"one of {len(running)} steps crashed the process: they will be run one by one"

    def _read(self) -> tuple[StepName, ...]:
        with contextlib.suppress(FileNotFoundError, ValueError):
            names = json.loads(self._note.read_text().partition("\n")[0])
            self._note.unlink()
            return tuple((model, correlation_id, number) for model, correlation_id, number in names)
        return ()
