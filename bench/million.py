"""A million live sequences in one process: memory, start after a kill, latency while they return.

``make bench-million`` runs it at full size, ``make bench`` at one that takes a minute. All
sequences are begun by real steps over gRPC. Then the serving process is killed and comes
back by itself; one sequence in a hundred goes on at a steady rate, alone, beside as many
further steps of sequences in memory, and beside sequences that return from the disk and
are parked again. These windows take turns, so that all see the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "bench")]

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable

    from crowd import Crowd, Lane
    from server import Server

MODEL, STATE_BYTES = "accumulator-1k", 1024
ALONE, WARM, RETURNING = "alone", "beside warm steps", "while others return"
KINDS = (ALONE, WARM, RETURNING)
IDLE = 0.6
"""Share of the machine that other work must leave for a window to begin."""


@dataclass(frozen=True)
class Size:
    """How large a run is.

    Attributes:
        sequences: Live sequences.
        resident: ``--max-resident-state``.
        active_rate: Steps a second of the active ones, all together.
        extra_rate: Further steps a second, in the windows that have them.
        rounds: Windows of each kind.
        window_s: Length of a window.
        rush_s: How long the active ones go as fast as they can, at the end.
        patience_s: How long to wait, all windows together, for a machine that is mostly idle.
        ahead: Server and generator go before other work in the windows; takes root.
    """

    sequences: int
    resident: str
    active_rate: float = 2000.0
    extra_rate: float = 500.0
    rounds: int = 5
    window_s: float = 12.0
    rush_s: float = 30.0
    patience_s: float = 60.0
    ahead: bool = False

    @property
    def active(self) -> int:
        """One sequence in a hundred."""
        return self.sequences // 100


FULL = Size(1_000_000, "24M")
SMALL = Size(20_000, "1M", 1000.0, 400.0, rounds=3, window_s=4.0, rush_s=5.0, patience_s=0.0)


def memory_bytes(pid: int) -> int:
    """Return what a process has resident of its own (not shared, not files)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, all threads."""
    from legato.bench import cpu

    return cpu.seconds([pid])


def disk_bytes(folder: Path) -> int:
    """Return what a folder's files take."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def written_bytes(pid: int) -> int:
    """Return what a process has caused to be written to the disk."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    return 0


class Run:
    """One run: its server, its crowd, what was found so far."""

    def __init__(self, size: Size, server: Server, say: Callable[[str], None]) -> None:
        from crowd import Crowd
        from legato.bench.target import Target

        self.size = size
        self.server = server
        self.say = say
        target = Target(server.address, MODEL)
        target.close()
        self.crowd: Crowd = Crowd(MODEL, target.inputs, size.sequences)
        self.found: dict[str, Any] = {"size": asdict(size), "active": size.active}
        self.random = random.Random(7)
        chosen = self.random.sample(range(size.sequences), size.active)
        self.active = chosen
        self.warm = chosen[: max(1, size.active // 4)]

    def note(self, **facts: Any) -> None:
        """Keep figures, and tell them."""
        self.found.update(facts)
        self.say(", ".join(f"{name} {value}" for name, value in facts.items()))

    async def fill(self) -> None:
        """Begin all sequences, each by a step over gRPC."""
        pid, count = self.server.pid, self.size.sequences
        empty, spent, began = memory_bytes(pid), cpu_s(pid), time.perf_counter()
        await self.crowd.rush(self.server.address, range(count))
        seconds = time.perf_counter() - began
        full = memory_bytes(pid)
        self.note(
            fill_s=seconds,
            fill_us=(cpu_s(pid) - spent) / count * 1e6,
            rss_empty=empty,
            rss_full=full,
            bytes_a_sequence=(full - empty) / count,
            disk_full=disk_bytes(self.server.data),
        )

    async def kill(self) -> None:
        """Kill the serving process; wait until it is back and has answered a step."""
        began = time.perf_counter()
        os.kill(self.server.pid, signal.SIGKILL)
        await asyncio.to_thread(self.server.await_ready)
        ready_s, spent_s = time.perf_counter() - began, cpu_s(self.server.pid)
        await self.crowd.rush(self.server.address, [0], streams=1)
        answered_s = time.perf_counter() - began
        self.note(
            kill_to_ready_s=ready_s,
            kill_to_answer_s=answered_s,
            start_cpu_s=spent_s,
            known_after_kill=self.server.ready["store"]["sequences"],
            rss_restarted=memory_bytes(self.server.pid),
        )

    async def take_turns(self) -> list[dict[str, Any]]:
        """Measure windows of all kinds, in turns; return what each showed."""
        from machine import await_idle, prefer

        if self.size.ahead:
            prefer(os.getpid(), self.server.pid)
        began = time.perf_counter()
        await self.crowd.rush(self.server.address, self.active)
        self.note(cold_start_of_active_s=time.perf_counter() - began)
        windows: list[dict[str, Any]] = []
        patience_s = self.size.patience_s
        for _ in range(self.size.rounds):
            for kind in KINDS:
                patience_s -= await asyncio.to_thread(await_idle, IDLE, patience_s)
                windows.append(await self._window(kind))
                self.say(_as_text(windows[-1]))
        self.note(waited_s=self.size.patience_s - patience_s)
        return windows

    async def _window(self, kind: str) -> dict[str, Any]:
        lanes = [_lane(self.size.active_rate, _in_turn(self.active, self.random))]
        count = self.size.sequences
        if kind == WARM:
            lanes.append(_lane(self.size.extra_rate, lambda: self.random.choice(self.warm)))
        elif kind == RETURNING:
            lanes.append(_lane(self.size.extra_rate, lambda: self.random.randrange(count)))
        pid = self.server.pid
        spent = cpu_s(pid)
        late = await self.crowd.keep(self.server.address, lanes, self.size.window_s)
        steps = sum(len(lane.took) for lane in lanes)
        return {
            "kind": kind,
            "us": (cpu_s(pid) - spent) / max(1, steps) * 1e6,
            "active": _spread(lanes[0].took),
            "extra": _spread(lanes[1].took) if lanes[1:] else None,
            "late": _spread(late),
            "curve": _curve(lanes[0], self.size.window_s),
        }

    async def rush(self) -> None:
        """Let the active ones go as fast as they can: old segments fill with dead bytes."""
        pid = self.server.pid
        written, began, before = written_bytes(pid), time.perf_counter(), self.crowd.steps.sum()
        while time.perf_counter() - began < self.size.rush_s:
            await self.crowd.rush(self.server.address, self.active)
        seconds = time.perf_counter() - began
        steps = int(self.crowd.steps.sum() - before)
        await asyncio.sleep(2.0)  # the store tidies up between steps
        self.note(
            rush_steps_per_s=steps / seconds,
            rush_bytes_a_step=(written_bytes(pid) - written) / steps,
            disk_end=disk_bytes(self.server.data),
            rss_end=memory_bytes(pid),
        )


def _lane(rate: float, choose: Callable[[], int]) -> Lane:
    from crowd import Lane

    return Lane(rate, choose)


def _in_turn(indices: list[int], source: random.Random) -> Callable[[], int]:
    order = indices[:]
    source.shuffle(order)
    at = -1

    def choose() -> int:
        nonlocal at
        at = (at + 1) % len(order)
        return order[at]

    return choose


def _spread(seconds: array[float]) -> dict[str, float]:
    from legato.bench.result import percentiles_ms

    return {**percentiles_ms(seconds), "count": len(seconds)}


def _curve(lane: Lane, seconds: float) -> list[list[float]]:
    """Return p50 and p99 in milliseconds of each second of a window."""
    from legato.bench.result import percentiles_ms

    parts = max(1, round(seconds))
    cuts: list[list[float]] = [[] for _ in range(parts)]
    for due, took in zip(lane.due, lane.took, strict=True):
        cuts[min(parts - 1, int(due / seconds * parts))].append(took)
    spreads = [percentiles_ms(cut) for cut in cuts if cut]
    return [[round(spread["p50"], 3), round(spread["p99"], 3)] for spread in spreads]


def _as_text(window: dict[str, Any]) -> str:
    def text(spread: dict[str, float]) -> str:
        return f"p50 {spread['p50']:.2f} p99 {spread['p99']:.2f} max {spread['max']:.1f} ms"

    extra = f"; extra {text(window['extra'])}" if window["extra"] else ""
    late = f"; late {text(window['late'])}"
    return f"{window['kind']:20} {window['us']:.0f} us/step  {text(window['active'])}{extra}{late}"


def summary(windows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the medians over the windows of each kind."""
    found = {}
    for kind in KINDS:
        mine = [window for window in windows if window["kind"] == kind]
        row = {"us": statistics.median([window["us"] for window in mine])}
        for name in ("active", "extra", "late"):
            for figure in ("p50", "p99", "max"):
                values = [window[name][figure] for window in mine if window[name]]
                if values:
                    row[f"{name}_{figure}"] = statistics.median(values)
        seconds = [p99 for window in mine for _p50, p99 in window["curve"]]
        row["active_typical"] = statistics.median(seconds)
        found[kind] = row
    return found


