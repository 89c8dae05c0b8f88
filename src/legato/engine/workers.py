"""Instances that are processes: who runs what, and what happens when one dies.

A worker that dies costs its batch a retry: its rows go back to the queue and are run
alone, so that a row that kills its worker is found and fails alone. Where state lives only
in a worker's memory, its sequences wait for that worker as long as it lives.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from legato.core.errors import BusyError, InstanceGoneError, ModelError, ServerError
from legato.engine.batch import RowResult
from legato.engine.instance import Instance
from legato.engine.process import ProcessRuntime, WorkerGoneError, nobody
from legato.observe.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from legato.engine.batch import BatchOutcome
    from legato.engine.model import ModelHandle
    from legato.engine.work import Work

log = get_logger()

MOST_DEATHS: Final = 2
"""Deaths of workers after which the step that was running in each is refused."""
DELAYS_S: Final = (0.0, 1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0)
"""Waits before the starts of a worker that keeps failing; the last one is repeated."""


class WorkerDiedError(ModelError):
    """Workers died while they ran this step; the sequence is as it was.

    Attributes:
        timed_out: The last one was killed because it took too long.
        killed: The last one was killed by somebody else.
    """

    def __init__(self, message: str, *, timed_out: bool, killed: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out
        self.killed = killed


class NoWorkerError(BusyError):
    """No worker of the model lives."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker, for people.

    Attributes:
        pid: Process id, 0 while there is none.
        alive: It can be called.
        started_at: Wall-clock seconds.
        restarts: How often it was started again.
        memory_bytes: Resident memory.
        problem: Why it could not be started, "" otherwise.
    """

    pid: int
    alive: bool
    started_at: float
    restarts: int
    memory_bytes: int
    problem: str


class ProcessInstance(Instance):
    """An instance whose model call runs in a worker process.

    Attributes:
        waiting: Plans of sequences whose state is in its memory, while it is busy.
        problem: Why the last start failed; "" = it runs, or was not tried yet.
        failures: Starts that failed in a row.
        leaving: It is closed as soon as it is free.
    """

    runtime: ProcessRuntime

    def __init__(self, handle: ModelHandle, runtime: ProcessRuntime) -> None:
        super().__init__(handle, runtime)
        self.waiting: deque[list[Work]] = deque()
        self.problem = ""
        self.failures = 0
        self.leaving = False
        self._closing = threading.Event()
        runtime.on_measured = self._measured
        runtime.on_ask = self._ask_other

    @property
    def alive(self) -> bool:
        """Its worker can be called."""
        return self.runtime.alive

    def _ask_other(self, wish: dict[str, Any], inputs: dict[str, Any]) -> Future[dict[str, Any]]:
        asks = self.handle.ask_other
        return nobody() if asks is None else asks(wish, inputs)

    def _measured(self, measured: list[Any]) -> None:
        self.handle.measured(measured)  # who listens there may come later than the instance

    def status(self) -> WorkerStatus:
        """What is known of the worker."""
        runtime = self.runtime
        return WorkerStatus(
            runtime.pid, runtime.alive, runtime.started_at, runtime.restarts,
            runtime.memory_bytes(), self.problem,
        )  # fmt: skip

    def recover(self, told: Callable[[ProcessInstance, str], None]) -> None:
        """Start the worker again, after a wait that grows; ``told`` is called in the thread.

        Its second argument says why that failed, "" = it did not.
        """
        delay_s = DELAYS_S[min(self.failures, len(DELAYS_S) - 1)]
        self.call(functools.partial(self._restart, delay_s, told))

    def _restart(self, delay_s: float, told: Callable[[ProcessInstance, str], None]) -> None:
        self._closing.wait(delay_s)
        problem = ""
        try:
            self.runtime.restart()
        except Exception as error:  # noqa: BLE001 - told to the engine, which logs it
            problem = str(error)
        told(self, problem)

    def close(self) -> None:
        """Finish the plan in hand, give up a start under way, and end the process."""
        self._closing.set()
        self.runtime.abandon()
        super().close()


class Workers:
    """Looks after all instances that are processes. On the event loop.

    Args:
        pump: Runs what is ready on what is free.
        fail: Answers a scheduled step with an error.
    """

    def __init__(
        self,
        pump: Callable[[ModelHandle], None],
        fail: Callable[[Work, ServerError], None],
    ) -> None:
        self._pump = pump
        self._fail = fail
        self._closers: set[asyncio.Future[None]] = set()

    # -- who runs a plan ----------------------------------------------------------------

    def choose(self, handle: ModelHandle, plan: list[Work]) -> Instance | None:
        """Take the instance that runs a plan; ``None`` = the plan waits for a busy one."""
        sequence = plan[0].sequence
        home = sequence.home
        if isinstance(home, ProcessInstance):
            if home in handle.free:
                handle.free.remove(home)
                return home
            if sequence.bound and home in handle.instances and home not in handle.down:
                home.waiting.append(plan)
                return None
        return handle.free.pop()

    @staticmethod
    def waiting(instance: Instance) -> list[Work] | None:
        """Take the oldest plan that waits for a free instance, and the instance with it."""
        if not isinstance(instance, ProcessInstance) or not instance.waiting:
            return None
        instance.handle.free.remove(instance)
        return instance.waiting.popleft()

    def ran(self, instance: Instance, plan: list[Work], outcome: BatchOutcome) -> bool:
        """See to an instance that comes back from a plan; true if it takes the next one."""
        if not isinstance(instance, ProcessInstance):
            return True
        handle = instance.handle
        for work, row in zip(plan, outcome.rows, strict=True):
            if isinstance(row, RowResult):
                work.sequence.home = instance
                work.sequence.bound = row.bound or row.again is not None
        if any(isinstance(row, InstanceGoneError) for row in outcome.rows) or not instance.alive:
            self._fell(instance)
            return False
        if instance.leaving:
            handle.instances.remove(instance)
            self._disperse(instance)
            self._close(instance)
            return False
        instance.failures = 0
        return True

    def retry(self, work: Work, error: InstanceGoneError) -> ServerError | None:
        """Run a row again whose worker died, alone; or say why not."""
        partial = work.begun
        if isinstance(error, WorkerGoneError) and error.ran:
            # A call that took too long by itself would only take too long again.
            work.deaths += MOST_DEATHS if error.timed_out and work.alone else 1
        if work.deaths >= MOST_DEATHS or partial:
            timed_out = isinstance(error, WorkerGoneError) and error.timed_out
            reason = "it had answered in part" if partial else "it was tried again alone"
            return WorkerDiedError(
                f"{error.message}; the step is not run any more ({reason}), and its sequence is "
                "as it was",
                timed_out=timed_out,
                killed=isinstance(error, WorkerGoneError) and error.killed,
            )
        work.sequence.home = None
        work.set_alone()
        work.handle.scheduler.add(work)
        return None

    # -- death and restart --------------------------------------------------------------

    def _fell(self, instance: ProcessInstance) -> None:
        """A worker is dead: its place is empty until another has started."""
        handle = instance.handle
        if instance in handle.down or instance not in handle.instances:
            return
        log.warning("worker_restarting", model=handle.name, failures=instance.failures)
        handle.down.add(instance)
        self._disperse(instance)
        if instance.leaving:
            handle.instances.remove(instance)
            handle.down.discard(instance)
            self._close(instance)
            return
        self._recover(instance)

    def _disperse(self, instance: ProcessInstance) -> None:
        """Plans that waited for an instance go to any other."""
        while instance.waiting:
            plan = instance.waiting.popleft()
            instance.handle.statistics.running -= len(plan)
            for work in plan:
                work.sequence.home = None
                instance.handle.scheduler.add(work)

    def _recover(self, instance: ProcessInstance) -> None:
        loop = asyncio.get_running_loop()

        def told(instance: ProcessInstance, problem: str) -> None:
            loop.call_soon_threadsafe(self._recovered, instance, problem)

        instance.recover(told)

    def _recovered(self, instance: ProcessInstance, problem: str) -> None:
        handle = instance.handle
        if instance not in handle.instances:
            return
        instance.problem = problem
        if not handle.serving:
            return  # it is being unloaded
        if problem:
            instance.failures += 1
            log.error(
                "worker_not_started", model=handle.name, failures=instance.failures, problem=problem
            )
            self._recover(instance)
        else:
            # A worker that dies at once after its start has not recovered.
            instance.failures += 1
            log.info("worker_started", model=handle.name, pid=instance.runtime.pid)
            handle.down.discard(instance)
            handle.free.append(instance)
        self._pump(handle)

    def refuse_hopeless(self, handle: ModelHandle) -> None:
        """Answer what waits for a model none of whose workers lives or is about to."""
        if handle.instances and not all(
            isinstance(one, ProcessInstance) and one in handle.down and one.problem
            for one in handle.instances
        ):
            return
        self.refuse(handle)

    def refuse(self, handle: ModelHandle) -> None:
        """Answer what waits for a model that none of its workers will run."""
        reasons = {one.problem for one in handle.down if isinstance(one, ProcessInstance)}
        what = "; ".join(sorted(filter(None, reasons))) or "it has none; scale it up"
        error = NoWorkerError(
            f"no worker of model '{handle.name}' is running: {what}", retry_after_s=1.0
        )
        for work in handle.scheduler.clear():
            self._fail(work, error)

    def look_after(self, handle: ModelHandle) -> None:
        """Find idle workers that died, and tell the others what ended."""
        for instance in list(handle.free):
            if isinstance(instance, ProcessInstance):
                if not instance.alive:
                    handle.free.remove(instance)
                    self._fell(instance)
                elif instance.runtime.untold:
                    instance.call(instance.runtime.tell)

    # -- more and fewer -------------------------------------------------------------------

    def add(self, handle: ModelHandle, instance: Instance) -> None:
        """Let a new instance take plans."""
        handle.instances.append(instance)
        handle.free.append(instance)
        self._pump(handle)

    async def shrink(self, handle: ModelHandle, count: int) -> None:
        """Close so many instances: idle and dead ones at once, busy ones after their plan."""
        idle = [one for one in handle.instances if one in handle.free or one in handle.down]
        busy = [one for one in handle.instances if one not in idle]
        gone = (idle + busy)[:count]
        for instance in gone:
            if isinstance(instance, ProcessInstance) and instance in busy:
                instance.leaving = True
                continue
            handle.instances.remove(instance)
            if instance in handle.free:
                handle.free.remove(instance)
            handle.down.discard(instance)
            self._close(instance)
        while any(one in handle.instances for one in gone):  # noqa: ASYNC110 - rare
            await asyncio.sleep(0.005)
        await self.closed()

    def _close(self, instance: Instance) -> None:
        closing = asyncio.ensure_future(asyncio.to_thread(instance.close))
        self._closers.add(closing)
        closing.add_done_callback(self._closers.discard)

    async def closed(self) -> None:
        """Wait for processes that are being ended."""
        while self._closers:
            await asyncio.gather(*self._closers)
