"""Starts the workers, tells them what to do, and measures while they do it."""

from __future__ import annotations

import multiprocessing
import time
from array import array
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Final, Self, cast

from legato.bench import cpu
from legato.bench.load import LoadError
from legato.bench.result import Result
from legato.bench.target import settle
from legato.bench.worker import (
    FAILED,
    FINISH,
    GO,
    HOLD,
    PLACES,
    SEQUENCES,
    STEPS,
    TICK_S,
    WRONG,
    Job,
    Report,
    Shared,
    work,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from legato.bench.load import Load
    from legato.bench.target import Counts, Target

_READY_S: Final = 60.0
_LEAVE_S: Final = 8.0
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Mark:
    """All counts at one moment."""

    at: float
    steps: int
    failed: int
    wrong: int
    sequences: int
    client_cpu_s: float
    server_cpu_s: float
    threads: Counter[str]
    counts: Counts | None


class Generator:
    """A load on a server: workers that stand by, go, hold and finish.

    Use as a context manager: it leaves no worker behind.

    Args:
        load: What to do.
        target: The model to do it to.
        pid: Process of the server (its children included), 0 = not on this machine.

    Raises:
        LoadError: The load does not fit the model, or a worker did not start.
    """

    def __init__(self, load: Load, target: Target, pid: int = 0) -> None:
        settle(load, target)
        self.load = load
        self.target = target
        self.errors: Counter[str] = Counter()
        self._server = cpu.family(pid) if pid else []
        if pid and not self._server:
            raise LoadError(f"there is no process {pid}")
        context = multiprocessing.get_context("spawn")
        self._orders: Any = context.RawArray("q", 2)
        self._counters: Any = context.RawArray("Q", PLACES * load.processes)
        self._cpu_s: Any = context.RawArray("d", load.processes)
        self._latencies: dict[int, array[float]] = {}
        self._pipes: dict[Connection, BaseProcess] = {}
        self._workers: list[BaseProcess] = []
        shared = Shared(self._orders, self._counters, self._cpu_s)
        for index in range(load.processes):
            job = Job(load, target.inputs, target.output(), index)
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(job, shared, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes[ours] = process
            self._workers.append(process)

    def __repr__(self) -> str:
        return f"<Generator workers={len(self._workers)} steps={self.steps}>"

    def __enter__(self) -> Self:
        self._await_workers()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        try:
            self.finish()
        except LoadError:
            if kind is None:
                raise

    @property
    def steps(self) -> int:
        """Steps answered so far."""
        return self._sum(STEPS)

    @property
    def failed(self) -> int:
        """Steps refused so far."""
        return self._sum(FAILED)

    @property
    def working(self) -> bool:
        """Workers are still there."""
        return bool(self._pipes)

    def _sum(self, place: int) -> int:
        return sum(self._counters[place::PLACES])

    def _await_workers(self) -> None:
        waiting = set(self._pipes)
        until = time.monotonic() + _READY_S
        try:
            while waiting:
                found = _heard(waiting, until - time.monotonic())
                if not found:
                    raise LoadError("a load process does not start")
                for pipe in found:
                    try:
                        if self._take(pipe.recv()):
                            waiting.discard(pipe)
                    except EOFError:
                        raise LoadError("a load process ended before it began") from None
        except BaseException:
            self._kill()
            raise

    # -- orders -----------------------------------------------------------------------------

    def go(self) -> None:
        """Make load from now on."""
        self._orders[0] = GO

    def hold(self) -> None:
        """Leave the sequences as they are for a while; steps in flight are answered."""
        self._orders[0] = HOLD
        self.pause(2 * TICK_S)

    def finish(self) -> None:
        """End the sequences that are open, and the workers.

        Raises:
            LoadError: A worker broke down, or did not end: what it did cannot be trusted.
        """
        self._orders[0] = FINISH
        until = time.monotonic() + _LEAVE_S
        while self._pipes and time.monotonic() < until:
            self.pause(_POLL_S)
        self._kill()
        broken = [process for process in self._workers if process.exitcode]
        if broken:
            raise LoadError(f"{len(broken)} of {len(self._workers)} load processes broke down")

    def _kill(self) -> None:
        for process in self._workers:
            process.join(timeout=0.2)
            if process.is_alive():
                process.kill()
                process.join()
        self._pipes.clear()

    def pause(self, seconds: float) -> None:
        """Let time pass, listening to the workers."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if not self._pipes:
                time.sleep(left)
                return
            for pipe in _heard(self._pipes, left):
                try:
                    self._take(pipe.recv())
                except EOFError:
                    del self._pipes[pipe]

    def _take(self, report: Report) -> bool:
        if report.latencies:
            self._latencies.setdefault(report.window, array("d")).frombytes(report.latencies)
        self.errors.update(report.errors)
        return report.ready

    # -- measuring -----------------------------------------------------------------------------

    def mark(self) -> Mark:
        """Read all counters, and begin a new window of latencies."""
        counts = self.target.counts()
        threads = cpu.by_thread(self._server)
        self._orders[1] += 1
        return Mark(
            time.perf_counter(),
            self.steps,
            self.failed,
            self._sum(WRONG),
            self._sum(SEQUENCES),
            sum(self._cpu_s),
            cpu.seconds(self._server),
            threads,
            counts,
        )

    def between(self, first: Mark, last: Mark) -> Result:
        """Return what happened between two marks that follow one another."""
        self.pause(3 * TICK_S)  # the workers have sent the window's latencies by then
        return Result.of(
            first, last, self.latencies(), self.errors, measured_cpu=bool(self._server)
        )

    def latencies(self) -> Sequence[float]:
        """Take the latencies collected since the last mark but one."""
        window = self._orders[1] - 1
        found = self._latencies.pop(window, array("d"))
        for old in [number for number in self._latencies if number < window]:
            del self._latencies[old]
        return found

    def recent(self) -> Sequence[float]:
        """Return some of the latencies that came last, for people to look at."""
        return self._latencies.get(self._orders[1], array("d"))[-5000:]

    def measure(self, seconds: float) -> Result:
        """Measure a window of load that is going on already."""
        first = self.mark()
        self.pause(seconds)
        return self.between(first, self.mark())


def _heard(pipes: Iterable[Connection], seconds: float) -> list[Connection]:
    """Wait for something on a pipe; return the pipes that have it."""
    return cast("list[Connection]", wait(list(pipes), max(0.0, seconds)))
