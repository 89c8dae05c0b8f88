"""Which step crashes the process: the engine's side.

A model's native code can take the whole process with it, and after the restart the
client sends the same step again. So for a while after a crash the engine notes, before
each model call, which steps are in it; the note outlives the process (it is a write to
a file, which the kernel keeps). The supervisor reads it after the next crash. Steps that
it suspects are run alone, and the step that crashed the process alone is refused.

Costs some ten microseconds a model call while it watches, and nothing before the first crash.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING

from legato.core.errors import ModelError
from legato.engine.batch import BatchOutcome, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from legato.engine.work import Work

    StepName = tuple[str, int | str, int]
    Run = Callable[[list[Work]], BatchOutcome]

WATCH_S = 60.0


class QuarantinedError(ModelError):
    """The step crashed the process again and again; it is not run any more."""

    def __init__(self, name: StepName) -> None:
        super().__init__(
            f"step {name[2]} of this sequence crashed the server repeatedly and is quarantined: it "
            f"will not be run again before the server is restarted; the sequence stays at step "
            f"{name[2] - 1}"
        )


class Suspicion:
    """Runs plans with an eye on who is in them. Used by all instances, in any thread.

    Args:
        note: File that tells the supervisor what is running; ``None`` = not watching.
        suspects: Steps that are run alone.
        quarantined: Steps that are refused.
        watch_s: How long notes are taken.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        note: Path | None,
        suspects: Collection[StepName],
        quarantined: Collection[StepName],
        *,
        watch_s: float = WATCH_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.quarantined = frozenset(quarantined)
        self._suspects = frozenset(suspects)
        self._clock = clock
        self._until = clock() + watch_s
        self._lock = threading.Lock()
        self._running: dict[int, list[StepName]] = {}
        self._file = -1
        if note is not None:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._file = os.open(note, flags, 0o600)

    def __repr__(self) -> str:
        return f"<Suspicion watching={self._file >= 0} quarantined={len(self.quarantined)}>"

    def run(self, plan: list[Work], run: Run) -> BatchOutcome:
        """Run a plan in as many parts as caution asks for; rows as in the plan."""
        if self._file < 0 and not self.quarantined:
            return run(plan)
        rows: dict[int, Row] = {}
        together: list[int] = []
        parts: list[list[int]] = [together]
        for at, work in enumerate(plan):
            name = _name(work)
            if name in self.quarantined:
                rows[at] = QuarantinedError(name)
            elif name in self._suspects:
                parts.append([at])
            else:
                together.append(at)
        seconds, retried = 0.0, 0
        for part in parts:
            if part:
                outcome = self._run_noted([plan[at] for at in part], run)
                rows.update(zip(part, outcome.rows, strict=True))
                seconds += outcome.compute_s
                retried += outcome.retried
        return BatchOutcome([rows[at] for at in range(len(plan))], seconds, retried)

    def _run_noted(self, plan: list[Work], run: Run) -> BatchOutcome:
        if self._file < 0:
            return run(plan)
        me = threading.get_ident()
        self._note(me, [_name(work) for work in plan])
        try:
            return run(plan)
        finally:
            self._note(me, [])

    def _note(self, thread: int, names: list[StepName]) -> None:
        with self._lock:
            if self._file < 0:
                return
            self._running[thread] = names
            if not names and self._clock() > self._until and not any(self._running.values()):
                os.ftruncate(self._file, 0)
                os.close(self._file)
                self._file = -1
                return
            everything = [name for running in self._running.values() for name in running]
            # Steps without a number are of models without state: there is nothing to hold back.
            text = json.dumps([name for name in everything if name[2]])
            os.pwrite(self._file, text.encode() + b"\n", 0)


def _name(work: Work) -> StepName:
    return work.sequence.key.model, work.sequence.key.correlation_id, work.number