async def perform(size: Size, server: Server, say: Callable[[str], None]) -> dict[str, Any]:
    """Do the whole run on a server that has just started."""
    run = Run(size, server, say)
    await run.fill()
    await run.kill()
    windows = await run.take_turns()
    await run.rush()
    crowd = run.crowd
    run.note(failed=crowd.failed, wrong=crowd.wrong, steps=int(crowd.steps.sum()))
    if crowd.errors:
        say(f"errors: {crowd.errors}")
    return {**run.found, "windows": windows, "summary": summary(windows)}


def measure(size: Size, say: Callable[[str], None]) -> dict[str, Any]:
    """Start a server, do the run, return the figures."""
    import uvloop

    from models import MODELS
    from server import Server

    gc.freeze()
    gc.set_threshold(100_000, 20, 1000)  # a pause here would look like one of the server
    with tempfile.TemporaryDirectory(prefix="legato-bench-models-") as name:
        MODELS[MODEL].install(MODEL, Path(name) / MODEL)
        arguments = ("--store", "log", "--max-resident-state", size.resident)
        with Server(Path(name), arguments) as server:
            return uvloop.run(perform(size, server, say))


def main() -> int:
    """Run, and write the figures into docs; 1 if a step failed or an answer was wrong."""
    import machine
    import report

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--small", action="store_true", help="20,000 sequences, a minute")
    parser.add_argument("--sequences", type=int, help="another number of sequences")
    parser.add_argument(
        "--ahead", action="store_true", help="go before other work on the machine; takes root"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    size = SMALL if options.small else FULL
    if options.sequences:
        size = replace(size, sequences=options.sequences)
    size = replace(size, ahead=options.ahead)
    load = machine.load_average()
    found = measure(size, lambda text: print(text, flush=True))
    found["load"] = f"{load:.1f} before, {machine.load_average():.1f} after"
    for path in report.keep(options.output, {"million": {str(size.sequences): found}}):
        print(f"written: {path}")
    return 1 if found["failed"] or found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
