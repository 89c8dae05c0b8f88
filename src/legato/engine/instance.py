"""One loaded copy of a model: runs plans inline, or in a thread of its own."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from legato.engine.batch import BatchOutcome, BatchRow, as_model_error
from legato.faults import fault
from legato.runtimes.base import Asked, RowInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.engine.model import ModelHandle
    from legato.engine.suspicion import Suspicion
    from legato.engine.work import Work
    from legato.runtimes.base import Runtime

    Done = Callable[["Instance", list[Work], BatchOutcome], None]


def rows_of(plan: list[Work]) -> list[BatchRow]:
    """Lay out a plan as rows of a model call."""
    handle = plan[0].handle
    if handle.asks:
        return [BatchRow(work.step.inputs, work.state, _asked(work)) for work in plan]
    return [
        BatchRow(
            work.step.inputs,
            work.state,
            RowInfo(
                work.sequence.key.correlation_id,
                work.number,
                work.number == 1,
                work.step.end,
                work.step.parameters,
                work.partial() if handle.parts and work.step.partial is not None else None,
            ),
        )
        for work in plan
    ]


def _asked(work: Work) -> RowInfo:
    """Tell a model what there is to know of a row and of the request behind it."""
    step = work.step
    return RowInfo(
        work.sequence.key.correlation_id,
        work.number,
        work.number == 1,
        step.end,
        step.parameters,
        work.partial() if step.partial is not None else None,
        Asked(
            step.request_id or step.asked_as,
            step.outputs,
            step.priority,
            round(step.queue_timeout_s * 1e6),
            lambda: step.cancelled,
        ),
    )


class Instance:
    """Runs one plan at a time. The thread starts with the first plan that needs it.

    ``suspicion`` is set after a crash of the process.
    """

    def __init__(self, handle: ModelHandle, runtime: Runtime) -> None:
        self.handle = handle
        self.runtime = runtime
        self.suspicion: Suspicion | None = None
        self._plans: queue.SimpleQueue[tuple[list[Work], Done] | Callable[[], object] | None] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None

    def run(self, plan: list[Work]) -> BatchOutcome:
        """Run a plan here and now; never raises, so that every step of it is answered."""
        try:
            fault("step.before_run")
            if self.suspicion is None:
                outcome = self._run(plan)
            else:
                outcome = self.suspicion.run(plan, self._run)
            fault("step.after_run")
        except Exception as error:  # noqa: BLE001 - told to each step of the plan
            return BatchOutcome([as_model_error(error)] * len(plan), 0.0)
        return outcome

    def _run(self, plan: list[Work]) -> BatchOutcome:
        return self.handle.batcher.run(self.runtime, rows_of(plan))

    def submit(self, plan: list[Work], done: Done) -> None:
        """Run a plan in the instance's thread; ``done`` is called there."""
        self._start_thread()
        self._plans.put((plan, done))

    def call(self, job: Callable[[], object]) -> None:
        """Do something else in the instance's thread, after the plans that it has."""
        self._start_thread()
        self._plans.put(job)

    def _start_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._loop, name=f"legato-{self.handle.name}", daemon=True
            )
            self._thread.start()

    def _loop(self) -> None:
        while (item := self._plans.get()) is not None:
            if callable(item):
                item()
                continue
            plan, done = item
            done(self, plan, self.run(plan))

    def close(self) -> None:
        """Finish the plan in hand, then free the model."""
        if self._thread is not None:
            self._plans.put(None)
            self._thread.join(timeout=30.0)
        self.runtime.close()
